"""A measurer whose cases fork, as models with data loaders of their own do."""

from __future__ import annotations

import os
import time

from shmoo.runs.store.records import CaseSpec, Measurement, Timing


class Forking:
    @classmethod
    def from_settings(cls, settings: bytes) -> Forking:
        return cls()

    def measure(self, case: CaseSpec, visit: int = 0, details: bool = True):
        if case.workload == "returns twice":
            os.fork()
        if case.workload == "child raises" and os.fork() == 0:
            raise RuntimeError("in the copy")
        if case.workload == "dies, its child holds the pipe":
            if os.fork() == 0:
                time.sleep(30)
            os._exit(7)
        return Measurement(case, "ok", timing=Timing((1e-3,)), visit=visit, host={"pid": os.getpid()}), ()
