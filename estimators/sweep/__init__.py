"""Many estimates: over axes of the workload and of the machine, and the front of a design space.

One estimate is predict.
"""
