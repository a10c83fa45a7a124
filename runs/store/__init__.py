"""Measured rows: their records, the run directory, and statistics of samples and visits.

Comparing rows with estimates belongs in runs/analysis.
"""
