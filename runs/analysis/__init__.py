"""Conclusions from runs: errors of estimates, changes between runs, and problems of a run.

Drawing belongs in runs/plots; reading and writing runs in runs/store.
"""
