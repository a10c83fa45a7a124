"""Whole networks as others measured them on GPUs and a CPU, never fitted to: the error by device, type and bound.

Files (their README says how each was measured): `energy_networks.csv`, `fastertransformer_networks.csv` (TorchScript),
`nvidia_dle_convnets.csv`, `hf_torch_compile.csv`, `torchvision_fp16_batch12.csv`, and of `timm_networks.csv` the smallest images
of each network in one version of torch. Only networks that the package builds count. The host of each file is another: they are
predicted with the default one unless another is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from shmoo.calibrate.fit.intervals import HeldOut, conformal_point
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import CONVOLUTIONS, NORMAL_90
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.director import AnalysisDirector, Estimate
from shmoo.estimators.predict.graph_table import tabulate_model
from shmoo.estimators.variants import with_host
from shmoo.harness.cli.verbs.profiles import NETWORKS
from shmoo.harness.machine.architectures import load_architecture
from tests.evaluation.network_graphs import ENCODER, Asked, graphs_of
from tests.evaluation.results import Kept, Result, of_cases, read_rows
from tests.evaluation.transfer import of_the_next

CARDS: Mapping[str, str] = MappingProxyType(
    {
        "a100_pcie_40gb": "gpu_a100_40g",
        "a100": "gpu_a100_80g@power.tdp=400@bandwidth.dram=2.039e12",
        "a100_sxm4_40gb": "gpu_a100_sxm_40g",
        "v100_sxm2_16gb": "gpu_v100_sxm2",
        "v100": "gpu_v100",
        "t4": "gpu_t4",
        "rtx3090": "gpu_rtx3090",
        "rtx4090": "gpu_rtx4090",
        "cpu_i9_10940x": "cpu_i9_10940x",
    }
)
"""Device of the files -> profile; the convolutions of an A100 with 80 GB were fitted on the PCIe card."""
HOST_BOUND, SLOW_HOST = 1.1, "server_2018"
"""A network is called host-bound where beside a slow host it takes more than this times the device's own time."""
TORCH_OF_TIMM = "2.4.0"
OTHERWISE_BUILT = ("vgg11", "vgg13", "vgg13_bn", "vgg16_bn", "vgg19_bn")
"""Networks whose first linear layer timm builds as a convolution; a CPU converts its 411 MB of weights at every call."""


@dataclass(frozen=True, slots=True)
class MeasuredNetwork:
    """One measured forward pass.

    Attributes:
        asked: the network. compute: type that contractions compute in, where it is not the tensors' own; of convolutions alone
            where torch multiplies float32 matrices in float32 (`convolutions_only`).
        clock_hz: at which the board was locked; `None` for its own. ran_at_hz: what its cap left of it, where that was measured.
        extra_s: seconds of the measurement beside the network: the copy of the images to the device.
    """

    table: str
    device: str
    label: str
    asked: Asked
    runtime: str
    latency_s: float
    compute: str | None = None
    clock_hz: float | None = None
    extra_s: float = 0.0
    convolutions_only: bool = False
    ran_at_hz: float | None = None
    energy_j: float | None = None

    @property
    def name(self) -> str:
        """Its group: file, device and type."""
        return f"{self.table}, {self.device}, {self.label}"


def _energy(rows: Iterable[Mapping[str, str]]) -> Iterator[MeasuredNetwork]:
    names = {"bert-large sizes": "bert_large", "opt-1.3b sizes": "opt_1_3b", "torchvision resnet101": "resnet101"}
    for row in rows:
        network = next((name for text, name in names.items() if text in row["model"]), None)
        if network is None or row["device"] not in CARDS:
            continue
        tokens = int(row["seq_len"] or 0)
        asked = Asked(network, row["dtype"], int(row["batch"]), tokens, 0 if tokens else 224)
        # torch multiplies float32 matrices in float32 and convolves in tf32.
        compute = "tf32" if row["dtype"] == "float32" and not tokens else None
        locked, mean = (1e6 * float(row[name]) for name in ("clock_locked_mhz", "clock_mean_mhz"))
        measured = MeasuredNetwork(
            "energy", row["device"], row["dtype"], asked, "eager", float(row["latency_s"]), compute, locked
        )
        yield replace(
            measured,
            convolutions_only=compute is not None,
            ran_at_hz=mean,
            energy_j=float(row["energy_j"]) if row["energy_j"] else None,
        )


def _faster_transformer(rows: Iterable[Mapping[str, str]]) -> Iterator[MeasuredNetwork]:
    for row in rows:
        if row["model"] == "bert_base_encoder" and row["runtime"] == "torchscript":
            tf32 = row["precision"] == "tf32"
            asked = Asked(f"bert_base{ENCODER}", "float32" if tf32 else row["precision"], int(row["batch"]), int(row["seq_len"]))
            latency = float(row["latency_s"])
            yield MeasuredNetwork(
                "bert encoder", row["device"], row["precision"], asked, "eager", latency, "tf32" if tf32 else None
            )


def _nvidia(rows: Iterable[Mapping[str, str]]) -> Iterator[MeasuredNetwork]:
    for row in rows:
        network, precision = row["torchvision_model"], row["precision"]
        if network and row["device"] in CARDS:
            autocast = precision.removeprefix("autocast_") if precision.startswith("autocast") else ""
            tf32 = precision == "tf32"
            pixels = int(row["resolution"] or 224)
            asked = Asked(network, "float32", int(row["batch"]), 0, pixels, autocast, bool(autocast))
            seconds = int(row["batch"]) / float(row["images_per_s"])
            yield MeasuredNetwork(
                "nvidia", row["device"], f"{network} {precision}", asked, "eager", seconds, "tf32" if tf32 else None
            )


def _hugging_face(rows: Iterable[Mapping[str, str]]) -> Iterator[MeasuredNetwork]:
    names = {"facebook/convnext-large-224": ("convnext_large", 224)}
    for row in rows:
        if row["hf_model"] in names and row["runtime"] in ("eager", "inductor") and row["device"] in CARDS:
            network, pixels = names[row["hf_model"]]
            asked = Asked(network, "float32", int(row["batch"]), 0, pixels)
            label = f"{row['runtime']} tf32 convolutions" if row["device"] == "a100" else row["runtime"]
            compute = "tf32" if row["device"] == "a100" else None
            latency = float(row["latency_s"])
            yield MeasuredNetwork(
                "hf", row["device"], label, asked, row["runtime"], latency, compute, convolutions_only=compute is not None
            )


_HOST_COPY = 2.2e9
"""Bytes a second from pageable host memory, staged by the driver. Networks of the file that wait for their host in both types
(squeezenet, shufflenet, mnasnets) take 1.0 to 1.9 ms longer with images of 7.2 MB than with 3.6 MB, 1.6 in the median."""


def _batch_12(rows: Iterable[Mapping[str, str]]) -> Iterator[MeasuredNetwork]:
    for row in rows:
        if row["mode"] == "inference" and row["device"] in CARDS:
            tf32 = row["dtype"].startswith("float32")
            dtype = "float32" if tf32 else row["dtype"]
            asked = Asked(row["torchvision_model"], dtype, int(row["batch"]), 0, int(row["resolution"]))
            copied = 3 * asked.batch * asked.pixels**2 * (4 if tf32 else 2) / _HOST_COPY
            compute = "tf32" if tf32 else None
            latency = float(row["latency_median_s"])
            yield MeasuredNetwork("batch 12", row["device"], row["dtype"], asked, "eager", latency, compute, extra_s=copied)


def _timm(rows: Iterable[Mapping[str, str]]) -> Iterator[MeasuredNetwork]:
    chosen: dict[tuple[str, ...], Mapping[str, str]] = {}
    for row in rows:
        network, cpu = row["torchvision_model"], row["device"].startswith("cpu")
        alike = row["dtype"] == "float32" and network not in OTHERWISE_BUILT if cpu else row["dtype"].startswith("autocast")
        if row["mode"] == "infer" and row["device"] in CARDS and row["torch"] == TORCH_OF_TIMM and alike:
            key = tuple(row[name] for name in ("device", "layout", "runtime", "torchvision_model"))
            if key not in chosen or int(row["img_size"]) < int(chosen[key]["img_size"]):
                chosen[key] = row
    for row in chosen.values():
        autocast = row["dtype"].removeprefix("autocast_") if row["dtype"].startswith("autocast") else ""
        last = row["layout"] == "nhwc"
        asked = Asked(row["torchvision_model"], "float32", int(row["batch"]), 0, int(row["img_size"]), autocast, last)
        label = f"{row['layout']} {row['runtime']}"
        yield MeasuredNetwork("timm", row["device"], label, asked, row["runtime"], float(row["step_s"]))


READERS: Mapping[str, Callable[[Iterable[Mapping[str, str]]], Iterator[MeasuredNetwork]]] = MappingProxyType(
    {
        "energy_networks.csv": _energy,
        "fastertransformer_networks.csv": _faster_transformer,
        "nvidia_dle_convnets.csv": _nvidia,
        "hf_torch_compile.csv": _hugging_face,
        "torchvision_fp16_batch12.csv": _batch_12,
        "timm_networks.csv": _timm,
    }
)
"""File -> its reader."""


def read_networks(folder: Path, files: Sequence[str] = tuple(READERS)) -> list[MeasuredNetwork]:
    """The networks of those of the files that are in a folder.

    Raises:
        InputError: none of them is.
    """
    there = {name: READERS[name] for name in files if (folder / name).is_file()}
    if not there:
        raise InputError(f"{str(folder)!r} holds none of {', '.join(files)}; give the folder of measured networks")
    return [row for name, reader in there.items() for row in reader(read_rows(folder / name))]


def profile_of(row: MeasuredNetwork, host: str | None = None) -> ArchitectureProfile:
    """The profile of a row's card, at the clock it was locked to, beside a named host or its own.

    Raises:
        InputError: the card has no profile.
    """
    profile = load_architecture(CARDS[row.device])
    if row.clock_hz is not None and row.clock_hz < profile.value("clock"):
        profile = load_architecture(f"{CARDS[row.device]}@clock={row.clock_hz:g}")
    return profile if host is None else with_host(profile, host)


def bound_of(row: MeasuredNetwork, profile: ArchitectureProfile, kept: Path) -> str:
    """What bounds a row, "host" or "device"; a CPU is both."""
    if profile.family == "cpu":
        return "device"
    slow = estimated(row, with_host(profile, SLOW_HOST), kept)
    return "host" if slow.latency_s.value > HOST_BOUND * slow.device_s else "device"


def estimated(row: MeasuredNetwork, profile: ArchitectureProfile, kept: Path) -> Estimate:
    """What a profile says of a row."""
    work = tabulate_model(graphs_of(row.asked, kept), row.runtime, profile.family)
    if row.compute is not None:
        only = work.table.is_family(*CONVOLUTIONS) if row.convolutions_only else None
        work = replace(work, table=work.table.computed_in(row.compute, only), compute_dtype=row.compute)
    return AnalysisDirector(profile).estimate_table(work, row.runtime)


def evaluate(
    rows: Sequence[MeasuredNetwork],
    kept: Path,
    tell: Callable[[str], None] = lambda text: None,
    host: str | None = None,
) -> list[Result]:
    """The errors of every group of rows, host-bound and device-bound apart.

    Args:
        kept: folder of captured graphs.
        tell: takes a line for every row as it is estimated.
        host: that launches the kernels; the profiles' own for `None`.
    """
    groups: dict[str, list[tuple[float, ...]]] = {}
    kept_at: dict[str, Kept] = {}
    chips: dict[tuple[str, float, float], list[tuple[float, ...]]] = {}
    for row in rows:
        profile = profile_of(row, host)
        estimate = estimated(row, profile, kept)
        latency = with_copy(estimate, row.extra_s)
        bound = bound_of(row, profile, kept)
        sized = f"{row.asked.network} {row.asked.batch} x {row.asked.tokens or row.asked.pixels}"
        tell(f"{row.name}, {sized}, {bound}: {latency[0] / row.latency_s - 1.0:+.1%}, {row.latency_s * 1e3:.3f} ms")
        own = f"{row.name}, {bound}"
        split = NETWORKS if bound == "device" else f"{NETWORKS}, host-bound"
        kept_at[own] = Kept(profile.name.partition("@")[0], split, f"{row.table}, {row.label}")
        for group in (own, f"{row.table}, all, {bound}", f"all, {bound}"):
            groups.setdefault(group, []).append((*latency, row.latency_s))
        if bound == "device":
            chip = profile.family, profile.value("compute.capability", 0.0), profile.value("count.sms", 0.0)
            chips.setdefault(chip, []).append((*latency, row.latency_s))
    found = [(group, held(numbers)) for group, numbers in sorted(groups.items())]
    found += [
        line for family in ("cpu", "gpu") for line in left_out([of for chip, of in chips.items() if chip[0] == family], family)
    ]
    return [of_cases(group, of.entry(), kept=kept_at.get(group), width=of.width) for group, of in found]


def left_out(chips: Sequence[Sequence[tuple[float, ...]]], family: str) -> Iterator[tuple[str, HeldOut]]:
    """The networks that keep their device busy, with the intervals that those of other chips give them: what `sigma.whole` of a
    family is set from. A chip without others takes each of its networks from the rest."""
    points = [conformal_point(errors_of(of)) for of in chips]
    parts = []
    for i, of in enumerate(chips):
        others = [point for j, point in enumerate(points) if j != i]
        apart = [[one for one in of if one is not network] for network in of]
        if others:
            reach = np.full(len(of), of_the_next(others))
        elif len(of) > 1:
            reach = np.asarray([conformal_point(errors_of(rest)) for rest in apart])
        else:
            continue
        value, _, _, measured = np.asarray(of).T
        parts.append(np.stack([value, value * np.exp(-reach), value * np.exp(reach), measured], axis=1))
    if parts:
        spread = of_the_next(points) / NORMAL_90
        yield f"{family}, {len(chips)} chips, each left out; spread for the next {spread:.3f}", held(np.concatenate(parts))


def errors_of(numbers: Sequence[tuple[float, ...]]) -> np.ndarray:
    """Distances of estimates (value, low, high, measured) from the measurements, as logarithms."""
    value, _, _, measured = np.asarray(numbers).T
    return np.abs(np.log(value / measured))


def with_copy(estimate: Estimate, extra_s: float) -> tuple[float, float, float]:
    """Latency and the ends of its interval with seconds beside the network added."""
    latency = estimate.latency_s
    return latency.value + extra_s, latency.low + extra_s, latency.high + extra_s


def held(numbers: Sequence[tuple[float, ...]]) -> HeldOut:
    """Estimates (value, low, high, measured) as held-out cases."""
    value, low, high, measured = np.asarray(numbers).T
    return HeldOut(value, low, high, value, measured, np.zeros(len(value)))


def shown(results: Sequence[Result]) -> Iterator[str]:
    """The errors as aligned text: mean, median, signed mean, the share of rows inside the 90 % interval, and its width, the high
    end over the low one."""
    width = max(len(result.what) for result in results)
    yield f"{'what':{width}}  {'rows':>4}  {'mean':>7}  {'median':>7}  {'signed':>7}  {'inside':>7}  {'width':>6}"
    for result in results:
        if result.entry is not None:
            shares = (result.entry.mean, result.entry.median, result.entry.bias, result.entry.coverage or 0.0)
            yield (
                f"{result.what:{width}}  {result.cases:>4}"
                + "".join(f"  {share:>7.1%}" for share in shares)
                + f"  {result.width or 1.0:>6.2f}"
            )
