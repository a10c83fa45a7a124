"""Estimates for people and programs: savings, kernel graphs, inspection, advice, generation of tokens.

Nothing here predicts; plots are runs.plots.
"""
