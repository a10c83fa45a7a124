"""The packages to install on a machine: this Shmoo as a wheel, and the pins of its dependencies."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from shmoo.estimators.errors import InputError
from shmoo.harness.defaults import own_folders

PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*==\s*([^\s;#]+)")
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""Date of every file in the wheel, so that equal code gives equal wheels."""


def write_wheel(folder: Path) -> Path:
    """A wheel of the running Shmoo, however it is installed; equal code gives equal bytes. `InputError` where this Shmoo is not
    installed, so its dependencies are unknown."""
    try:
        installed = metadata.distribution("shmoo")
    except metadata.PackageNotFoundError:
        raise InputError("shmoo is not installed here, only on the path; `pip install` it, then run the fleet") from None
    name = f"shmoo-{installed.version}"
    files = dict(_modules())
    described = installed.read_text("METADATA") or ""
    files[f"{name}.dist-info/METADATA"] = described.encode()
    files[f"{name}.dist-info/entry_points.txt"] = (installed.read_text("entry_points.txt") or "").encode()
    files[f"{name}.dist-info/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: shmoo\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in files.items())
    files[f"{name}.dist-info/RECORD"] = f"{record}{name}.dist-info/RECORD,,\n".encode()
    target = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in files.items():
            wheel.writestr(zipfile.ZipInfo(path, EARLIEST), data)
    return target


def _modules() -> Iterator[tuple[str, bytes]]:
    """Every file of the package, under its installed name."""
    root, *rooms = own_folders()
    yield "shmoo/__init__.py", (root / "__init__.py").read_bytes()
    for room in rooms:
        for path in sorted(room.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"shmoo/{room.name}/{path.relative_to(room).as_posix()}", path.read_bytes()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def read_pins(path: Path) -> dict[str, str]:
    """Name -> version of every line `name==version` of a constraints file, names as pip compares them; `InputError` where it
    cannot be read or pins nothing."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the pins in {path}: {error}") from None
    matches = [PIN.match(line.strip()) for line in text.splitlines()]
    pins = {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in matches if match}
    if not pins:
        raise InputError(f"{path} pins nothing; it needs lines such as torch==2.13.0")
    return pins


def environment_key(wheel: Path, constraints: Path, *choices: str) -> str:
    """Sixteen hex digits that are equal for equal wheels, pins and choices, whose environment may be shared."""
    digest = hashlib.sha256(wheel.read_bytes())
    for part in (constraints.read_bytes(), *(choice.encode() for choice in choices)):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]
