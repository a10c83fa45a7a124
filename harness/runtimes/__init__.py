"""The runtimes of a model: torch.compile back-ends, Inductor's kernels, and traces of measured calls.

Timing belongs in measuring.
"""
