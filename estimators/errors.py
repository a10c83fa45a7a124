"""Errors that say what is wrong, the value seen, what is allowed and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ShmooError(Exception):
    """Base of every error a user of Shmoo can cause or must act on."""


class InputError(ShmooError):
    """A name, value, option or file the user gave cannot be used."""


class FormatError(InputError):
    """A file is unreadable, of a newer format, or damaged; the message names field or line and version."""


class NothingMeasuredError(ShmooError):
    """A command that needs measurements found none it can use."""


def unknown(kind: str, name: str, allowed: Iterable[str], remedy: str = "") -> InputError:
    """Build the error for a name that is not known, suggesting the nearest ones.

    Args:
        kind: what the name stands for, such as "architecture".
        name: the name seen.
        allowed: every valid name.
        remedy: what to do about it, when more than picking a valid name.
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?"
    elif len(names) <= 12:
        hint = f"allowed: {', '.join(names)}"
    else:
        hint = f"{len(names)} names are allowed, among them {', '.join(names[:8])}"
    message = f"unknown {kind} {name!r}: {hint}"
    return InputError(f"{message}; {remedy}" if remedy else message)
