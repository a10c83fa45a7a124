"""HTML pages of the command line, with their scripts and styles.

The report of a run is runs.report.
"""
