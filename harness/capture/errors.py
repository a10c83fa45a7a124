"""The error of a model that cannot be captured."""

from __future__ import annotations

from shmoo.estimators.errors import InputError


class CaptureError(InputError):
    """No graph could be taken of a model; the message holds what each way of capturing said."""


def first_line(problem: object) -> str:
    """The first line of an error that says something, or its type."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__
