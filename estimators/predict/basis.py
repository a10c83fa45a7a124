"""The basis of predicted time: fitted, transferred, looked-up or assumed coefficients."""

from __future__ import annotations

import numpy as np

from shmoo.estimators.graph.dtypes import BITS, COMPUTE_DTYPES
from shmoo.estimators.machine.coefficients import ALGORITHMS, Coefficients, algorithm_codes, algorithm_names
from shmoo.estimators.machine.names import by_runtime, under
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.limits import matrix_peak
from shmoo.estimators.predict.model import Prediction
from shmoo.estimators.table import KernelTable

BASIS = {
    "fitted": "fitted",
    "at bound": "fitted",
    "prior": "fallback",
    "transferred": "transferred",
    "datasheet": "datasheet",
    "literature": "datasheet",
    "simulated": "simulated",
    "fallback": "fallback",
}
"""Source of a coefficient -> its share in `Estimate.basis`. Published numbers of existing machines count as datasheet, those of
simulated machines as simulated. A value at its bound counts as fitted: the held-out errors of the fit cover it."""
_TRUST = ("fallback", "simulated", "datasheet", "transferred", "fitted")


def time_basis(table: KernelTable, prediction: Prediction, c: Coefficients, runtime: str) -> dict[str, np.ndarray]:
    """Share of predicted time, a number or an array over design points, by the least trusted coefficient it rests on.
    Coefficients fitted in one type and used for another count as transferred, except those of the host, which have no type."""
    codes = algorithm_codes(table, c.profile)
    launch, compute = np.empty(len(table), dtype=int), np.empty(len(table), dtype=int)
    memory = np.empty(len(table), dtype=int)
    peak = max((_trust(c.source(name)) for name in under("peak", c.profile.coefficients)), default=0)
    bandwidth = _trust(c.source(f"bandwidth.{c.profile.main_memory}"))
    for code in np.unique(codes):
        rows = codes == code
        algorithm = ALGORITHMS[code]
        launch[rows] = _trust(c.source(*algorithm_names(by_runtime("launch", runtime), algorithm)))
        stem = "efficiency" if table.matrix_flops[rows].any() else "efficiency.vector"
        compute[rows] = _joint_trust(_trust(c.source(*algorithm_names((stem,), algorithm))), peak)
        memory[rows] = _joint_trust(_trust(c.source(*algorithm_names(("efficiency.bandwidth",), algorithm))), bandwidth)
    elsewhere = ~in_measured_type(table, c.profile)
    for trust in (compute, memory):
        trust[elsewhere] = np.minimum(trust[elsewhere], _TRUST.index("transferred"))
    body = np.where(prediction.compute_s >= prediction.memory_s, compute, memory)
    total = (prediction.launch_s + prediction.device_s).sum(axis=-1)
    shares = {}
    for name in reversed(_TRUST):
        level = _TRUST.index(name)
        time = np.where(launch == level, prediction.launch_s, 0.0) + np.where(body == level, prediction.device_s, 0.0)
        shares[name] = time.sum(axis=-1) / total
    return shares


def in_measured_type(table: KernelTable, profile: ArchitectureProfile) -> np.ndarray:
    """(K,) kernels in a type that was measured on the machine, or in one as wide and multiplied as fast; all of them where
    nothing was fitted."""
    if profile.fitted_from is None:
        return np.ones(len(table), dtype=bool)
    c = Coefficients(profile)
    kinds = {name: (BITS[name], matrix_peak(c, name)) for name in COMPUTE_DTYPES}
    measured_kinds = [kinds[name] for name in profile.fitted_from.dtypes if name in kinds]
    is_measured = [any(bits == b and np.all(peak == p) for b, p in measured_kinds) for bits, peak in kinds.values()]
    return np.asarray(is_measured)[table.dtype]


def _joint_trust(share: int, rate: int) -> int:
    """Trust in the product of a share and a rate. A fit of one uses the present value of the other, so a product with a fitted
    factor counts as fitted; a simulated rate makes the product simulated; otherwise the weaker counts."""
    strongest = max(share, rate)
    if _TRUST[strongest] in ("fitted", "transferred"):
        return strongest
    return rate if _TRUST[rate] == "simulated" else min(share, rate)


def _trust(source: str) -> int:
    return _TRUST.index(BASIS[source])
