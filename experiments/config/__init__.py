"""What an experiment runs: typed values, made once from the composed configuration and checked there."""
