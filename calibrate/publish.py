"""Profiles made from published measurements, written as files: `python -m shmoo.calibrate.publish NAME DATA_DIR [--out FOLDER]`.

What is measured is fitted, residual included; other machines of the family get what carries over. Datasheet numbers stay those of
the built-in profiles, which are what is written unless another folder is named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from shmoo.estimators.errors import ShmooError, unknown
from shmoo.estimators.profile import BUILTIN_DIR, ArchitectureProfile

UNMEASURED_GPUS = ("gpu_a100_80g", "gpu_l4", "gpu_h100", "gpu_h200")
"""Built-in GPUs that no table holds."""


def _gpu(folder: Path) -> Iterator[ArchitectureProfile]:
    from shmoo.calibrate.evaluate_gpu import DEVICES, fit_device, published, read_device
    from shmoo.calibrate.transfer import transfer

    fitted = []
    for device in DEVICES:
        fitted.append(fit_device(read_device(folder, device), device))
        yield fitted[-1]
    for name in UNMEASURED_GPUS:
        yield transfer(fitted, published(name))


PUBLICATIONS: Mapping[str, Callable[[Path], Iterator[ArchitectureProfile]]] = MappingProxyType({"gpu": _gpu})
"""Name -> profiles made from a folder of tables."""


def publish(name: str, folder: Path, out: Path = BUILTIN_DIR) -> Iterator[tuple[ArchitectureProfile, Path]]:
    """Make profiles and write each as soon as it is made.

    Args:
        folder: the tables' folder. out: where NAME.json goes.

    Raises:
        InputError: no such publication, or a file it needs is not in `folder`.
    """
    if name not in PUBLICATIONS:
        raise unknown("publication", name, PUBLICATIONS)
    out.mkdir(parents=True, exist_ok=True)
    for profile in PUBLICATIONS[name](folder):
        path = out / f"{profile.name}.json"
        path.write_bytes(profile.to_json())
        yield profile, path


def line(profile: ArchitectureProfile, path: Path) -> str:
    """Where a profile went, and its error on the test split by group."""
    tested = profile.error_card.get("test", {})
    errors = [
        f"{group} {entry.mean:.1%}" + (f" ({entry.physics:.1%} without residual)" if entry.physics is not None else "")
        for group, entry in tested.items()
    ]
    return f"{path}: {', '.join(errors) or 'transferred'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m shmoo.calibrate.publish", description="Write fitted profiles.")
    parser.add_argument("name", choices=sorted(PUBLICATIONS), help="which profiles")
    parser.add_argument("folder", type=Path, help="folder of the reference tables")
    parser.add_argument("--out", type=Path, default=BUILTIN_DIR, help="folder to write to (default: the built-in profiles)")
    asked = parser.parse_args(arguments)
    try:
        for made in publish(asked.name, asked.folder, asked.out):
            sys.stdout.write(line(*made) + "\n")
    except ShmooError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
