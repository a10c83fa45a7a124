"""Held-out numbers, published profiles and benchmarks of Shmoo itself: `python -m tests.evaluation VERB` in a checkout.

What the product runs does not belong here, and nothing in the product imports it; `docs/evaluation.md` shows the commands.
"""
