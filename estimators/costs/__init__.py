"""The minimal work of each operator, on any machine: ATen name -> pure function from `OpCall` to `Cost`.

Every call is costed, free (`FREE`, and a few operators for some of their calls) or unknown; unknown ones are listed and never
silently counted as 0:

    cost = cost_of(call)            # None when free; family "unknown" when there is no cost function
    costs_of(graph)                 # of each call, views told from copies by the memory that values share
    classify(call)                  # "costed", "free" or "unknown"
    graph_cost(graph).macs          # totals, by family, with the unknown operators

One decorated function, run before the graph is costed, adds a cost for your own operator:

    @register_cost("mylib.gated_linear")
    def gated_linear(call: OpCall) -> Cost:
        m, k = call.operand("x").shape
        n = call.operand("weight").shape[0]
        return bill(call, "gemm", matrix=2 * m * n * k, special=m * n, m=m, n=n, k=k)

`bill` fills in the bytes: each operand read once, each result written once.
"""

from shmoo.estimators.costs import (
    attention,
    backward,
    contractions,
    data_movement,
    linalg,
    pointwise,
    recurrent,
    reductions,
    vision,
)
from shmoo.estimators.costs.base import COSTS, CostFunction, bill
from shmoo.estimators.costs.base import cost as register_cost
from shmoo.estimators.costs.summary import (
    FREE,
    FREE_WHEN,
    MAY_COPY,
    FamilyCost,
    GraphCost,
    UnknownOp,
    classify,
    cost_of,
    costs_of,
    graph_cost,
)

FILLED_BY = (attention, backward, contractions, data_movement, linalg, pointwise, recurrent, reductions, vision)
"""The modules that register costs when they are imported."""

__all__ = [
    "COSTS",
    "FREE",
    "FREE_WHEN",
    "MAY_COPY",
    "CostFunction",
    "FamilyCost",
    "GraphCost",
    "UnknownOp",
    "bill",
    "classify",
    "cost_of",
    "costs_of",
    "graph_cost",
    "register_cost",
]
