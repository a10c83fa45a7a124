"""What to measure first, and how much measuring is enough.

Fitting is fit.
"""
