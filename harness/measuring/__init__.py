"""Timing one case: samples, cache states, allocations, replayed graphs, peak memory. Many cases are campaign."""
