"""`shmoo cache`: lists and removes cached captures."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click
import msgspec

from shmoo.estimators.units import size
from shmoo.harness.cli import options, output
from shmoo.harness.defaults import capture_folder
from shmoo.harness.models.capture_cache import LIMIT_BYTES, CacheEntry, clear_captures, list_captures

EXAMPLES = """\b
Examples:
  shmoo cache
  shmoo cache list --json
  shmoo cache clear resnet18
  shmoo cache clear
"""
_AGES = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


@click.group(invoke_without_command=True, epilog=EXAMPLES)
@options.as_json
@click.pass_context
def cache(ctx: click.Context, as_json: bool) -> None:
    """Cached graphs of models. Without a sub-command, list them.

    A captured model is read from disk as long as the request, the files and environment variables that its code read, the
    installed packages and Shmoo's code are the same. The folder is SHMOO_CACHE_DIR, or the platform's cache; beyond 256 MiB the
    least recently used captures are removed.
    """
    if options.without_subcommand(ctx, as_json):
        ctx.invoke(list_cache, as_json=as_json)


@cache.command("list", epilog="Example: shmoo cache list --json", short_help="Cached captures.")
@options.as_json
def list_cache(as_json: bool) -> None:
    """Every cached capture, last used first."""
    folder = capture_folder()
    entries = list_captures(folder)
    total = sum(entry.nbytes for entry in entries)
    if as_json:
        captures = [msgspec.to_builtins(entry) for entry in entries]
        output.json_document(
            {"format": 1, "folder": str(folder), "bytes": total, "limit_bytes": LIMIT_BYTES, "captures": captures}
        )
        return
    if entries:
        output.table(["model", "sizes", "dtype", "mode", "size", "last used"], _rows(entries), left=4)
    output.message(f"{len(entries)} captures, {size(total)} of at most {size(LIMIT_BYTES)}, in {folder}")


@cache.command("clear", epilog="Example: shmoo cache clear resnet18", short_help="Remove cached captures.")
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@options.as_json
def clear_cache(models: tuple[str, ...], as_json: bool) -> None:
    """Remove the captures of each MODEL, by default all captures."""
    folder = capture_folder()
    removed = clear_captures(folder, models)
    if as_json:
        output.json_document({"format": 1, "folder": str(folder), "removed": removed})
    else:
        output.message(f"removed {removed} captures from {folder}")


def _rows(entries: Sequence[CacheEntry]) -> list[list[str]]:
    now_s = time.time()
    rows = []
    for entry in entries:
        sizes = "axes only" if entry.point is None else " ".join(f"{name}={value}" for name, value in entry.point.items())
        mode = " ".join(
            part for part in (entry.request.mode.name, entry.request.mode.autocast, entry.request.mode.quantize) if part
        )
        seconds = max(now_s - entry.used_at_s, 0)
        unit, name = next(((unit, name) for unit, name in _AGES if seconds >= 2 * unit), _AGES[-1])
        age = f"{seconds / unit:.0f} {name} ago"
        rows.append([entry.request.model, sizes or "its own", entry.request.dtype or "its own", mode, size(entry.nbytes), age])
    return rows
