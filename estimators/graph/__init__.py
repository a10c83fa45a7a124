"""What a model does: tensors, operator calls and the graphs that hold them.

Costs, fusion and machines are elsewhere.
"""
