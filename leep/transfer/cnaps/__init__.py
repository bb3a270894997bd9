"""Conditional Neural Adaptive Processes (Section 5.4): adaptation to a task without gradient steps."""

from leep.transfer.cnaps.method import CnapsMethod

__all__ = ["CnapsMethod"]
