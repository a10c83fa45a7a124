"""What people wait for: CPU seconds and peak memory of commands, each in a process of its own, beside `import torch` in the same
run. Ratios hold on any machine; a bound in seconds would not."""

from __future__ import annotations

import compileall
import itertools
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from shmoo import calibrate, estimators, harness, runs
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.units import si
from shmoo.harness.cli import output
from shmoo.runs.store.files import csv_bytes
from shmoo.runs.store.records import EnergyReading, Machine, Measurement, RunManifest, Timing
from shmoo.runs.store.store import RunWriter
from shmoo.runs.tables.reading import TableRow, read_table

REFERENCE = (sys.executable, "-c", "import torch")
ROWS = 100_000
"""Rows of the run that verbs go through; what is calibrated and reported on by default is smaller (`Sizes`)."""
ARCH, TABLE_ARCH = "cpu_server_generic", "gpu_t4"
MEGABYTE = 1e6
LARGE = (13.0, 500.0)
"""Bounds of commands on large runs: 20 s where `import torch` takes 1.54, and megabytes."""
METER = """
import os, sys
unseen = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=unseen)
_, status, usage = os.wait4(process, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024.0)
"""
"""Runs a command from a process that is small itself: the peak memory of a process begins with that of the one that starts it."""
DECIDED = (0, 1, 4)
"""Exit codes of a command that did its work: done; a check failed; too noisy to decide."""
AXES = ("capacity.l2=1e6..1e9", "bandwidth.dram=5e11..8e12")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows of the run that verbs go through, and in proportion of the run that is reported on and of the operator table."""

    rows: int = ROWS

    @property
    def reported(self) -> int:
        """A campaign of a day."""
        return max(self.rows // 50, 2)

    @property
    def tabulated(self) -> int:
        """A published table of one machine."""
        return max(self.rows * 16 // 100, 2)


@dataclass(frozen=True, slots=True)
class Wait:
    """A command that people wait for.

    Attributes:
        arguments: of `shmoo`.
        most: bound of its CPU seconds over those of `import torch`.
        most_mb: bound of its peak memory.
        before: arguments of a command that runs first, untimed.
    """

    name: str
    arguments: Sequence[str]
    most: float
    most_mb: float | None = None
    before: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds, user and system, of a command with its children, and the peak memory of its process."""

    seconds: float
    nbytes: float


@dataclass(frozen=True, slots=True)
class Waited:
    """A wait as it was measured."""

    wait: Wait
    spent: Spent
    reference: Spent
    """What `import torch` takes."""
    ratio: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", self.spent.seconds / self.reference.seconds)

    @property
    def held(self) -> bool:
        """Whether time and memory are within their bounds."""
        return self.ratio <= self.wait.most and self.spent.nbytes <= (self.wait.most_mb or float("inf")) * MEGABYTE


def waits(folder: Path, sizes: Sizes) -> tuple[Wait, ...]:
    """The commands, on data in a folder that `write_data` filled."""
    run, again, reported, table = (str(folder / name) for name in ("rows", "again", "reported", "table.csv"))
    estimate, machine = ("estimate", "--json"), ("sweep", "resnet50", "--arch", "gpu_h100", "--csv", str(folder / "sweep.csv"))
    large = (*estimate, "llama3_70b")
    fit = ("calibrate", table, "--base", TABLE_ARCH, "-o", str(folder / "fitted.json"))

    def points(side: int) -> tuple[str, ...]:
        return (*machine, *itertools.chain.from_iterable(("--profile-axis", f"{axis}:{side}") for axis in AXES))

    def report(source: str, out: str) -> tuple[str, ...]:
        return ("report", source, "--profile", ARCH, "-o", str(folder / out))

    return (
        # On every built-in machine.
        Wait("estimate, new", (*estimate, "resnet18", "--no-cache"), 1.8),
        Wait("estimate, cached", (*estimate, "resnet18"), 0.8, before=(*estimate, "resnet18")),
        Wait("estimate 70B, new", (*large, "--no-cache"), 9.0),
        Wait("estimate 70B, cached", large, 1.5, before=large),
        Wait(f"estimate --ops, {sizes.tabulated:,} rows", (*estimate, "--ops", table, "--arch", TABLE_ARCH), 1.8),
        Wait(f"check, {sizes.rows:,} rows", ("check", run), *LARGE),
        Wait(f"show, {sizes.rows:,} rows", ("show", run), *LARGE),
        Wait(f"show --json, {sizes.rows:,} rows", ("show", run, "--json"), *LARGE),
        Wait(f"show --csv, {sizes.rows:,} rows", ("show", run, "--csv", str(folder / "show.csv")), *LARGE),
        Wait(f"compare, 2 x {sizes.rows:,} rows", ("compare", run, again), *LARGE),
        Wait(f"compare --json, 2 x {sizes.rows:,} rows", ("compare", run, again, "--json"), *LARGE),
        Wait(f"history, 2 x {sizes.rows:,} rows", ("history", run, again, "-o", str(folder / "history.html")), *LARGE),
        Wait(f"history --json, 2 x {sizes.rows:,} rows", ("history", run, again, "--json"), *LARGE),
        Wait(f"report, {sizes.rows:,} rows", report(run, "all"), *LARGE),
        Wait(f"report, {sizes.reported:,} rows", report(reported, "some"), 3.0),
        Wait(f"calibrate, {sizes.tabulated:,} rows", fit, 16.0),
        Wait("sweep, 256 points", points(16), 1.8, before=points(2)),
        Wait("sweep, 10,000 points", points(100), 1.8),
        Wait("sweep, 100,000 points", points(316), 6.0, LARGE[1]),
        Wait("sweep --json, 100,000 points", (*points(316), "--json"), *LARGE),
    )


def measure(chosen: Sequence[Wait], home: Path) -> Iterator[Waited]:
    """Run the commands one after another, in a home of their own, with Shmoo compiled as where it is installed.

    Raises:
        subprocess.CalledProcessError: one failed.
    """
    for room in (estimators, runs, calibrate, harness):
        compileall.compile_dir(room.__path__[0], quiet=2)
    reference = _spent(REFERENCE, home)
    for wait in chosen:
        if wait.before:
            _spent(_shmoo(wait.before), home)
        yield Waited(wait, _spent(_shmoo(wait.arguments), home), reference)


def write_data(folder: Path, sizes: Sizes) -> None:
    """Runs and an operator table, with plausible times."""
    write_run(folder / "rows", sizes.rows)
    write_run(folder / "again", sizes.rows, seed=1)
    write_run(folder / "reported", sizes.reported, visits=2)
    write_table(folder / "table.csv", sizes.tabulated)


def write_run(path: Path, rows: int, visits: int = 1, threads: int = 1, seed: int = 0) -> None:
    """A run of linear layers, a case a row, on fewer threads than the machine has cores."""
    rng = random.Random(seed)
    machine = Machine("CPU", 2, 4, 2**33, {"l1": 48 * 2**10, "l2": 2 * 2**20})
    with RunWriter(path, RunManifest(machine, "micro", settings={"visits": visits})):
        pass
    lines = []
    for m, n, k in itertools.islice(_sizes(rows), rows):
        row = TableRow(2, "linear", {"b": 1, "m": m, "n": n, "k": k})
        graph = row.graph()
        (path / "graphs" / f"{graph.content_hash}.json").write_bytes(graph.to_json())
        case = msgspec.structs.replace(row.case, threads=threads)
        usual = (2e-6 + m * n * k / 2e10) * rng.lognormvariate(0.0, 0.05)
        for visit in range(visits):
            timing = Timing(tuple(usual * rng.lognormvariate(0.0, 0.02) for _ in range(8)))
            measured = Measurement(case, "ok", (), (graph.content_hash,), timing, energy=(_energy(usual, rng),), visit=visit)
            lines.append(msgspec.json.encode(measured))
    (path / "rows.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def _energy(call_s: float, rng: random.Random) -> EnergyReading:
    """What a counter reads of a package that draws about 30 W, in three windows of a second."""
    trials = tuple(30.0 * call_s * rng.lognormvariate(0.0, 0.02) for _ in range(3))
    middle, calls = sorted(trials)[1], round(3.0 / call_s)
    ends = 0.97 * min(trials), 1.03 * max(trials)
    return EnergyReading("package", middle, "", *ends, 3.0, calls, 10.0, 10.1, trials)


def write_table(path: Path, rows: int) -> None:
    """An operator table of matrix products and softmaxes, with the times and energies that a profile predicts, disturbed."""
    rng = random.Random(0)
    listed: list[Mapping[str, object]] = []
    # From a launch to milliseconds: what takes as long as its launch tells a fit nothing.
    for number, sizes in enumerate(itertools.islice(_sizes(rows), rows)):
        m, n, k = (round(8 * 1.25 ** (extent // 8)) for extent in sizes)
        products: Mapping[str, object] = {"op": "linear", "b": 1, "m": m, "n": n, "k": k}
        listed.append(products if number % 4 else {"op": "softmax", "rows": m * 8, "cols": n})
    columns = ("op", "b", "m", "n", "k", "rows", "cols", "latency_s")
    bare = [{**row, "latency_s": 1e-3} for row in listed]
    path.write_bytes(csv_bytes(columns, bare))
    graphs = [row.graph() for row in read_table(path)]
    predicted = AnalysisDirector(load_profile(TABLE_ARCH)).price_cases(graphs, runtime="eager")
    times = itertools.chain.from_iterable(part.latency_s.tolist() for part in predicted)
    timed = [{**row, "latency_s": s * rng.lognormvariate(0.0, 0.05)} for row, s in zip(bare, times, strict=True)]
    path.write_bytes(csv_bytes(columns, timed))


def _sizes(count: int) -> Iterator[tuple[int, int, int]]:
    """Extents of at least `count` different matrix products."""
    side = int(count ** (1 / 3)) + 1
    return ((8 * m, 8 * n, 8 * k) for m, n, k in itertools.product(range(1, side + 1), repeat=3))


def _shmoo(arguments: Sequence[str]) -> tuple[str, ...]:
    return (sys.executable, "-m", "shmoo.harness.cli", *arguments)


def _spent(command: Sequence[str], home: Path) -> Spent:
    environment = {**os.environ, "SHMOO_HOME": str(home), "SHMOO_CACHE_DIR": str(home / "cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    metered = (sys.executable, "-I", "-S", "-c", METER, *command)
    done = subprocess.run(metered, env=environment, capture_output=True, text=True, errors="replace", check=True)
    code, seconds, nbytes = done.stdout.split()
    if int(code) not in DECIDED:
        raise subprocess.CalledProcessError(int(code), command, stderr=done.stderr)
    return Spent(float(seconds), float(nbytes))


def show_waits(sizes: Sizes, only: str = "") -> bool:
    """Measure and print those whose name holds a text; whether every bound held."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, sizes)
        measured = list(measure([wait for wait in waits(folder, sizes) if only in wait.name], folder / "home"))
    lines = [
        [
            waited.wait.name,
            si(waited.spent.seconds, "s"),
            f"{waited.ratio:.2f}",
            f"{waited.wait.most:g}",
            f"{waited.spent.nbytes / MEGABYTE:.0f}",
            "" if waited.wait.most_mb is None else f"{waited.wait.most_mb:.0f}",
            "" if waited.held else "missed",
        ]
        for waited in measured
    ]
    output.table(["command", "CPU time", "x import torch", "bound", "MB", "bound", ""], lines)
    return all(waited.held for waited in measured)
