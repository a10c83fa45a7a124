"""Tables of operators in CSV files, read into graphs.

Runs that Shmoo measured belong in runs/store.
"""
