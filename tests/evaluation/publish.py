"""Profiles made from published measurements, written as files.

What is measured is fitted, residual included; other machines of the family get what carries over. Datasheet numbers stay those of
the built-in profiles, which are what is written unless another folder is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.machine.names import whose
from shmoo.estimators.machine.profile import BUILTIN_DIR, ArchitectureProfile, load_profile
from tests.evaluation.results import Result
from tests.evaluation.transfer import looked_up

UNMEASURED_GPUS = ("gpu_l4", "gpu_h100", "gpu_h200", "gpu_a100_sxm_80g", "gpu_l40s", "gpu_b200")
"""Built-in GPUs that no table holds."""

ELSEWHERE = MappingProxyType(dict.fromkeys(("gpu_p100", "gpu_t4", "gpu_v100"), ("conv_1x1",)))
"""Profile -> algorithms fitted to DeepBench's convolutions, for which no table here has rows."""


def _gpu(folder: Path) -> Iterator[ArchitectureProfile]:
    from tests.evaluation.gpu import DEVICES, fit_cards, left_out_sigma, measured_cards, published, read_device, results
    from tests.evaluation.transfer import transfer

    tables = {device: read_device(folder, device) for device in DEVICES}
    fitted = {device: fit_cards(table, device) for device, table in tables.items()}
    numbers = results(tables, fitted)
    for cards in fitted.values():
        own, *others = cards.values()
        whole = own
        for other in others:
            whole = completed(whole, other)
            yield with_numbers(completed(other, own), numbers)
        yield with_numbers(whole, numbers)
    sigma = left_out_sigma(tables, fitted)
    for name in UNMEASURED_GPUS:
        yield transfer(measured_cards(fitted), published(name), sigma)


def _tpu(folder: Path) -> Iterator[ArchitectureProfile]:
    from tests.evaluation.tpu import applications, fit_chip, operators, read_operators
    from tests.evaluation.tpu_products import BOUNDS, fit_products, products, read_products

    read = read_operators(folder)
    yield with_numbers(fit_chip(read), operators(read))
    yield with_numbers(load_profile("tpu_v1"), applications())
    numbers = products(folder)
    for chip in BOUNDS:
        yield with_numbers(fit_products(read_products(folder, chip), chip), numbers)


def _energy(folder: Path) -> Iterator[ArchitectureProfile]:
    from tests.evaluation.declared import ENERGY_STARTS
    from tests.evaluation.energy import on_next_chip, on_same_chip, read_cases, with_fitted_energy
    from tests.evaluation.network_graphs import kept_graphs

    for name, cases in read_cases(folder, kept_graphs()).items():
        fitted = with_fitted_energy(load_profile(name), cases, ENERGY_STARTS[name])
        yield fitted
        yield from on_same_chip(fitted)
        yield from on_next_chip(fitted)


def completed(profile: ArchitectureProfile, other: ArchitectureProfile) -> ArchitectureProfile:
    """A fitted profile with what its own rows say nothing about carried from the same chip on another card: coefficients of
    algorithms and operators (the last part of a name) that none of its own fitted ones are of."""
    from tests.evaluation.transfer import transfer

    own = {whose(name) for name, c in profile.coefficients.items() if c.from_fit and not c.assumed}
    carried = {
        name: c
        for name, c in transfer([other], profile).coefficients.items()
        if c.source == "transferred" and name not in profile.coefficients and whose(name) not in own
    }
    return profile.replacing(coefficients={**profile.coefficients, **carried})


def _tensor(folder: Path) -> Iterator[ArchitectureProfile]:
    from tests.evaluation.kernels import published_tensor

    yield from published_tensor(folder)


def _recorded(folder: Path) -> Iterator[ArchitectureProfile]:
    from tests.evaluation.recorded import published_runs

    yield from published_runs(folder)


PUBLICATIONS: Mapping[str, Callable[[Path], Iterator[ArchitectureProfile]]] = MappingProxyType(
    {"energy": _energy, "gpu": _gpu, "recorded": _recorded, "tensor": _tensor, "tpu": _tpu}
)
"""Name -> profiles made from a folder of tables."""
RECORDED = Path(__file__).parents[2] / "runs" / "recorded"
ALL = "all"
_ROUND = ("energy", "gpu", "tensor", "recorded")
IN_TURN = (*_ROUND, *_ROUND, "tpu")
"""Order of publishing everything: times rest on joules, what is carried of tensor cores goes on top of both, and loops of a
measured card on top of those. Joules of networks rest on times, too, so a second round follows."""


def with_numbers(profile: ArchitectureProfile, results: Sequence[Result]) -> ArchitectureProfile:
    """A profile whose error card holds every number of an evaluation that belongs there."""
    card = {split: dict(groups) for split, groups in profile.error_card.items()}
    for result in results:
        if result.kept is not None and result.entry is not None and result.kept.profile == profile.name:
            card.setdefault(result.kept.split, {})[result.kept.group] = result.entry
    return profile.replacing(error_card=card)


def keep(results: Sequence[Result], folder: Path = BUILTIN_DIR) -> list[Path]:
    """Write an evaluation's numbers into the error cards of the profiles in a folder.

    Raises:
        InputError: the folder lacks one of them.
    """
    names = sorted({result.kept.profile for result in results if result.kept is not None})
    paths = [folder / f"{name}.json" for name in names]
    changed = [with_numbers(load_profile(path), results) for path in paths]
    for path, profile in zip(paths, changed, strict=True):
        path.write_bytes(file_of(profile, path))
    return paths


def publish(name: str, folder: Path, out: Path = BUILTIN_DIR) -> Iterator[tuple[ArchitectureProfile, Path]]:
    """Make profiles and write each as soon as it is made.

    Args:
        name: one of `PUBLICATIONS`, or "all" for the steps of `IN_TURN`, each of which starts from what those before it wrote.
            The first starts from GPUs without any fit, so that earlier publications do not matter.
        folder: the tables' folder. out: where NAME.json goes.

    Raises:
        InputError: no such publication, a file it needs is not in `folder`, or all are to be written elsewhere.
    """
    if name not in (*PUBLICATIONS, ALL):
        raise unknown("publication", name, (*PUBLICATIONS, ALL))
    if name == ALL and out != BUILTIN_DIR:
        raise InputError(f"{ALL!r} starts each publication from the built-in profiles and writes them; leave --out out")
    out.mkdir(parents=True, exist_ok=True)
    if name == ALL:
        for path in sorted(out.glob("gpu_*.json")):
            path.write_bytes(file_of(unfitted(load_profile(path)), path))
    for one in IN_TURN if name == ALL else (name,):
        # The runs of this repository are no table of others.
        for fitted in PUBLICATIONS[one](RECORDED if name == ALL and one == "recorded" else folder):
            profile = beside(fitted, load_profile(fitted.name))
            path = out / f"{profile.name}.json"
            path.write_bytes(file_of(profile, path))
            yield profile, path


def file_of(profile: ArchitectureProfile, path: Path) -> bytes:
    """What to write at a path: where the file there names a `base`, it stays one, with what was fitted to the machine itself."""
    described = msgspec.json.decode(path.read_bytes()) if path.is_file() else {}
    if "base" not in described:
        return profile.to_json()
    before = load_profile(described["base"]).coefficients
    own = {n: c for n, c in profile.coefficients.items() if c.from_fit and before.get(n) != c}
    kept = {n: c for n, c in described["coefficients"].items() if c is None or not Coefficient(**c).from_fit}
    described["coefficients"] = kept | msgspec.to_builtins(own)
    described["error_card"] = msgspec.to_builtins(profile.error_card)
    return msgspec.json.format(msgspec.json.encode(described), indent=1) + b"\n"


def unfitted(profile: ArchitectureProfile) -> ArchitectureProfile:
    """A GPU as its datasheet and the literature describe it, with the coefficients of `ELSEWHERE`, which no table here refits."""
    return profile.replacing(coefficients={**looked_up(profile), **_elsewhere(profile)}, fitted_from=None, residual=())


def _elsewhere(profile: ArchitectureProfile) -> dict[str, Coefficient]:
    return {n: c for n, c in profile.coefficients.items() if whose(n) in ELSEWHERE.get(profile.name, ())}


def beside(fitted: ArchitectureProfile, builtin: ArchitectureProfile) -> ArchitectureProfile:
    """A profile fitted to tables as the built-in one is published: estimates are for the host that it names, and what no table
    here is of stays."""
    return fitted.replacing(host=builtin.host, coefficients={**_elsewhere(builtin), **fitted.coefficients})


def line(profile: ArchitectureProfile, path: Path) -> str:
    """Where a profile went, and its error on the test split by group."""
    tested = profile.error_card.get("test", {})
    errors = [
        f"{group} {entry.mean:.1%}" + (f" ({entry.physics:.1%} without residual)" if entry.physics is not None else "")
        for group, entry in tested.items()
    ]
    return f"{path}: {', '.join(errors) or 'no test split of its own'}"
