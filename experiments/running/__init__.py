"""Runs experiments: draws target tasks, scores them, transfers the source models, writes CSVs."""
