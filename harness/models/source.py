"""A model's graphs at sizes, read from the cache or captured. Imports torch only to capture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

from shmoo.harness.models.asked import Asked, ModelGraphs
from shmoo.harness.models.capture_cache import CaptureCache
from shmoo.runs.store.records import AxisValue

if TYPE_CHECKING:
    from shmoo.harness.models.model_graphs import WorkloadGraphs


class ModelSource:
    """The graphs of one model.

    Args:
        cache: where captures are kept; `None` captures each time.
        before_capture: called before the model is captured, and not where everything is read.
    """

    def __init__(self, asked: Asked, cache: CaptureCache | None = None, before_capture: Callable[[], None] | None = None) -> None:
        self._asked = asked
        self._cache = cache
        self._before_capture = before_capture
        self._opened: WorkloadGraphs | None = None

    def at(self, point: Mapping[str, AxisValue]) -> ModelGraphs:
        """The graphs at one of the points asked for.

        Raises:
            CaptureError: torch cannot capture the model.
            InputError: unknown model, or sizes and modes that it does not take.
        """
        size = dict(point)
        kept = None if self._cache is None else self._cache.find(self._asked, size)
        if kept is not None and kept.graphs is not None:
            return kept.graphs
        with nullcontext() if self._cache is None else self._cache.recording(self._asked.model):
            opened = self._open()
            graphs = opened.at(size)
        if self._cache is not None:
            self._cache.keep(self._asked, size, opened.axes, graphs)
        return graphs

    def axes(self) -> dict[str, AxisValue]:
        """The default of every axis.

        Raises:
            InputError: as of `at`.
        """
        kept = None if self._cache is None else self._cache.find(self._asked, None)
        if kept is not None:
            return kept.axes
        with nullcontext() if self._cache is None else self._cache.recording(self._asked.model):
            axes = self._open().axes
        if self._cache is not None:
            self._cache.keep(self._asked, None, axes)
        return axes

    def _open(self) -> WorkloadGraphs:
        if self._opened is None:
            if self._before_capture is not None:
                self._before_capture()
            from shmoo.harness.models.model_graphs import open_model

            self._opened = open_model(self._asked)
        return self._opened
