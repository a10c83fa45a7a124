"""Estimates for people and programs: savings, kernel graphs, inspection, generation of tokens.

Nothing here predicts; plots are runs.plots.
"""
