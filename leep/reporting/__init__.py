"""The answer of `leep rank`: on the terminal, as CSV and JSON, and as one self-contained page."""
