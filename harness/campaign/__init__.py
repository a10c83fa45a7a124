"""Campaigns over many cases: which cases, in what order, in which worker processes, resumed after interruptions; duels.

Measuring one case belongs in measuring; many machines in fleet.
"""
