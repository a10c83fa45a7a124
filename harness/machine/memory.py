"""Memory that is left for this process: of the machine, and of the container that it runs in."""

from __future__ import annotations

from pathlib import Path

import psutil

CONTAINER = Path("sys/fs/cgroup")
LIMITS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Files of a container's limit, use and its parts, of control groups of version 2 and 1 (cgroups(7))."""


def available_bytes(root: Path = Path("/")) -> float:
    """Bytes that can be taken without swapping and within the container's limit; `root` holds sys."""
    available = float(psutil.virtual_memory().available)
    for limit, used, parts in LIMITS:
        try:
            most = int((root / CONTAINER / limit).read_text())
            taken = int((root / CONTAINER / used).read_text())
            fields = dict(line.split() for line in (root / CONTAINER / parts).read_text().splitlines())
        except (OSError, ValueError):
            continue  # no such version, or no limit ("max")
        # Cached files give way.
        available = min(available, most - taken + int(fields.get("inactive_file", 0)))
    return max(available, 0.0)


def process_bytes() -> float:
    """Bytes of this process that are in memory."""
    return float(psutil.Process().memory_info().rss)
