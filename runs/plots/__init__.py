"""Figures of errors, estimates, fusion and sweeps, and the frame of a page.

The report of a run, which places them, is runs/report.py.
"""
