"""HTML pages of the command line, with their scripts and styles.

The report of a run belongs in runs/report.py.
"""
