"""Environments that hosts of OpenSSH make for themselves."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from shmoo.harness.fleet import campaign as campaigns
from tests.harness.fleet.services import Sshd, lacking
from tests.harness.fleet.stand_in import host
from tests.harness.fleet.test_fleet import settled, started

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or "services run")


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_an_environment_is_made_once_from_wheels_alone(
    tmp_path: Path, servers: tuple[Path, dict[str, Sshd]], monkeypatch: pytest.MonkeyPatch, installer: str
) -> None:
    """Without an index; equal pins reuse it, and one that was changed is made again. uv is found where it installs itself."""
    config, by_name = servers
    if installer == "uv":
        uv, own = shutil.which("uv"), by_name["s1"].home / ".local" / "bin"
        if uv is None:
            pytest.skip("uv is not installed here")
        own.mkdir(parents=True)
        (own / "uv").symlink_to(uv)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    one = host(
        "s1",
        tmp_path,
        engine="ssh",
        ssh_config=str(config),
        environment="",
        installer=installer,
        wheelhouse=str(wheels),
        variables={"PYTHONPATH": "", "PATH": "/usr/bin:/bin"},
    )
    product = wheel(tmp_path, "shmoo", "1.0", "helper", tmp_path / "stand-in" / "shmoo")
    wheel(wheels, "helper", "2.0")
    Path(one.constraints).write_text("helper==2.0\n")
    monkeypatch.setattr(campaigns, "write_wheel", lambda folder: product)
    campaign = started(tmp_path / "campaign", [one])
    known = settled(campaign)
    assert (known["s1"].standing, known["s1"].reason) == ("finished", "")
    (made,) = (Path(one.directory) / "environments").glob("*/ready")
    stamp = made.stat().st_mtime_ns
    again = started(tmp_path / "again", [one])
    assert settled(again)["s1"].environment == known["s1"].environment
    assert made.stat().st_mtime_ns == stamp
    next(made.parent.glob("lib/python*/site-packages/helper-2.0.dist-info/METADATA")).write_text(
        "Metadata-Version: 2.1\nName: helper\nVersion: 3.0\n"
    )
    assert settled(started(tmp_path / "changed", [one]))["s1"].environment == known["s1"].environment
    assert made.stat().st_mtime_ns > stamp


def wheel(folder: Path, name: str, version: str, needs: str = "", package: Path | None = None) -> Path:
    target = folder / f"{name}-{version}-py3-none-any.whl"
    information = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(target, "w") as file:
        for path in sorted(package.rglob("*.py")) if package is not None else ():
            file.write(path, f"{name}/{path.relative_to(package or path)}")
        requires = f"Requires-Dist: {needs}\n" if needs else ""
        file.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        file.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{information}/RECORD", "")
    return target
