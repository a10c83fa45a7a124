"""Fetches the growing rows of a campaign: files are copied to a side folder, compared with the host's hashes, then moved in
place.

A fetch may be repeated and interrupted at any moment; fetched rows are only ever extended.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import msgspec

from shmoo.estimators.errors import FormatError, ShmooError
from shmoo.estimators.graph.records import UNREADABLE
from shmoo.harness.fleet.campaign import Campaign
from shmoo.harness.fleet.channels import HostRefusal, ask
from shmoo.harness.fleet.hosts import Host
from shmoo.runs.store.files import own_folder, read_regular, replace_file
from shmoo.runs.store.store import ROWS

INCOMING = ".incoming"
"""Folder beside a host's files for incoming copies."""
COPY_TIME_S = 600.0
"""Time limit for hashing a large run."""


class FetchResult(msgspec.Struct, frozen=True):
    """The result of fetching from one host: new or longer files, their bytes, and the reason if nothing was fetched."""

    name: str
    files: int = 0
    size: int = 0
    problem: str = ""


def fetch(campaign: Campaign) -> tuple[FetchResult, ...]:
    """Fetch from every host; the result of an unreachable host has the reason."""
    results = campaign.for_each_host(lambda host: _fetch(campaign, host), campaign.file.hosts)
    return tuple(
        FetchResult(name, problem=str(result)) if isinstance(result, ShmooError) else result for name, result in results.items()
    )


def _fetch(campaign: Campaign, host: Host) -> FetchResult:
    target = campaign.fetched(host.name)
    hello, channel = campaign.reach(host)
    folder = campaign.folder(host, hello.directory)
    listing = ask(channel, host.python, "listing", dict[str, tuple[int, str]], timeout_s=COPY_TIME_S, folder=folder)
    for name in listing:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.parts[:1] not in (("run",), ("facts.jsonl",)) or "\0" in name:
            raise HostRefusal(f"the host lists a file {name!r}, which does not belong to a run; nothing was fetched")
    changed = [name for name, (_, digest) in listing.items() if _digest(target / name) != digest]
    if not changed:
        return FetchResult(host.name)
    for part in (target.parent, target, target / INCOMING):
        own_folder(part)
    incoming = target / INCOMING
    tops = sorted({PurePosixPath(name).parts[0] for name in changed})
    channel.pull(folder, tops, incoming)
    contents = {name: _content(incoming / name, *listing[name]) for name in changed}
    # Graphs are stored before the rows that name them.
    for name in sorted(contents, key=lambda name: (PurePosixPath(name).name == ROWS, name)):
        _put(contents[name], target / name)
    return FetchResult(host.name, len(contents), sum(map(len, contents.values())))


def _digest(path: Path) -> str:
    return hashlib.sha256(read_regular(path)).hexdigest() if path.exists() else ""


def _content(path: Path, size: int, digest: str) -> bytes:
    """The listed part of a file, which may have grown since; `HostRefusal` where the content differs."""
    try:
        data = read_regular(path)[:size]
    except OSError as error:
        raise HostRefusal(f"{path.name} did not arrive ({error.strerror}); fetch again") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise HostRefusal(f"{path.name} arrived damaged, its hash differs from the host's; fetch again")
    # A partly written row is fetched next time.
    return data[: data.rfind(b"\n") + 1] if path.name == ROWS else data


def _put(data: bytes, path: Path) -> None:
    """Replace a file; `HostRefusal` where new rows do not begin with the old ones."""
    own_folder(path.parent)
    if path.name == ROWS and path.exists() and not data.startswith(read_regular(path)):
        raise HostRefusal(
            f"the rows on the host do not continue those fetched before, which are kept in {path}; "
            "was the run there removed and measured again? Move them away, then fetch again"
        )
    replace_file(path, data)


def last_facts(fetched: Path) -> dict[str, object]:
    """A host's facts from its last attempt, read from the folder of its fetched files; empty where nothing was fetched."""
    path = fetched / "facts.jsonl"
    if not path.exists():
        return {}
    try:
        lines = read_regular(path).splitlines()
        return msgspec.json.decode(lines[-1], type=_Facts).facts if lines else {}
    except UNREADABLE:
        raise FormatError(f"cannot read {path}: it is damaged; fetch again") from None


class _Facts(msgspec.Struct, frozen=True):
    facts: dict[str, object]
