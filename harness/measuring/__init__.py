"""Measuring one case: timing, cache states, allocations, replayed graphs, peak memory.

Ordering and resuming many cases belongs in campaign; observing the machine meanwhile in watch.
"""
