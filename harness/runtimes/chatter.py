"""Keeps what torch's profiler writes about itself off stderr."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

CHATTER = ("USDT:", "ActivityProfilerHandler")
"""Words in the lines that torch's profiler writes about itself; such a line never explains why a process ended."""


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """While active, descriptor 2 leads to a file; afterwards its other lines go where they belong. Nothing changes where the
    descriptor is closed."""
    try:
        before = os.dup(2)
    except OSError:
        yield
        return
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            written.seek(0)
            for line in written:
                if not any(word.encode() in line for word in CHATTER):
                    os.write(2, line)
