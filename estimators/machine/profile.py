"""ArchitectureProfile: one machine as named coefficients (`catalogue.py`), each with a value, a unit, an uncertainty and a
source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec

from shmoo.estimators.errors import FormatError, InputError, unknown
from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.graph.records import RUNTIMES as RUNTIMES
from shmoo.estimators.graph.records import UNREADABLE, decode_versioned
from shmoo.estimators.graph.records import Coefficient as Coefficient
from shmoo.estimators.machine.catalogue import DEFAULTS, TYPICAL, entry
from shmoo.estimators.machine.hosts import HOSTS
from shmoo.estimators.machine.inheritance import ecc_share, scale_with_counts, transfer
from shmoo.estimators.machine.names import continues, under
from shmoo.estimators.machine.validation import first_problem, first_wrong_key, is_valid_name

PROFILE_FORMAT = 2
"""Version of the profile file. 1: first. 2: the sources "at bound" and "prior"; what a prior held was "fallback" before, and said
so at the head of its reference."""
MODEL_FORM = 5
"""Version of the equations (`model.py`) that coefficients belong to. 1: first. 2: blocks of GPU libraries, power as a roof,
mapped memory from a simulated heap, conversions of compiled code. 3: compiled loops on a CPU, main memory alike for all loops,
kernels of tensor cores, warmth at a power cap. 4: on GPUs, one set of joules prices energy and meets the power cap. 5: on CPUs,
all cores touch memory and convert layouts together, and threads are joined; on GPUs, loops by the instructions they issue."""
_OLDEST_FORM: Mapping[str, int] = {"cpu": 3, "gpu": 5, "tpu": 3, "kpu": 3}
"""Family -> the oldest form whose coefficients are known in the newest."""

Family = Literal["cpu", "gpu", "tpu", "kpu"]
Reduction = Literal["k", "n"]
"""Column of operator tables that holds the reduction of matrix products."""
DEFAULT_RUNTIME = {"cpu": "inductor", "gpu": "inductor", "tpu": "xla", "kpu": "domainflow"}
BUILTIN_DIR = Path(__file__).parent / "profiles"


class TilingSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which registered tiling strategy the machine uses, and its parameters (fixed tile sizes, modes)."""

    strategy: str
    parameters: dict[str, float | int | str | bool | list[int]] = {}


class FittedFrom(msgspec.Struct, frozen=True, omit_defaults=True):
    """The source of fitted coefficients. `dtypes` are the compute types of the measured kernels, float32 where a file does not
    say."""

    rows_hash: str = ""
    sources: tuple[str, ...] = ()
    fingerprint: dict[str, str | int | float | None] = {}
    seed: int | None = None
    dtypes: tuple[str, ...] = ("float32",)


class ErrorCardEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """Errors |estimated - measured| / measured of a group of cases, as fractions; `bias` is the mean signed error, `coverage` the
    share of measurements inside the 90 % interval; `physics` the mean without the residual, where the group has one; `noise` the
    median relative standard error of the measurements, below which no estimate can be seen to be better."""

    n: int
    mean: float
    median: float
    p90: float
    within_10: float
    within_20: float
    bias: float
    coverage: float | None = None
    physics: float | None = None
    noise: float | None = None


class ResidualTree(msgspec.Struct, frozen=True, array_like=True):
    """One symmetric tree of L levels: level l asks whether feature `features[l]` is above `thresholds[l]`. The answers, first
    level first, are the binary digits of the result's place in `values` (2^L)."""

    features: tuple[int, ...]
    thresholds: tuple[float, ...]
    values: tuple[float, ...]


class ResidualGroup(msgspec.Struct, frozen=True, omit_defaults=True):
    """A correction of one group of kernels on the machine that was measured; `residual.py` has its equation.

    Attributes:
        group: key of `residual.GROUPS`. dtype, runtime: of the kernels it was fitted to.
        features: names of the d features. low, high: (d,) range of their base-2 logarithms among the measured kernels.
        trees: their results add up to log(measured / physical).
        spread: standard deviation of the log error of held-out cases, corrected.
        cases: number of cases it was fitted to.
    """

    group: str
    dtype: str
    runtime: str
    features: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    trees: tuple[ResidualTree, ...]
    spread: float
    cases: int

    @property
    def is_consistent(self) -> bool:
        """Whether the arrays fit together."""
        d, levels = len(self.features), len(self.trees[0].features) if self.trees else 0
        sizes = {(len(tree.features), len(tree.thresholds), len(tree.values)) for tree in self.trees}
        named = all(0 <= feature < d for tree in self.trees for feature in tree.features)
        return named and len(self.low) == len(self.high) == d and sizes == {(levels, levels, 2**levels)}


class ArchitectureProfile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """One machine.

    Attributes:
        family: decides the default runtime; `tiling` names the strategy.
        levels: memory levels, nearest to the units first; the last is the main memory.
        host: name in `hosts.HOSTS` of the machine that launches kernels; "" for the one that the device was measured beside,
            whose launches are among the coefficients.
        illustrative: whether the numbers are made up to explain, and exempt from plausibility checks.
        error_card: split ("validation", "test", or another way of holding cases out: "left out") -> group (operator family,
            "networks", operator) -> errors.
        residual: corrections of the physical model, for the measured machine only; () for none.
        table_reduction: column that holds the reduction of matrix products in the operator tables that the coefficients come
            from; tables are read in the same way when this profile estimates them.
    """

    name: str
    family: Family
    description: str
    host: str = ""
    levels: tuple[str, ...]
    tiling: TilingSpec
    coefficients: dict[str, Coefficient]
    illustrative: bool = False
    fitted_from: FittedFrom | None = None
    error_card: dict[str, dict[str, ErrorCardEntry]] = {}
    residual: tuple[ResidualGroup, ...] = ()
    table_reduction: Reduction = "k"
    # A factory, because omit_defaults would leave a plain default out of the file.
    format: int = msgspec.field(default_factory=lambda: PROFILE_FORMAT)
    model_form: int = msgspec.field(default_factory=lambda: MODEL_FORM)

    def get(self, name: str) -> Coefficient | None:
        """The coefficient of a name, or `None`."""
        return self.coefficients.get(name)

    def value(self, name: str, default: float | None = None) -> float:
        """The value of a coefficient, or `default`; `InputError` without either."""
        coefficient = self.coefficients.get(name)
        if coefficient is not None:
            return coefficient.value
        if default is not None:
            return default
        raise unknown(f"coefficient of profile {self.name!r}", name, self.coefficients, "add it to the profile's JSON")

    @cached_property
    def all_coefficients(self) -> Mapping[str, Coefficient]:
        """Every coefficient of the machine: its own and the defaults; launches of its named host replace its own."""
        if not self.host:
            return {**DEFAULTS[self.family], **self.coefficients}
        device = {name: c for name, c in self.coefficients.items() if not entry(name).of_host}
        return {**DEFAULTS[self.family], **device, **HOSTS[self.host].coefficients}

    @cached_property
    def multiplied_types(self) -> frozenset[str]:
        """Compute types for which the machine has a rate of matrix operations."""
        return frozenset(name for name in COMPUTE_DTYPES if f"peak.matrix.{name}" in self.coefficients)

    def replacing(self, **changes: Any) -> ArchitectureProfile:
        """A copy with other fields."""
        return msgspec.structs.replace(self, **changes)

    @property
    def main_memory(self) -> str:
        """Name of the memory level farthest from the units."""
        return self.levels[-1]

    @property
    def default_runtime(self) -> str:
        """The runtime of this family where none is named."""
        return DEFAULT_RUNTIME[self.family]

    def to_json(self) -> bytes:
        """The file: one number a line, and one group of the residual a line."""
        text = msgspec.json.format(msgspec.json.encode(self.replacing(residual=())), indent=1)
        if self.residual:
            groups = b",\n".join(b"  " + msgspec.json.encode(group) for group in self.residual)
            text = text.removesuffix(b"\n}") + b',\n "residual": [\n' + groups + b"\n ]\n}"
        return text + b"\n"

    @classmethod
    def from_json(cls, data: bytes | str, where: str = "") -> ArchitectureProfile:
        """Read and check a profile; a file with a `base` inherits what it does not state from the built-in profile of that name.

        Raises:
            InputError: no such base; the nearest names are suggested.
            FormatError: unreadable, a newer format, an unknown model form, or an invalid profile (`validation`; the field is
                named).
        """
        # Decoding the whole file reports what is damaged.
        head, builtin = _head(data) or _Head(), Path(where).parent == BUILTIN_DIR
        if not builtin and (problem := _key_problem(data)):
            raise FormatError(f"profile {where}: {problem}")
        profile = decode_versioned(_on_base(data, head.base, builtin), cls, PROFILE_FORMAT, "profile", where)
        if head.model_form is None and head.base is msgspec.UNSET:
            raise FormatError(f"profile {profile.name!r} {where} does not say its 'model_form', so its coefficients mean nothing")
        if _OLDEST_FORM[profile.family] <= profile.model_form < MODEL_FORM:
            profile = _from_form_4(profile)
        if profile.model_form != MODEL_FORM:
            raise FormatError(
                f"profile {profile.name!r} {where} has coefficients of model form {profile.model_form}, this shmoo computes "
                f"form {MODEL_FORM}; refit it from its run with `shmoo calibrate RUN -o {profile.name}.json`"
            )
        if profile.format < PROFILE_FORMAT:
            profile = _from_format_1(profile)
        if profile.host and profile.host not in HOSTS:
            raise FormatError(f"profile {profile.name!r} {where} names the host {profile.host!r}; known are {', '.join(HOSTS)}")
        problem = first_problem(profile)
        if problem is not None:
            raise FormatError(f"profile {profile.name!r} {where}: {problem}")
        return profile


def _key_problem(data: bytes | str) -> str | None:
    """The first problem with the keys of a file written by hand; `None` also where it is not a JSON object."""
    try:
        document = msgspec.json.decode(data)
    except UNREADABLE:
        return None
    fields = [*ArchitectureProfile.__struct_fields__, "base"]
    return first_wrong_key(document, fields, _builtin_coefficients) if isinstance(document, dict) else None


class _Head(msgspec.Struct):
    """The fields that decide how to read the rest of a file; `base` may hold anything."""

    model_form: int | None = None
    base: Any = msgspec.UNSET


def _head(data: bytes | str) -> _Head | None:
    """The head of a file; `None` for a damaged one."""
    try:
        return msgspec.json.decode(data, type=_Head)
    except UNREADABLE:
        return None


def _on_base(data: bytes | str, base: Any, builtin: bool) -> bytes | str:
    """A file completed from its `base`: coefficients given as null are left out. Files without a base are returned unchanged."""
    if base is msgspec.UNSET:
        return data
    document = msgspec.json.decode(data)
    if not isinstance(document.get("coefficients", {}), dict):
        return data  # reading the profile says what is wrong
    if not isinstance(base, str) or base not in builtin_names():
        raise unknown(f"base of profile {document.get('name')!r}", str(base), builtin_names())
    if not builtin:
        _check_names(document, load_profile(base))
    fields, stated = _carried_fields(base), document.pop("coefficients", {})
    coefficients = fields["coefficients"] | scale_with_counts(fields, stated) | stated
    # Bandwidth efficiencies are relative to the bandwidth that error-correcting codes leave to data.
    ecc_ratio = ecc_share(coefficients) / ecc_share(fields["coefficients"])
    for name in under("efficiency.bandwidth", fields["coefficients"]):
        base_value = fields["coefficients"][name]
        if coefficients[name] is base_value and base_value["source"] == "transferred":
            numbers = {n: base_value[n] * ecc_ratio for n in ("value", "stderr", "low", "high") if base_value.get(n) is not None}
            coefficients[name] = base_value | numbers
    del document["base"]
    return msgspec.json.encode(fields | document | {"coefficients": {n: c for n, c in coefficients.items() if c is not None}})


def _check_names(document: dict[str, Any], base: ArchitectureProfile) -> None:
    """Refuse coefficients that neither the base, the catalogue nor any built-in profile has."""
    known_names = {*base.coefficients, *DEFAULTS[base.family], *TYPICAL[base.family]}
    for name in document.get("coefficients", {}):
        if name not in known_names and name not in (known_names := known_names | _builtin_coefficients()):
            raise unknown(f"coefficient of profile {document.get('name')!r}", name, known_names)


@cache
def _carried_fields(name: str) -> dict[str, Any]:
    """The fields that a machine inherits from a built-in one: fitted coefficients are transferred with wider ranges, and areas
    are left out, because they belong to a chip."""
    base = load_profile(name)
    coefficients = {n: transfer(n, c, base.name) for n, c in base.coefficients.items() if not continues(n, "area")}
    base_profile = base.replacing(coefficients=coefficients, fitted_from=None, error_card={}, residual=())
    fields: dict[str, Any] = msgspec.to_builtins(base_profile)
    return fields


def _builtin_coefficients() -> set[str]:
    """Names of the coefficients of all built-in profiles, which any other may have, too."""
    return {name for path in BUILTIN_DIR.glob("*.json") for name in msgspec.json.decode(path.read_bytes())["coefficients"]}


def _from_format_1(profile: ArchitectureProfile) -> ArchitectureProfile:
    """A profile of format 1 in the newest format: there the beginning of a reference marked values that a prior held."""
    head = "held by its prior, the data say next to nothing about it; "
    coefficients = {
        name: msgspec.structs.replace(c, source="prior", reference=c.reference.removeprefix(head))
        if c.source == "fallback" and c.reference.startswith(head)
        else c
        for name, c in profile.coefficients.items()
    }
    return profile.replacing(coefficients=coefficients, format=PROFILE_FORMAT)


def _from_form_4(profile: ArchitectureProfile) -> ArchitectureProfile:
    """A profile of an older form in the newest. There, a CPU's page faults and conversions of layouts were those of all cores
    together, and its fitted launches included joining threads and entering modules."""
    updates = {}
    if profile.family == "cpu":
        cores = profile.value("count.cores", 1.0)
        per_core_names = [*under("layout", profile.coefficients), *under("page_fault", profile.coefficients)]
        updates = {name: profile.coefficients[name].scaled(cores) for name in per_core_names}
        if under("launch", profile.coefficients):
            zero = Coefficient(0.0, "s", "fallback", "the launches hold it", low=0.0, high=0.0)
            updates |= {"join": zero, "skew": zero, "module.eager": zero}
    return profile.replacing(coefficients={**profile.coefficients, **updates}, model_form=MODEL_FORM)


def check_runtime(profile: ArchitectureProfile, runtime: str | None) -> str:
    """The runtime to use, the family's default for `None`; `InputError` for one that this family does not have."""
    if runtime is None:
        return profile.default_runtime
    if runtime not in RUNTIMES[profile.family]:
        raise unknown(f"runtime on a {profile.family}", runtime, RUNTIMES[profile.family])
    return runtime


def builtin_names() -> list[str]:
    """Names of the built-in profiles, sorted."""
    return sorted(name.removesuffix(".json") for name in os.listdir(BUILTIN_DIR) if name.endswith(".json"))


def means_profile(path: Path) -> bool:
    """True for a JSON file that is meant as a profile, even a damaged one: users' directories hold other JSON too."""
    data = path.read_bytes() if _is_file(path) else b""
    head = _head(data)
    return b'"coefficients"' in data and (head is None or head.model_form is not None or head.base is not msgspec.UNSET)


def find_profile(name: str | Path, search: tuple[Path, ...] = ()) -> Path:
    """The file of a profile: a path ending in .json, else NAME.json in one of `search` (first wins), else a built-in one;
    `InputError` where there is none. Other JSON of a built-in one's name is passed over (`estimate --json > gpu_t4.json`)."""
    text = str(name)
    if text.endswith(".json"):
        if not _is_file(Path(text)):
            raise InputError(f"no profile file at {text!r}; give an existing .json file or a name from `shmoo profiles list`")
        return Path(text)
    if is_valid_name(text):
        for folder in (*search, BUILTIN_DIR):
            path = folder / f"{text}.json"
            if _is_file(path) and (folder == BUILTIN_DIR or text not in builtin_names() or means_profile(path)):
                return path
    local = {path.stem for folder in search for path in folder.glob("*.json") if means_profile(path)}
    raise unknown("architecture", text, {*builtin_names(), *local}, "see `shmoo profiles list`")


def load_profile(name: str | Path) -> ArchitectureProfile:
    """Load a built-in profile, or a .json file; errors as of `find_profile`, and `FormatError` for a damaged or newer file."""
    path = find_profile(name)
    return ArchitectureProfile.from_json(path.read_bytes(), str(path))


def _is_file(path: Path) -> bool:
    """True for a regular file; False for invalid paths too."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
