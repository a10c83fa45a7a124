"""Errors whose messages name the fault, the value seen, the allowed values and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


class ShmooError(Exception):
    """Base of every error a user of Shmoo can cause or must act on."""


class InputError(ShmooError):
    """A name, value, option or file the user gave cannot be used."""


class FormatError(InputError):
    """A file is unreadable, damaged or of a newer format; the message names field or line and version."""


class NewerFormatError(FormatError):
    """A file's format is newer than this version."""


class StorageError(ShmooError):
    """The disk is full or failing. Everything written before is kept."""


class NothingMeasuredError(ShmooError):
    """A command needs measurements, and none is usable."""


def not_installed(what: str, requirement: str, why: str = "") -> InputError:
    """The error for a missing package. Its message says what needs the package (`what`), why the installed one does not serve
    (`why`), and which command installs it. The command works for an installed Shmoo and for a checkout."""
    reason = f" ({why})" if why else ""
    return InputError(
        f"{what} need {requirement}, which is not installed here{reason}; install it with: pip install '{requirement}'"
    )


SPELLED_OUT, MOST_NEAR = 3, 6
"""Letters from which on a part of a name counts as meant, and most names that are suggested then."""


def _plain(name: str) -> str:
    """A name as people remember it, without case and separators."""
    return re.sub(r"[^a-z0-9.]", "", name.lower())


def unknown(kind: str, name: str, allowed: Iterable[str], remedy: str = "") -> InputError:
    """The error for an unknown name of a kind of thing ("architecture"), with the nearest valid ones as suggestions; `remedy` is
    advice beyond picking one of them."""
    names = sorted(allowed)
    plain = {candidate: _plain(candidate) for candidate in names}
    query = _plain(str(name))
    close_names = [candidate for candidate in names if len(query) >= SPELLED_OUT and query in plain[candidate]][:MOST_NEAR]
    close = difflib.get_close_matches(query, plain.values(), n=3, cutoff=0.5)
    close_names = close_names or [
        next(candidate for candidate in names if plain[candidate] == match) for match in dict.fromkeys(close)
    ]
    if close_names:
        hint = f"did you mean {' or '.join(repr(n) for n in close_names)}?"
        hint += f" allowed: {', '.join(names)}" if len(names) <= 12 else ""
    elif not names:
        hint = "there is none"
    elif len(names) <= 12:
        hint = f"allowed: {', '.join(names)}"
    else:
        hint = f"{len(names)} names are allowed, among them {', '.join(names[:8])}"
    message = f"unknown {kind} {name!r}: {hint}"
    return InputError(f"{message}; {remedy}" if remedy else message)


def only_one(values: Sequence[T], flag: str) -> T | None:
    """The value of a list where one is taken; `None` where there is none, `InputError` for several values."""
    if len(values) > 1:
        raise InputError(f"{flag} takes one value here, got {', '.join(map(str, values))}; run the command once for each")
    return values[0] if values else None
