"""The pytest plug-in: `shmoo_benchmark` and its runs.

Everything it measures with is measuring.
"""
