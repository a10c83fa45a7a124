"""The error of a model that cannot be captured."""

from __future__ import annotations

from shmoo.estimators.errors import InputError


class CaptureError(InputError):
    """No graph could be taken of a model; the message holds what each way of capturing said."""
