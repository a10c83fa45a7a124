"""Measured rows and operator tables, their comparison with estimates, and the plots and pages that show both.

Fitting coefficients to rows belongs in calibrate; measuring belongs in harness.
"""
