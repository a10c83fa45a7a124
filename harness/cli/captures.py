"""The option --no-cache, and models whose captures are kept between commands."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from shmoo.harness.cli import output
from shmoo.harness.defaults import capture_folder

if TYPE_CHECKING:
    from shmoo.harness.models.asked import Asked
    from shmoo.harness.models.capture_cache import CaptureCache
    from shmoo.harness.models.source import ModelSource

_no_cache = click.option(
    "--no-cache", is_flag=True, help="Capture the model anew and keep nothing; otherwise see `shmoo cache --help`."
)


def kept(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --no-cache; the command takes the cache to use as `cache`, `None` for none."""

    @_no_cache
    @functools.wraps(command)
    def with_cache(*, no_cache: bool, **given: Any) -> Any:
        return command(cache=None if no_cache else _open_cache(), **given)

    return with_cache


def _open_cache() -> CaptureCache | None:
    from shmoo.harness.models.capture_cache import CaptureCache, software

    known = software()
    return None if known is None else CaptureCache(capture_folder(), known)


def source(asked: Asked, cache: CaptureCache | None) -> ModelSource:
    """The graphs of a model; says on stderr when code of the user's runs to make it."""
    from shmoo.harness.models.source import ModelSource

    told = click.get_current_context().meta.setdefault(__name__, set())

    def before_capture() -> None:
        if asked.model not in told:
            told.add(asked.model)
            output.tell_of_code([asked.model])

    return ModelSource(asked, cache, before_capture)
