"""Figures of errors, estimates, fusion and sweeps.

The page that holds them is runs.report.
"""
