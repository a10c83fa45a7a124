"""One file for each verb of the command line.

Options, output and progress that verbs share are harness.cli.
"""
