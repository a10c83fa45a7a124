"""Tiles of GPUs: thread blocks, the library's choices, tensor cores, Winograd.

Other machines are tiling.
"""
