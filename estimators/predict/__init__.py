"""Time and energy of a graph on one machine, with intervals and provenance, and as plain records.

Many graphs or machines are sweep.
"""
