"""From rows to fitted coefficients with standard errors, residuals and intervals.

Choosing what to measure is design.
"""
