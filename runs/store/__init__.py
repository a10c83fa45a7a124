"""Measured rows: their records, the run directory, and statistics of samples.

Comparing rows with estimates is analysis.
"""
