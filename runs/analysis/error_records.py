"""Records of an error report: cases and calls, measured and estimated, and the excluded cases."""

from __future__ import annotations

from statistics import median

import msgspec

from shmoo.estimators.graph.records import Interval
from shmoo.estimators.machine.profile import ArchitectureProfile, ErrorCardEntry
from shmoo.runs.store.records import CaseSpec, RunManifest

SHIFT, SHIFT_SHARE, SHIFT_CASES = 1.2, 2 / 3, 20
"""A profile no longer describes a machine if the median case differs by this factor, this share of the cases deviates to the same
side, and there are this many cases. Successive ten-minute campaigns on one virtual machine gave 0.91 to 1.09; campaigns in hours
when its two cores ran at half speed gave 1.5 to 1.7, with 74 to 86 % of the cases on one side."""
FREE = "free"
"""Family of calls without a kernel (views), on which only the framework spends time."""


class CaseError(msgspec.Struct, frozen=True):
    """One case, measured and estimated.

    Attributes:
        family: operator family with the most estimated time.
        group: its group in error statistics: the family, "synthetic" or "networks", separate for compiled runtimes.
        status: "ok" or "noisy".
        measured_s: time of a call on the machine as it is. standard_error: relative standard error of that time.
        alone_s: time of a call while nothing else runs; `None` where too few blocks ran undisturbed.
        spread: (largest - smallest) / smallest over its visits; `None` with a single visit.
        energy_measured_j: of the package on a CPU, of the card on a GPU; `None` where it was not read.
    """

    case: CaseSpec
    family: str
    group: str
    split: str
    status: str
    measured_s: float
    standard_error: float
    alone_s: float | None
    estimate_s: Interval
    samples: int
    visits: int
    spread: float | None
    flops: float
    bytes: float
    tiles: float
    energy_measured_j: float | None
    energy_estimate_j: Interval | None

    @property
    def error(self) -> float:
        """Signed (estimated - measured) / measured."""
        return (self.estimate_s.value - self.measured_s) / self.measured_s

    @property
    def inside(self) -> bool:
        """Whether the measurement lies in the 90 % interval."""
        return self.estimate_s.low <= self.measured_s <= self.estimate_s.high

    @property
    def energy_error(self) -> float | None:
        """Signed relative error of the energy; `None` where it was not read or is not estimated."""
        if self.energy_measured_j is None or self.energy_estimate_j is None:
            return None
        return (self.energy_estimate_j.value - self.energy_measured_j) / self.energy_measured_j


class CallError(msgspec.Struct, frozen=True):
    """One kernel of a network: measured and estimated time inside its calls; `share` is relative to all measured child time."""

    network: str
    calls: tuple[int, ...]
    operator: str
    module: str
    family: str
    measured_s: float
    estimated_s: float
    share: float

    @property
    def error(self) -> float | None:
        """Signed relative error; `None` where the measured time is 0."""
        return (self.estimated_s - self.measured_s) / self.measured_s if self.measured_s > 0 else None


class NetworkError(msgspec.Struct, frozen=True):
    """A network with its calls.

    Attributes:
        calls: empty where no per-operator times were measured.
        children_s: sum of the measured child times; it differs from `whole.measured_s` because calls were timed separately.
        operators_s: sum over the distinct operators of their time alone times their number of calls.
        weighted_error: per-operator error weighted by time; where it is well above the network's own error, errors cancel.
    """

    whole: CaseError
    calls: tuple[CallError, ...] = ()
    children_s: float | None = None
    weighted_error: float | None = None
    operators_s: float | None = None

    @property
    def name(self) -> str:
        """The network's name with its batch and types."""
        return network_name(self.whole.case)


class Excluded(msgspec.Struct, frozen=True):
    """A case left out of all figures, and the reason."""

    case: CaseSpec
    status: str
    reason: str


class ErrorReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `errors.csv` and `report.html` show.

    Attributes:
        metrics: split ("fit", "validation", "test") -> group -> errors. Networks are always in "test"; the group "operators"
            holds the eager operators of all families together.
        problems: messages about data that were ignored while reading the run.
    """

    manifest: RunManifest
    profile: ArchitectureProfile
    cases: tuple[CaseError, ...]
    networks: tuple[NetworkError, ...]
    excluded: tuple[Excluded, ...]
    metrics: dict[str, dict[str, ErrorCardEntry]]
    problems: tuple[str, ...] = ()

    @property
    def network_card(self) -> ErrorCardEntry | None:
        """Errors over the eager networks."""
        return self.metrics.get("test", {}).get("networks")

    @property
    def median_ratio(self) -> float:
        """Median over cases of measured over estimated time."""
        return median(case.measured_s / case.estimate_s.value for case in self.cases)

    @property
    def shifted(self) -> bool:
        """Whether the cases together show that the machine ran at another speed than the profile's."""
        ratio = self.median_ratio
        same_side = sum((case.measured_s > case.estimate_s.value) == (ratio > 1) for case in self.cases) / len(self.cases)
        return len(self.cases) >= SHIFT_CASES and max(ratio, 1 / ratio) > SHIFT and same_side > SHIFT_SHARE


def network_name(case: CaseSpec) -> str:
    """A network's name for people, with every setting that is not the default."""
    batch = case.axes.get("batch", 1)
    parts = [
        case.workload,
        f"batch {batch}" if batch != 1 else "",
        case.dtype if case.dtype != "float32" else "",
        case.runtime if case.runtime != "eager" else "",
        f"{case.threads} threads" if case.threads is not None else "",
        *(f"{name} {value}" for name, value in case.axes.items() if name != "batch"),
    ]
    return " · ".join(filter(None, parts))
