"""hosts.toml: what it may say, and what is said about a slip."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmoo.estimators.errors import InputError
from shmoo.harness.fleet.channels import Channel
from shmoo.harness.fleet.hosts import read_hosts
from shmoo.harness.fleet.package import environment_key, read_pins, write_wheel


def written(folder: Path, text: str) -> Path:
    (folder / "constraints.txt").write_text("torch==2.13.0\nNumPy == 2.4.6 # why\n\n# nothing\npyfakefs>=6\n")
    path = folder / "hosts.toml"
    path.write_text(text)
    return path


def test_hosts_take_defaults_and_paths_beside_the_file(tmp_path: Path) -> None:
    """A host's own key wins; constraints.txt beside the file holds the pins."""
    (tmp_path / "wheels").mkdir()
    text = """
    [defaults]
    directory = "/scratch/fleet"
    wheelhouse = "wheels"
    [hosts.alpha]
    [hosts.beta]
    address = "me@beta.lab"
    directory = "other"
    [hosts.n7]
    engine = "slurm"
    sbatch = ["--partition=gpu"]
    """
    alpha, beta, n7 = read_hosts(written(tmp_path, text))
    assert (alpha.engine, alpha.destination, alpha.directory) == ("ssh", "alpha", "/scratch/fleet")
    assert (beta.destination, beta.directory) == ("me@beta.lab", "other")
    assert (n7.engine, n7.destination, n7.sbatch) == ("slurm", "", ("--partition=gpu",))
    assert alpha.constraints == str(tmp_path / "constraints.txt")
    assert alpha.wheelhouse == str(tmp_path / "wheels")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no host"),
        ("hosts = 3", "hosts must be a table"),
        ("[hosts]\na = 1", "hosts.a must be a table"),
        ("[host.a]", "unknown section of .* 'host': did you mean 'hosts'"),
        ("[hosts.a]\nadress = 'x'", "unknown key of hosts.a in .* 'adress': did you mean 'address'"),
        ("[defaults]\nengin = 'ssh'\n[hosts.a]", "unknown key of defaults in .* 'engin': did you mean 'engine'"),
        ("[hosts.a]\nengine = 'ray'", "unknown engine of .*hosts.a 'ray': allowed: local, slurm, ssh"),
        ("[hosts.a]\nengine = 'lokal'", "'lokal': did you mean 'local'"),
        ("[hosts.a]\nwait_minutes = 'long'", "hosts.a: Expected `float`"),
        ("[hosts.a]\naddress = '-oProxyCommand=x'", "is not a destination for ssh"),
        ("[hosts.'a b']", "a name has letters"),
        ("[hosts.a]\ndirectory = '-rf'", "directory = '-rf' may have .* and begins with no '-'"),
        ("[hosts.a]\npython = '-c'", "python = '-c' may have"),
        ("[hosts.a]\nenvironment = '-x'", "environment = '-x' may have"),
        ("[hosts.a]\nvariables = {'A=B' = 'x'}", "the variable 'A=B' = 'x' is invalid"),
        ('[hosts.a]\nvariables = {A = "\\u0000"}', "the variable 'A' = .* is invalid"),
        ('[hosts.a]\nengine = "slurm"\nsbatch = ["--x\\u0000"]', "sbatch = .* has control characters"),
        ("[hosts.a]\naddress = 'me@x'\n[hosts.b]\naddress = 'me@x'", "a and b are both 'me@x'"),
        ("[hosts.a]\n[hosts.b]\naddress = 'a'", "a and b are both 'a'"),
        ("[hosts.a]\ndirectory = 'x; rm'", "directory = 'x; rm' may have letters"),
        ("[hosts.a]\npython = '~/bin/python3'", "write it in full"),
        ("[hosts.a]\nnode = 'n1'", "node belongs to engine"),
        ("[hosts.a]\nengine = 'slurm'\nnode = 'n[1-3]'", "name one, not a list"),
        ("[hosts.a]\nbusy_share = 7", "busy_share lies between 0 and 1"),
        ("[hosts.a]\nwheelhouse = 'none'", "wheelhouse = .* is not there"),
        ("[hosts.a", "cannot read"),
    ],
)
def test_a_slip_is_named(tmp_path: Path, text: str, words: str) -> None:
    """File, host, key and the nearest one."""
    with pytest.raises(InputError, match=words):
        read_hosts(written(tmp_path, text))


def test_a_missing_file_and_missing_pins_are_told(tmp_path: Path) -> None:
    """With the remedy."""
    with pytest.raises(InputError, match=r"no file .*hosts.toml; write one"):
        read_hosts(tmp_path / "hosts.toml")
    path = written(tmp_path, "[hosts.a]")
    (tmp_path / "constraints.txt").unlink()
    with pytest.raises(InputError, match="no pins, so machines could not be compared"):
        read_hosts(path)


def test_pins_are_read_as_pip_names_them(tmp_path: Path) -> None:
    """Ranges pin nothing."""
    written(tmp_path, "")
    assert read_pins(tmp_path / "constraints.txt") == {"torch": "2.13.0", "numpy": "2.4.6"}
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(InputError, match="pins nothing"):
        read_pins(tmp_path / "empty")


def test_equal_code_makes_equal_wheels(tmp_path: Path) -> None:
    """So that an environment is reused; other pins make another one."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = write_wheel(tmp_path / "a"), write_wheel(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    written(tmp_path, "")
    pins = tmp_path / "constraints.txt"
    key = environment_key(first, pins, "pip")
    assert key == environment_key(second, pins, "pip")
    pins.write_text("torch==2.12.0\n")
    assert key != environment_key(first, pins, "pip")


def test_ssh_never_asks_and_checks_host_keys() -> None:
    """No option takes the user's own configuration away."""
    options = Channel("alpha").options
    assert "BatchMode=yes" in options
    assert not [
        option for option in options if "StrictHostKeyChecking" in option or "UserKnownHosts" in option or "Password" in option
    ]
    assert "-F" not in options
