"""Many estimates: over axes of the workload and of the machine.

One estimate is predict.
"""
