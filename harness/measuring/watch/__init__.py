"""Observing the cores, the host and the GPU during a timing, and the reasons to doubt a timing that follow.

Timing itself belongs in measuring.
"""
