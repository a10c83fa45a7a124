"""One file for each verb of the command line, named after it.

Options, output and progress that verbs share belong in harness/cli; the work of a verb in the rooms above.
"""
