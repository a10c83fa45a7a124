"""The pytest plug-in: the fixture `shmoo_benchmark`, the runs of a session, and their comparison.

Timing itself belongs in measuring; comparing runs in runs/analysis.
"""
