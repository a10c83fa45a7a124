"""One row of expected numbers for each operator that has a cost."""

from tests.estimators.costs.cost_rows import (
    attention,
    backward,
    contractions,
    convolutions,
    data_movement,
    linalg,
    pointwise,
    quantized,
    reductions,
    signal,
    vision,
)
from tests.estimators.costs.cost_rows.build import ROWS, Row, op_call

FILLED_BY = (
    attention,
    backward,
    contractions,
    convolutions,
    data_movement,
    linalg,
    pointwise,
    quantized,
    reductions,
    signal,
    vision,
)

__all__ = ["ROWS", "Row", "op_call"]
