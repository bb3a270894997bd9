"""What several test modules use, and what worker processes import."""
