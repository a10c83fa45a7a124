"""hosts.toml: the machines, how each is reached, and the source of its environment."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec

from shmoo.estimators.errors import InputError, unknown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Form of a host's name, which also names folders and Slurm jobs."""
FOLDER = re.compile(r"(~/|/)?[A-Za-z0-9._][A-Za-z0-9._/-]*")
"""Form of a folder on a host. It appears in command lines of ssh, scp and rsync, whose quoting differs between versions, and must
not look like an option."""
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:%\[\]-]*")
"""Form of a destination of ssh, which must not look like an option."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Host(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One machine to measure.

    Attributes:
        name: name in status and report.
        engine: "ssh", "slurm" (one exclusive job) or "local" (the machine of the controller).
        address: destination for ssh, as in `ssh ADDRESS`; for a Slurm host the login node with sbatch, or "" if this machine has
            it. Default for ssh: the name.
        ssh_config: file that ssh reads instead of the user's configuration.
        directory: folder on the host for environments and campaigns, relative to the home folder. For a Slurm host, the login
            node and the compute node must both see it.
        python: interpreter on the host, 3.11 or newer, that creates the environment.
        environment: folder of an existing environment; it is checked against the pins and never changed.
        installer: "pip" or "uv", which creates the environment.
        constraints: local file of pins; default: constraints.txt beside hosts.toml.
        wheelhouse: local folder of wheels, which is copied to the host and is then the only source of packages.
        variables: environment variables of the measurement.
        node: node to measure of a Slurm host; default: the name.
        sbatch: further options of sbatch, such as "--partition=gpu".
        when_busy: "wait" until other programs end, "report" them and do not measure, or "measure" anyway.
        busy_share: share of all cores' CPU time above which a machine counts as used by other programs.
        wait_minutes: longest wait for other programs, or for another campaign on the machine.
    """

    name: str
    engine: Literal["ssh", "slurm", "local"] = "ssh"
    address: str = ""
    ssh_config: str = ""
    directory: str = "shmoo-fleet"
    python: str = "python3"
    environment: str = ""
    installer: Literal["pip", "uv"] = "pip"
    constraints: str = ""
    wheelhouse: str = ""
    variables: dict[str, str] = {}
    node: str = ""
    sbatch: tuple[str, ...] = ()
    when_busy: Literal["wait", "report", "measure"] = "wait"
    busy_share: float = 0.1
    wait_minutes: float = 60.0

    @property
    def destination(self) -> str:
        """Destination of ssh; "" where commands run on this machine."""
        return self.address or (self.name if self.engine == "ssh" else "")


FIELDS = tuple(name for name in Host.__struct_fields__ if name != "name")
CHOICES = {name: get_args(kind) for name, kind in get_type_hints(Host).items() if get_origin(kind) is Literal}
"""Field -> its allowed values, if limited to a list."""
HERE = ("ssh_config", "constraints", "wheelhouse")
"""Fields that name files on the controller's machine, relative to hosts.toml."""


def read_hosts(path: str | Path) -> tuple[Host, ...]:
    """The hosts of a file.

    Example:
        [defaults]                  # of every host
        directory = "shmoo-fleet"

        [hosts.alpha]               # reached by `ssh alpha`
        [hosts.beta]
        address = "me@beta.lab"
        [hosts.node7]
        engine = "slurm"
        sbatch = ["--partition=gpu"]

    Raises:
        InputError: no such file, invalid TOML, an unknown key (with the nearest one), a value of the wrong kind, or no host.
    """
    file = Path(path)
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no file {file}; write one with a table [hosts.NAME] for each machine (docs/lab.md)") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from None
    for section in document:
        if section not in ("defaults", "hosts"):
            raise unknown(f"section of {file}", section, ("defaults", "hosts"))
    defaults, tables = (_table(document.get(name, {}), f"{file}: {name}") for name in ("defaults", "hosts"))
    if not tables:
        raise InputError(f"{file} names no host; add a table [hosts.NAME] for each machine")
    hosts = tuple(
        _host(name, {**defaults, **_table(table, f"{file}: hosts.{name}")}, defaults, file) for name, table in tables.items()
    )
    first: dict[tuple[str, str], str] = {}
    for host in hosts:
        if (
            host.engine == "ssh"
            and (earlier_name := first.setdefault((host.destination, host.ssh_config), host.name)) != host.name
        ):
            raise InputError(
                f"{file}: {earlier_name} and {host.name} are both {host.destination!r}, and one machine is measured once; "
                "remove one, or correct its address"
            )
    return hosts


def _table(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a table, got {value!r}")
    return value


def _host(name: str, fields: Mapping[str, object], defaults: Mapping[str, object], file: Path) -> Host:
    where = f"{file}: hosts.{name}"
    for field in fields:
        if field not in FIELDS:
            section = "defaults" if field in defaults else f"hosts.{name}"
            raise unknown(f"key of {section} in {file}", field, FIELDS)
        if field in CHOICES and fields[field] not in CHOICES[field]:
            raise unknown(f"{field} of {where}", str(fields[field]), CHOICES[field])
    try:
        host = msgspec.convert({"name": name, **fields}, Host)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {error}") from None
    absolute_paths = {field: str(file.parent.absolute() / getattr(host, field)) for field in HERE if getattr(host, field)}
    if "constraints" not in absolute_paths and (beside := file.parent.absolute() / "constraints.txt").is_file():
        absolute_paths["constraints"] = str(beside)
    host = msgspec.structs.replace(host, **absolute_paths)
    check_host(host, where)
    for field in HERE:
        if (value := getattr(host, field)) and not Path(value).exists():
            raise InputError(f"{where}: {field} = {value!r} is not there; paths are relative to hosts.toml")
    if not host.constraints:
        raise InputError(
            f"{where}: no pins, so machines could not be compared; put constraints.txt beside hosts.toml, or name one with "
            'constraints = "..."'
        )
    return host


def check_host(host: Host, where: str) -> None:
    """`InputError` unless every field is safe in paths and command lines, here and on the host."""
    if not NAME.fullmatch(host.name):
        raise InputError(f"{where}: a name has letters, digits, '.', '_' and '-' only, at most 63, and begins with no sign")
    for field in ("directory", "environment", "python"):
        value = getattr(host, field)
        if (value and not FOLDER.fullmatch(value)) or (field == "directory" and not value):
            raise InputError(f"{where}: {field} = {value!r} may have letters, digits and '._-/' only, and begins with no '-'")
    if host.python.startswith("~"):
        raise InputError(f"{where}: python = {host.python!r} is not a path that every shell and Slurm expand; write it in full")
    if host.address and not ADDRESS.fullmatch(host.address):
        raise InputError(f"{where}: address = {host.address!r} is not a destination for ssh; write HOST or USER@HOST")
    if host.node and not NAME.fullmatch(host.node):
        raise InputError(f"{where}: node = {host.node!r} is not the name of a node; name one, not a list")
    for field in ("node", "sbatch"):
        if getattr(host, field) and host.engine != "slurm":
            raise InputError(f'{where}: {field} belongs to engine = "slurm", and this host\'s engine is {host.engine!r}')
    if not 0 <= host.busy_share <= 1 or not 0 <= host.wait_minutes <= 60 * 24 * 7:
        raise InputError(f"{where}: busy_share lies between 0 and 1, and wait_minutes between 0 and a week")
    for name, value in host.variables.items():
        if not VARIABLE.fullmatch(name) or "\0" in value:
            raise InputError(f"{where}: the variable {name!r} = {value!r} is invalid; a name has letters, digits and '_' only")
    for option in host.sbatch:
        if not option.isprintable():
            raise InputError(f"{where}: sbatch = {option!r} has control characters; write such as '--partition=gpu'")
