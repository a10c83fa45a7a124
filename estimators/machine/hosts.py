"""Hosts: a host (`launch.<runtime>`) and its framework (`dispatch.<runtime>.<operator>`) launch kernels, whatever device runs
them. A measured profile holds the launches of its own host; a named host replaces all of them (`Entry.of_host`), so that a card
measured beside an old server does not inherit its launches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from shmoo.estimators.errors import unknown
from shmoo.estimators.graph.records import Coefficient, Source

OWN_HOST = "own"
"""Displayed name of the host that a profile was measured beside."""


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that launches kernels.

    Attributes:
        source: origin of its numbers; kind: their `Coefficient.source`.
        seconds: coefficient -> seconds with their 90 % range; frozen code launches like other compiled code.
    """

    description: str
    source: str
    seconds: Mapping[str, tuple[float, float, float]]
    kind: Source = "literature"

    @property
    def coefficients(self) -> dict[str, Coefficient]:
        """Its launches as a profile would hold them."""
        frozen = {f"{name}-freezing": seconds for name, seconds in self.seconds.items() if name.endswith(".inductor")}
        return {
            name: Coefficient(value, "s", self.kind, self.source, low=low, high=high)
            for name, (value, low, high) in {**self.seconds, **frozen}.items()
        } | dict(FRAMEWORK)


def _relative(value: float, reference: str) -> Coefficient:
    return Coefficient(value, "1", "literature", reference)


_PATHS = "relative launch times of operators called one by one in eager PyTorch 2.11 (runs/recorded/h200), medians"
_EXTERN = "compiled code calls the framework's own operator, which takes as long as in eager execution (runs/recorded/h200)"
FRAMEWORK: Mapping[str, Coefficient] = MappingProxyType(
    {
        "dispatch.eager.gemm": _relative(1.6, _PATHS),
        "dispatch.eager.linear": _relative(2.3, f"{_PATHS}: a product with a bias, its epilogue and its workspace"),
        "dispatch.eager.softmax": _relative(1.05, _PATHS),
        "dispatch.eager.pooling": _relative(1.15, _PATHS),
        "dispatch.eager.gather": _relative(1.6, _PATHS),
        "dispatch.eager.normalization": _relative(2.2, _PATHS),
        "dispatch.eager.batch_norm": _relative(3.8, f"{_PATHS}: operators written in Python and C++ around the library's"),
        "dispatch.eager.group_norm": _relative(3.9, f"{_PATHS}: three kernels and their workspace"),
        "dispatch.eager.attention": _relative(2.8, f"{_PATHS}: choice of a kernel, and its workspace"),
        "dispatch.eager.conv": _relative(2.2, f"{_PATHS}: cuDNN's choice of an algorithm and its workspace"),
        "dispatch.eager.depthwise": _relative(2.0, _PATHS),
        "dispatch.eager.conv_transpose": _relative(4.0, f"{_PATHS}: as of a convolution, and the result cleared first"),
        "dispatch.eager.embedding": _relative(2.0, _PATHS),
        "dispatch.eager.lstm": _relative(6.0, f"{_PATHS}: weights gathered, descriptors made"),
        "dispatch.eager.gru": _relative(6.0, f"{_PATHS}: weights gathered, descriptors made"),
        "dispatch.inductor.gemm": _relative(2.5, _EXTERN),
        "dispatch.inductor.conv": _relative(4.0, _EXTERN),
        "dispatch.inductor.depthwise": _relative(3.5, _EXTERN),
        "dispatch.inductor.attention": _relative(4.0, _EXTERN),
        "launch_tail": _relative(
            0.95, "calls follow each other without waiting: the host's time of one passes beside the device"
        ),
    }
)
"""Coefficients of the framework: an operator's path through it, relative to a loop over elements, and the overlap of calls."""

UNKNOWN_PACE = (0.8, 3.0)
"""90 % range of what an unknown host takes, relative to a server of 2025. Medians of published networks that wait for their host:
BERT's encoder in TorchScript beside an EPYC 7742 of 2019, which runs without Python, 0.9; eager transformers on H100 servers 1.0;
the host beside an H200 1.2; torchvision's networks in PyTorch 1.7 on A100s 1.6; eager transformers on an A100 1.7; ConvNeXt in
PyTorch 2.0 on an A100 2.2; TorchScript beside a Xeon E5-2670 of 2012, 2.3; ResNet-50 with its images decoded beside it, PyTorch
1.9, Xeon E5-2698 v4 of 2016, 3.0. The range lies between the 5 and 95 % points of their rows with equal weights for the sources
(0.9 and 3.05) and the same points predicted for another source (0.72 and 3.6: Student's law with the mean 0.47 and the standard
deviation 0.40 of the logarithms)."""
CLASS_PACE = (0.65, 1.6)
"""90 % range within one generation of servers, by the spread of the same networks: clocks, cores' neighbors and frameworks."""


def _with_range(low: float, high: float, seconds: Mapping[str, float]) -> dict[str, tuple[float, float, float]]:
    """Times with one 90 % range, given as factors: a host is fast or slow in all its work."""
    return {name: (value, value * low, value * high) for name, value in seconds.items()}


_HOSTS: dict[str, Host] = {
    "server_h200": Host(
        "virtual machine of 2025 with 16 cores of a Sapphire Rapids Xeon and an H200, PyTorch 2.11",
        "host times of single calls in eager PyTorch 2.11, medians of their kinds (runs/recorded/h200)",
        {
            **{"launch.eager": (8e-6, 6.5e-6, 13e-6), "launch.inductor": (7e-6, 5e-6, 11e-6)},
            **{"graph.eager": (10e-6, 4e-6, 30e-6), "graph.inductor": (60e-6, 20e-6, 150e-6)},
            **{"view.eager": (3e-6, 1.5e-6, 6e-6), "switch.eager": (5e-6, 3e-6, 8e-6)},
        },
        "fitted",
    ),
    "server_2025": Host(
        "server of 2023 to 2025 (Sapphire Rapids, Genoa), PyTorch 2.x; its range holds what servers since 2012 take",
        "between eager transformers on H100 servers of 2025, which take 18 us of host time a kernel, views and Python "
        "included, and the host measured beside an H200 (server_h200), 22; a launch by the driver alone takes 5 to 6 us. Seven "
        "published collections of networks that wait for their host take 0.9 to 3.0 times as long (`UNKNOWN_PACE`)",
        _with_range(
            *UNKNOWN_PACE,
            {
                **{"launch.eager": 7.5e-6, "launch.inductor": 6e-6, "graph.eager": 30e-6, "graph.inductor": 60e-6},
                **{"view.eager": 3e-6, "switch.eager": 4e-6},
            },
        ),
    ),
    "server_2020": Host(
        "server of 2019 to 2022 (EPYC Rome, Ice Lake), PyTorch 1.7 to 2.0",
        "networks whose kernels wait for the host on A100 servers, in eager PyTorch 1.7 to 2.0: 30 to 45 us a kernel",
        _with_range(
            *CLASS_PACE,
            {
                **{"launch.eager": 14e-6, "launch.inductor": 10e-6, "graph.eager": 50e-6, "graph.inductor": 100e-6},
                **{"view.eager": 4e-6, "switch.eager": 5e-6},
            },
        ),
    ),
    "server_2018": Host(
        "server of 2012 to 2019 (Sandy Bridge to Skylake), PyTorch 1.x",
        "networks whose kernels wait for the host beside V100s (DGX-1, Xeon E5-2698 v4) and T4s (Xeon E5-2670): ResNet-50 takes "
        "10 ms, BERT's encoder 10.5",
        _with_range(
            *CLASS_PACE,
            {
                **{"launch.eager": 22.5e-6, "launch.inductor": 17e-6, "graph.eager": 80e-6, "graph.inductor": 150e-6},
                **{"view.eager": 6e-6, "switch.eager": 8e-6},
            },
        ),
    ),
}
HOSTS: Mapping[str, Host] = MappingProxyType(_HOSTS)
"""Name -> host. One `FRAMEWORK` serves all."""


def register_host(name: str, host: Host) -> None:
    """Add a host to the catalogue, such as the one that was measured on this machine, or replace it."""
    _HOSTS[name] = host


def check_host(name: str) -> str:
    """The name as profiles hold it: "" for `OWN_HOST`; `InputError` for an unknown one."""
    if name in ("", OWN_HOST):
        return ""
    if name not in HOSTS:
        raise unknown("host", name, (OWN_HOST, *HOSTS))
    return name
