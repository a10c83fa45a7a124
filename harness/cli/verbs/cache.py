"""`shmoo cache`: the captures that are kept, and their removal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from shmoo.estimators.units import size
from shmoo.harness.cli import options, output
from shmoo.harness.defaults import capture_folder

if TYPE_CHECKING:
    from shmoo.harness.models.capture_cache import CacheEntry

EXAMPLES = """\b
Examples:
  shmoo cache
  shmoo cache list --json
  shmoo cache clear resnet18
  shmoo cache clear
"""
_AGES = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


@click.group(invoke_without_command=True, epilog=EXAMPLES, short_help="Captured graphs that are kept: list them, clear them.")
@options.as_json
@click.pass_context
def cache(ctx: click.Context, as_json: bool) -> None:
    """Captured graphs that are kept. Without a sub-command, list them.

    A model that was captured before is read from disk while the request, every file its code read, its environment variables, the
    installed packages and Shmoo's own code are the same. The folder is that of SHMOO_CACHE_DIR, or the platform's cache; beyond
    256 MiB the captures that were used longest ago are removed.
    """
    if options.alone(ctx, as_json):
        ctx.invoke(list_cache, as_json=as_json)


@cache.command("list", epilog="Example: shmoo cache list --json", short_help="What is kept.")
@options.as_json
def list_cache(as_json: bool) -> None:
    """Every capture that is kept, last used first."""
    from shmoo.harness.models.capture_cache import LIMIT_BYTES, list_captures

    folder = capture_folder()
    listed = list_captures(folder)
    total = sum(one.nbytes for one in listed)
    if as_json:
        captures = [msgspec.to_builtins(one) for one in listed]
        output.json_document(
            {"format": 1, "folder": str(folder), "bytes": total, "limit_bytes": LIMIT_BYTES, "captures": captures}
        )
        return
    if listed:
        output.table(["model", "sizes", "dtype", "mode", "size", "last used"], _rows(listed), left=4)
    output.message(f"{len(listed)} captures, {size(total)} of at most {size(LIMIT_BYTES)}, in {folder}")


@cache.command("clear", epilog="Example: shmoo cache clear resnet18", short_help="Remove what is kept.")
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@options.as_json
def clear_cache(models: tuple[str, ...], as_json: bool) -> None:
    """Remove the captures of each MODEL, or all captures where none is named."""
    from shmoo.harness.models.capture_cache import clear_captures

    folder = capture_folder()
    removed = clear_captures(folder, models)
    if as_json:
        output.json_document({"format": 1, "folder": str(folder), "removed": removed})
    else:
        output.message(f"removed {removed} captures from {folder}")


def _rows(listed: Sequence[CacheEntry]) -> list[list[str]]:
    now = time.time()
    rows = []
    for one in listed:
        sizes = "axes only" if one.point is None else " ".join(f"{name}={value}" for name, value in one.point.items())
        mode = " ".join(part for part in (one.request.mode.name, one.request.mode.autocast, one.request.mode.quantize) if part)
        seconds = max(now - one.used_at_s, 0)
        unit, name = next(((unit, name) for unit, name in _AGES if seconds >= 2 * unit), _AGES[-1])
        age = f"{seconds / unit:.0f} {name} ago"
        rows.append([one.request.model, sizes or "its own", one.request.dtype or "its own", mode, size(one.nbytes), age])
    return rows
