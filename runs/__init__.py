"""Rows that were measured and tables of operators, their comparison with estimates, and how both are shown.

Fitting is calibrate.
"""
