"""What lives in memory, when and where: peaks, workspaces, caches and the heap.

Measuring memory is harness.measuring.
"""
