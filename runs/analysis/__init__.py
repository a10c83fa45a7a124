"""What runs say: errors of estimates, changes between runs, and what is wrong with a run.

Drawing is plots.
"""
