"""What several test files put in the place of the real thing."""

from __future__ import annotations


class Clock:
    """A monotonic clock that moves only when it is told to; seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def no_nvml():
    """A machine without a driver."""
    raise OSError("no NVIDIA driver answers")
