"""A Shmoo that measures nothing, for hosts of tests: it writes rows as fast as asked and goes on where a run ends."""

from __future__ import annotations

import sys
from pathlib import Path

from shmoo.harness.fleet.hosts import Host

SLOWLY = {"STAND_IN_ROWS": "40", "STAND_IN_PAUSE_S": "0.1"}
"""Variables of a stand-in that takes four seconds."""
CODE = """
import json, os, signal, sys, time
arguments = sys.argv[1:]
run = arguments[arguments.index("--out") + 1]
rows, pause = int(os.environ.get("STAND_IN_ROWS", "5")), float(os.environ.get("STAND_IN_PAUSE_S", "0.01"))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
if "--resume" in arguments and not os.path.isdir(run):
    sys.exit(2)
os.makedirs(os.path.join(run, "graphs"), exist_ok=True)
if os.environ.get("STAND_IN_SAYS"):
    sys.stderr.write(os.environ["STAND_IN_SAYS"] + "\\n")
    sys.exit(2)
path = os.path.join(run, "rows.jsonl")
try:
    with open(os.path.join(run, "run.json"), "w") as file:
        file.write("{}")
    skipped = os.path.join(run, "skipped.json")
    if os.environ.get("STAND_IN_SKIPS") and not os.path.exists(path):
        with open(skipped, "w") as file:
            file.write("[1, 2]")
    elif os.path.exists(skipped):
        os.remove(skipped)
    done = open(path).read().count("\\n") if os.path.exists(path) else 0
    for number in range(done, rows):
        row = json.dumps({"case": number, "pad": "x" * int(os.environ.get("STAND_IN_PAD", "10"))}) + "\\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        size = os.fstat(descriptor).st_size
        if os.write(descriptor, row.encode()) < len(row):
            os.ftruncate(descriptor, size)
            raise OSError("No space left on device")
        os.close(descriptor)
        time.sleep(pause)
except OSError as error:
    sys.stderr.write(f"shmoo: cannot write to {run}: {error}\\n")
    sys.exit(2)
"""


def stand_in(folder: Path) -> Path:
    """A folder for PYTHONPATH that holds the stand-in, as if it were installed."""
    package = folder / "stand-in"
    cli = package / "shmoo" / "harness" / "cli"
    cli.mkdir(parents=True)
    for init in (package / "shmoo", package / "shmoo" / "harness", cli):
        (init / "__init__.py").touch()
    (cli / "__main__.py").write_text(CODE)
    information = package / "shmoo-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: shmoo\nVersion: 1.0\n")
    return package


def host(name: str, folder: Path, *, engine: str = "local", **changed: object) -> Host:
    """A host with a home of its own below `folder`, whose Shmoo is the stand-in."""
    package = folder / "stand-in" if (folder / "stand-in").exists() else stand_in(folder)
    pins = folder / "constraints.txt"
    pins.write_text("shmoo==1.0\n")
    temporary = folder / name / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    variables = {"PYTHONPATH": str(package), "TMPDIR": str(temporary)} | dict(changed.pop("variables", {}))  # type: ignore[call-overload]
    fields: dict[str, object] = {
        "directory": str(folder / name / "fleet"),
        "python": sys.executable,
        "environment": sys.prefix,
        "constraints": str(pins),
        "variables": variables,
        "when_busy": "measure",
        "wait_minutes": 1.0,
    }
    return Host(name, engine, **{**fields, **changed})  # type: ignore[arg-type]
