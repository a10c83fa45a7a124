"""Held-out errors on whole models: transformers that others measured, never fitted on, captured from their
configs.

Files: `gpu_models.csv`, forward passes in eager PyTorch (NeuSight's measurements: Lee et al., ASPLOS 2025) with what published
predictors gave for them, `model_configs/`, and the operator tables of `gpu`. Each model is captured from its config as it was
measured: in eager execution, attention as separate products and softmax, keys and values kept, no gradients.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np

from shmoo.calibrate.fit.intervals import HeldOut
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph, Interval
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import ArchitectureProfile, Coefficient
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.harness.capture.traced import capture_traced
from shmoo.harness.module import Built
from shmoo.harness.workloads.loading import load_config
from tests.evaluation.allocator import allocation_time
from tests.evaluation.gpu import DEVICES, fit_device, left_out_sigma, published, read_device
from tests.evaluation.results import Kept, Result, of_cases, read_rows, together
from tests.evaluation.transfer import transfer

MODELS = "gpu_models.csv"
FITTED, LEFT_OUT = "fitted to its operators", "left out"
BOUNDS = MappingProxyType({FITTED: 0.08, LEFT_OUT: 0.15})
"""Largest mean error over a device's models: fitted to its operators; from its datasheet and the other devices."""
SPLITS = MappingProxyType({FITTED: "test", LEFT_OUT: "left out"})
"""Where error cards keep them."""
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
    tables = {device: read_device(folder, device) for device in DEVICES}
    fitted = {device: fit_device(table, device) for device, table in tables.items()}
    sigma = {device: left_out_sigma(tables, {d: {d: p} for d, p in fitted.items() if d != device}) for device in DEVICES}
    return compare(rows, graphs_of, fitted, sigma)


def compare(
    rows: Sequence[MeasuredModel],
    graphs_of: GraphsOf,
    fitted: Mapping[str, ArchitectureProfile],
    sigma: Mapping[str, Mapping[str, Coefficient]] = MappingProxyType({}),
) -> list[Result]:
    """`evaluate` on rows already read and profiles already fitted.

    Args:
        sigma: device -> spreads of its intervals when it is left out, as `transfer` takes them.
    """
    captured: dict[tuple[str, str, int, int], Sequence[Graph]] = {}
    for row in rows:
        if row.shape not in captured:
            captured[row.shape] = graphs_of(row)
    estimates: dict[str, list[HeldOut]] = {how: [] for how in BOUNDS}
    results: list[Result] = []
    for device in dict.fromkeys(row.device for row in rows):
        here = [row for row in rows if row.device == device]
        others = [profile for name, profile in fitted.items() if name != device]
        profiles = {LEFT_OUT: transfer(others, published(f"gpu_{device}"), sigma.get(device))}
        if device in fitted:
            profiles = {FITTED: fitted[device]} | profiles
        for how, profile in profiles.items():
            found = held_out_models([captured[row.shape] for row in here], [row.latency_s for row in here], profile)
            estimates[how].append(found)
            kept = Kept(f"gpu_{device}", SPLITS[how], "networks")
            results.append(of_cases(f"{device}, {how}", found.entry(), BOUNDS[how], kept=kept))
            results += [
                Result(f"   {row.model} {row.batch} x {row.seq_len}, signed", 1, float(ratio) - 1.0)
                for row, ratio in zip(here, found.estimated / found.measured, strict=True)
            ]
        for name in PREDICTORS.values():
            given = [abs(row.predicted_s[name] / row.latency_s - 1.0) for row in here if name in row.predicted_s]
            if given:
                results.append(Result(f"{device}, {name}", len(given), float(np.mean(given))))
    return [*results, *(of_cases(f"all devices, {how}", together(parts).entry()) for how, parts in estimates.items() if parts)]


def held_out_models(graphs: Sequence[Sequence[Graph]], measured_s: Sequence[float], profile: ArchitectureProfile) -> HeldOut:
    """What a profile says of models, measured in eager calls that start with an empty allocator."""
    bare = profile.replacing(residual=())
    intervals = [predicted_latency(of_one, profile) for of_one in graphs]
    physical = [predicted_latency(of_one, bare).value for of_one in graphs] if profile.residual else [i.value for i in intervals]
    estimated, low, high = np.asarray([(i.value, i.low, i.high) for i in intervals]).T
    return HeldOut(estimated, low, high, np.asarray(physical), np.asarray(measured_s), np.zeros(len(measured_s)))


def predicted_latency(graphs: Sequence[Graph], profile: ArchitectureProfile) -> Interval:
    """Seconds of an eager call that starts with an empty allocator."""
    director = AnalysisDirector(profile)
    table, origin = director.tabulate(graphs, "eager")
    kernels = [[kernel for of, kernel in origin if of == index] for index in range(len(graphs))]

    def waits(coefficients: Coefficients) -> np.ndarray:
        return np.concatenate([allocation_time(g, k, coefficients) for g, k in zip(graphs, kernels, strict=True)], axis=-1)

    # The pieces of a model are one call.
    whole = replace(table, segment=np.zeros_like(table.segment))
    ((latency, _),) = director.price(whole, "eager", waits=waits, seed=0).intervals()
    return latency


MEASURED_AS = MappingProxyType({"BertLMHeadModel": "BertForSequenceClassification"})
"""Architecture that a config names -> the one that was measured, where that is another."""


def eager_model(path: Path, batch: int, seq_len: int, dtype: str = "float32") -> Built:
    """A transformer as the table measured it, on the meta device: it has shapes and no weights.

    Raises:
        InputError: the config cannot be used.
    """
    if not path.is_file():
        raise InputError(f"no config at {str(path)!r}; DATA_DIR is the folder that holds model_configs")
    settings = json.loads(path.read_text())
    named = settings["architectures"][0]
    settings |= {"architectures": [MEASURED_AS.get(named, named)], "attn_implementation": "eager"}
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / path.name
        changed.write_text(json.dumps(settings))
        built = load_config(str(changed)).build({"batch": batch, "seq_len": seq_len}, dtype, "meta")
    # The library of the time added a mask of ones where it was given none; the present one leaves the addition out.
    tokens = built.kwargs["input_ids"]
    return Built(built.model, (), {**built.kwargs, "attention_mask": tokens.new_ones(tokens.shape)})


def captured(folder: Path) -> Callable[[MeasuredModel], Sequence[Graph]]:
    """The graphs of a measured model, captured from the configs of a folder."""

    def graphs_of(row: MeasuredModel) -> Sequence[Graph]:
        built = eager_model(folder / "model_configs" / f"{row.model}.json", row.batch, row.seq_len, row.dtype)
        return capture_traced(built.model, built.args, built.kwargs, name=row.model).graphs

    return graphs_of
