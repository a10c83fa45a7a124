"""One row of expected numbers for each operator that has a cost."""

from cost_rows import attention, contractions, convolutions, data_movement, linalg, pointwise, reductions
from cost_rows.build import ROWS, Row, op_call

FILLED_BY = (attention, contractions, convolutions, data_movement, linalg, pointwise, reductions)

__all__ = ["ROWS", "Row", "op_call"]
