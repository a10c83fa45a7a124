"""Held-out errors on whole models: transformers that others measured, never fitted on, captured from their
configs.

Files: `gpu_models.csv`, forward passes in eager PyTorch (NeuSight's measurements: Lee et al., ASPLOS 2025) with what published
predictors gave for them, and the operator tables of `evaluate_gpu`. Capturing needs torch, which this room does without, so the
graphs are handed in; `python -m shmoo.harness.evaluate_models DATA_DIR` is the command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from shmoo.calibrate.evaluate import Result, read_rows
from shmoo.calibrate.evaluate_gpu import DEVICES, fit_device, published, read_device
from shmoo.calibrate.transfer import transfer
from shmoo.estimators.allocator import allocation_time
from shmoo.estimators.coefficients import Coefficients
from shmoo.estimators.director import AnalysisDirector
from shmoo.estimators.model import graph_latency, predict
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.estimators.records import Graph

MODELS = "gpu_models.csv"
FITTED, LEFT_OUT = 0.08, 0.15
"""Bounds on a device's mean error: fitted to its operators; from its datasheet and the other devices."""
ROUTED = "switch"
"""Models of this name route tokens by their values: what they compute does not follow from their shapes."""
PREDICTORS = {"neusight": "NeuSight", "habitat": "Habitat", "roofline": "roofline", "micro": "micro"}
"""Column `pred_<name>` -> name for people."""


class MeasuredModel(msgspec.Struct, frozen=True):
    """One measured forward pass.

    Attributes:
        model: name of its config.
        predicted_s: seconds that published predictors gave, by their name, where they gave any.
    """

    device: str
    model: str
    dtype: str
    batch: int
    seq_len: int
    latency_s: float
    predicted_s: dict[str, float]

    @property
    def shape(self) -> tuple[str, str, int, int]:
        """What its graphs depend on."""
        return self.model, self.dtype, self.batch, self.seq_len


GraphsOf = Callable[[MeasuredModel], Sequence[Graph]]


def read_models(path: Path) -> list[MeasuredModel]:
    """The eager rows of a table of models, without those that route by values.

    Raises:
        InputError: no such file.
    """
    return [
        MeasuredModel(
            row["device"],
            row["model"],
            row["dtype"],
            int(row["batch"]),
            int(row["seq_len"]),
            float(row["latency_s"]),
            {name: float(row[f"pred_{key}"]) for key, name in PREDICTORS.items() if row.get(f"pred_{key}")},
        )
        for row in read_rows(path)
        if row["mode"] == "eager" and not row["model"].startswith(ROUTED)
    ]


def evaluate(folder: Path, graphs_of: GraphsOf) -> list[Result]:
    """Errors by device, fitted to its own operators and left out, with every row and the published predictors beside them.

    Args:
        graphs_of: captures a model with attention as separate products and softmax, as it was measured.

    Raises:
        InputError: a table is missing, or a device of the table has no profile.
    """
    rows = read_models(folder / MODELS)
    return compare(rows, graphs_of, {device: fit_device(read_device(folder, device), device) for device in DEVICES})


def compare(rows: Sequence[MeasuredModel], graphs_of: GraphsOf, fitted: Mapping[str, ArchitectureProfile]) -> list[Result]:
    """`evaluate` on rows already read and profiles already fitted."""
    captured: dict[tuple[str, str, int, int], Sequence[Graph]] = {}
    for row in rows:
        if row.shape not in captured:
            captured[row.shape] = graphs_of(row)
    results: list[Result] = []
    for device in dict.fromkeys(row.device for row in rows):
        here = [row for row in rows if row.device == device]

        def ratios(profile: ArchitectureProfile, rows: Sequence[MeasuredModel] = here) -> list[float]:
            return [predicted_latency(captured[row.shape], profile) / row.latency_s for row in rows]

        if device in fitted:
            results += _report(f"{device}, fitted to its operators", here, ratios(fitted[device]), FITTED)
        others = [profile for name, profile in fitted.items() if name != device]
        results += _report(f"{device}, left out", here, ratios(transfer(others, published(f"gpu_{device}"))), LEFT_OUT)
        for name in PREDICTORS.values():
            given = [row.predicted_s[name] / row.latency_s for row in here if name in row.predicted_s]
            if given:
                results.append(Result(f"{device}, {name}", len(given), _mean_error(given)))
    return results


def predicted_latency(graphs: Sequence[Graph], profile: ArchitectureProfile) -> float:
    """Seconds of an eager call that starts with an empty allocator."""
    director, coefficients = AnalysisDirector(profile), Coefficients(profile)
    total = 0.0
    for graph in graphs:
        table, origin = director.tabulate([graph], "eager")
        if not len(table):
            continue
        tiling = director.tile(table)
        prediction = director.correct(table, tiling, "eager").applied(predict(table, tiling, coefficients, "eager"))
        waits = allocation_time(graph, [kernel for _, kernel in origin], coefficients)
        total += float(graph_latency(table, prediction, coefficients, "eager", waits).sum())
    return total


def _report(what: str, rows: Sequence[MeasuredModel], ratios: Sequence[float], bound: float) -> list[Result]:
    """The mean error, and below it the signed error of every row."""
    each = [
        Result(f"   {row.model} {row.batch} x {row.seq_len}, signed", 1, ratio - 1.0)
        for row, ratio in zip(rows, ratios, strict=True)
    ]
    return [Result(what, len(rows), _mean_error(ratios), bound), *each]


def _mean_error(ratios: Sequence[float]) -> float:
    return float(np.abs(np.asarray(ratios) - 1.0).mean())
