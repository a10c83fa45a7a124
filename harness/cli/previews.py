"""Estimates of the networks measured so far, shown beside their measurement while a campaign runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from shmoo.harness.cli import output

if TYPE_CHECKING:
    from shmoo.estimators.progress import Standing
    from shmoo.harness.cli.hurry import Reserve

PREVIEWS_S = (50.0, 180.0, 900.0)
"""Seconds since the start after which the networks measured so far are estimated and shown, which takes up to 15 s each time."""


class Previews:
    """Estimates the networks measured so far into `out` now and then while a campaign runs, and shows them beside their
    measurement; `begin` is on `time.monotonic`'s clock, and `reserve` learns how long the previews take."""

    def __init__(self, out: Path, begin: float, reserve: Reserve) -> None:
        self._out = out
        self._reserve = reserve
        self._begin = begin
        self._times = list(PREVIEWS_S)

    def __call__(self, standing: Standing) -> None:
        """Show a preview when one is due and there is a run."""
        from shmoo.harness.campaign.campaign import COMPILING, WAITING

        now = time.monotonic()
        later = [after_s for after_s in self._times if now - self._begin < after_s]
        if standing.stage == WAITING or later == self._times:
            return
        self._times = later
        self.show()
        if standing.stage != COMPILING:
            # Beside compilers it takes longer than at the end.
            self._reserve.learn(time.monotonic() - now)

    def show(self) -> None:
        """Fit quickly, and print a line for each network."""
        from shmoo.calibrate.calibration import quick_profile
        from shmoo.estimators.errors import ShmooError
        from shmoo.estimators.units import percent, si
        from shmoo.runs.analysis.errors import error_report
        from shmoo.runs.store.store import Run

        run = Run.open(self._out)
        if not any(row.estimable and row.case.kind == "network" for row in run.rows):
            return
        try:
            profile = quick_profile(run)
        except ShmooError as error:
            output.message(f"no estimate yet: {error}")
            return
        for network in error_report(run, profile).networks:
            whole = network.whole
            output.message(
                f"so far: {network.name} measured {si(whole.measured_s, 's')} ± {percent(whole.standard_error)}, estimated "
                f"{si(whole.estimate_s.value, 's')} ({percent(whole.error, signed=True)}) from {len(run.rows)} cases"
            )
