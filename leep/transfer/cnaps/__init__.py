"""Conditional Neural Adaptive Processes (Section 5.4): adaptation to a task without gradient steps."""
