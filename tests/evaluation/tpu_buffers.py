"""SCALE-Sim's double buffers, replayed: the cycles of the serial mode where the simulator is given a memory bandwidth.

For checks of transcription only, never for a prediction: what follows is one simulator's rules (SCALE-Sim 3, matrix products), no
chip's. Its array advances one step a cycle and waits for the slowest of three buffers, which know nothing of each other.

- **An operand** is fetched in one fixed order, over and over: panels of the array's width one after the other, element by
  element, or by diagonals where the array reads it skewed. The order is cut into sets of a hundredth of the buffer. Half the
  buffer holds consecutive sets; a request for another one moves that window on by as many as the other half holds, again and
  again until it is hit. Each move takes what the other half takes to arrive, and a cycle, from the end of the one before.
- **Lateness counts twice**: if a move ends late by p cycles, the request is answered 2 p later; if early, sooner by p, which
  later moves in the same step build on.
- **Results** are gathered into lines of a cycle's words. Once less than half the buffer is free and no drain is under way, the
  open line is closed as it is and half a buffer of lines drains; only the last of them is counted by what it holds. The array
  waits for the end of a drain when nothing is free.

Between moves and drains nothing happens, so the replay goes from one to the next. It keeps a place for each word of the operands
that are streamed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

import numpy as np

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.tiling.tpu import Dataflow

_SETS = 100
"""Parts of a buffer that hits are looked up in."""
_NOTHING = -1
"""Place of an array's row or column that asks for no word in a step."""


def buffered_cycles(
    product: tuple[int, int, int],
    array: tuple[int, int],
    dataflow: Dataflow,
    buffers: tuple[int, int, int],
    words_per_cycle: int,
) -> int:
    """Cycles of a matrix product on an array behind double buffers.

    Args:
        product: m, n and k of (m, k) by (k, n).
        array: rows and columns.
        dataflow: the operand that stays on the array: "ws" weights, "is" inputs, "os" outputs.
        buffers: words of inputs, of weights and of results that there is room for, both halves together.
        words_per_cycle: between each buffer and the memory.

    Raises:
        InputError: an extent or the bandwidth below 1, a buffer of fewer words than halves, or an unknown dataflow.
    """
    if dataflow not in get_args(Dataflow):
        raise unknown("dataflow of a systolic array", dataflow, get_args(Dataflow))
    if min(*product, *array, words_per_cycle) < 1 or min(buffers) < 2:
        raise InputError(
            f"a product {product} on an array {array} behind buffers of {buffers} words at {words_per_cycle} words a cycle "
            f"cannot be replayed; extents and bandwidth are at least 1, buffers at least 2"
        )
    m, n, k = product
    input_words, weight_words, result_words = buffers
    if dataflow == "is":
        # The same as weights that stay, of the transposed product.
        m, n, input_words, weight_words = n, m, weight_words, input_words
    inputs = _Window(m * k, input_words, words_per_cycle)
    weights = _Window(k * n, weight_words, words_per_cycle)
    results = _Results(result_words, words_per_cycle)
    folds = _output_stationary if dataflow == "os" else _weight_stationary
    begin = end = stalled = 0
    for asked_inputs, asked_weights, written in folds(m, n, k, *array):
        steps = len(written)
        inputs.enter(asked_inputs)
        weights.enter(asked_weights)
        at = 0
        while (step := min(inputs.miss, weights.miss, results.event(written, at, begin + stalled))) < steps:
            now = begin + step + stalled
            results.gather(int(written[at:step].sum()))
            late = results.write(int(written[step]), now)
            stalled += max(late, inputs.read(step, now), weights.read(step, now))
            at, end = step + 1, now + late + 1
        results.gather(int(written[at:].sum()))
        begin += steps
        if at < steps:
            end = begin + stalled
    return end


class _Window:
    """The half of an operand's buffer that the array reads from."""

    def __init__(self, words: int, buffer: int, words_per_cycle: int) -> None:
        active = math.ceil(buffer / 2)
        self._per_set = math.ceil(buffer / _SETS)
        self._sets = words // self._per_set + 1
        self._held = min(self._sets, math.ceil(active / self._per_set))
        self._move = min(self._sets - self._held, math.ceil((buffer - active) / self._per_set))
        self._move_cycles = math.ceil((buffer - active) / words_per_cycle) + 1
        self._first = 0
        self._arrived = -1
        self._asked = np.empty((0, 0), dtype=np.int64)
        self.miss = 0
        """The next step of the fold that asks for a set outside the window; the number of steps where none does."""

    def enter(self, places: np.ndarray) -> None:
        """Begin a fold: (steps, side) places in the order of fetching that are asked for, side by side."""
        self._asked = np.where(places == _NOTHING, _NOTHING, places // self._per_set)
        self._look(0)

    def read(self, step: int, now: int) -> int:
        """Cycles by which this step's requests are answered late; negative where a move ended before it was asked for."""
        if step != self.miss:
            return 0
        late = 0
        asked = self._asked[step]
        while (missing := self._outside(asked)).any():
            asked = asked[int(missing.argmax()) :]
            self._first = (self._first + self._move) % self._sets
            self._arrived += self._move_cycles
            behind = self._arrived - (now + 1 + late)
            late += behind + max(behind, 0)
        self._look(step + 1)
        return late

    def _look(self, step: int) -> None:
        # Further ahead the longer nothing is missing: where every step misses, the rest of the fold is not searched each time.
        ahead = 8
        while step < len(self._asked):
            missing = self._outside(self._asked[step : step + ahead]).any(axis=1)
            if missing.any():
                self.miss = step + int(missing.argmax())
                return
            step, ahead = step + ahead, 2 * ahead
        self.miss = len(self._asked)

    def _outside(self, asked: np.ndarray) -> np.ndarray:
        return (asked != _NOTHING) & ((asked - self._first) % self._sets >= self._held)


class _Results:
    """The buffer that results wait in."""

    def __init__(self, buffer: int, words_per_cycle: int) -> None:
        self._keep = math.ceil(buffer / 2)
        self._drained_lines = math.ceil((buffer - self._keep) / words_per_cycle)
        self._line = words_per_cycle
        self._free = buffer
        self._drained = 0
        """Cycle in which the last drain ends."""
        self._open = 0
        """Words since the last line was closed before it was full."""
        self._head = self._tail = 0
        """Lines drained, and closed, so far."""
        self._short: dict[int, int] = {}
        """Line -> its words, where fewer than a cycle's."""

    def event(self, written: np.ndarray, at: int, shift: int) -> int:
        """The first step from `at` on that starts or awaits a drain, where step i runs in cycle `shift` + i; len(written) if none
        does."""
        free = self._free - np.cumsum(written[at:])
        idle = shift + np.arange(at, len(written)) >= self._drained
        due = (written[at:] > 0) & np.where(idle, free < self._keep, free <= 0)
        return at + (int(due.argmax()) if due.any() else len(due))

    def gather(self, words: int) -> None:
        """Take words of steps in which nothing else happens."""
        self._free -= words
        self._open += words

    def write(self, words: int, now: int) -> int:
        """Take a step's words one by one; the cycles that the array waits for it."""
        cycle = now
        for _ in range(words):
            self.gather(1)
            if cycle < self._drained:
                if self._free <= 0:
                    cycle = self._drained
            elif self._free < self._keep:
                self._drained = cycle + self._drain() - 1
        return cycle - now

    def _drain(self) -> int:
        """Lines that leave, a cycle each."""
        full, rest = divmod(self._open, self._line)
        self._tail += full + (rest > 0)
        if rest:
            self._short[self._tail - 1] = rest
        self._open = 0
        lines = min(self._drained_lines, self._tail - self._head)
        self._head += lines
        self._free += lines * self._line - (self._line - self._short.get(self._head - 1, self._line))
        return lines


_Fold = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Requests of each step, (steps, side) places in the order of fetching, for inputs and weights; (steps,) results written."""


def _weight_stationary(m: int, n: int, k: int, rows: int, cols: int) -> Iterator[_Fold]:
    """Load R rows of weights, the last one first; stream M rows of inputs, skewed; results follow them, skewed."""
    steps = 2 * rows + cols + m - 2
    inputs = _by_diagonals(m, k, rows)
    for left in range(0, n, cols):
        width = min(cols, n - left)
        for index, panel in enumerate(inputs):
            row, col = (index + 1) * rows - 1 - np.arange(rows)[:, None], np.arange(cols)
            weights = np.full((steps, cols), _NOTHING)
            weights[:rows] = np.where((row < k) & (col < width), left * k + row * width + col, _NOTHING)
            yield _skewed(panel, rows, steps), weights, _written(2 * rows - 1, m, width, steps)


def _output_stationary(m: int, n: int, k: int, rows: int, cols: int) -> Iterator[_Fold]:
    """Stream both operands K deep, skewed; then shift the results out, the last row first."""
    steps = rows + cols + k - 2
    inputs = [_skewed(panel, 0, steps) for panel in _by_diagonals(k, m, rows)]
    weights = [_skewed(panel, 0, steps) for panel in _by_diagonals(k, n, cols)]
    for left, asked_weights in zip(range(0, n, cols), weights, strict=True):
        for top, asked_inputs in zip(range(0, m, rows), inputs, strict=True):
            height, width = min(rows, m - top), min(cols, n - left)
            yield asked_inputs, asked_weights, _written(k - 1 + rows - height, height, width, steps)


def _by_diagonals(length: int, extent: int, side: int) -> np.ndarray:
    """(panels, length, side) places in the order of fetching of an operand (length, extent) cut into panels of `side` columns:
    by diagonals of the panels on top of each other, from their lower ends."""
    panels = math.ceil(extent / side)
    in_last = extent - (panels - 1) * side
    heights = [length * (panels - (col >= in_last)) for col in range(side)]
    on_diagonal = np.zeros(panels * length + side, dtype=np.int64)
    for col, height in enumerate(heights):
        on_diagonal[col : col + height] += 1
    place = np.cumsum(on_diagonal) - on_diagonal
    places = np.full((panels * length, side), _NOTHING)
    for col, height in enumerate(heights):
        places[:height, col] = place[col : col + height]
        place[col : col + height] += 1
    return places.reshape(panels, length, side)


def _skewed(panel: np.ndarray, start: int, steps: int) -> np.ndarray:
    """(steps, side) requests of a panel whose column c begins c steps after `start`."""
    row, col = np.ogrid[: panel.shape[0], : panel.shape[1]]
    asked = np.full((steps, panel.shape[1]), _NOTHING)
    asked[start + row + col, col] = panel
    return asked


def _written(start: int, height: int, width: int, steps: int) -> np.ndarray:
    """(steps,) results of a skewed (height, width) block whose first leaves at `start`."""
    written = np.zeros(steps, dtype=np.int64)
    written[start : start + height + width - 1] = np.convolve(np.ones(height, dtype=np.int64), np.ones(width, dtype=np.int64))
    return written
