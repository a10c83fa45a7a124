"""A measurer for worker processes under test: what it does with a case is the case's workload."""

from __future__ import annotations

import os
import signal
import sys
import time

from shmoo.runs.store.records import CaseSpec, Measurement, Reason, Timing


class StandIn:
    @classmethod
    def from_settings(cls, settings: bytes) -> StandIn:
        return cls()

    def measure(self, case: CaseSpec, visit: int = 0, details: bool = True):
        if case.workload == "crash":
            sys.stderr.write("out of luck\n")
            sys.stderr.flush()
            os._exit(3)
        if case.workload == "crash after chatter":
            sys.stderr.write("out of luck\nUSDT:1:2 SyncActivityProfilerHandler.cpp:60] Push/Pop\n\n")
            sys.stderr.flush()
            os._exit(3)
        if case.workload == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if case.workload == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if case.workload == "hang":
            time.sleep(600)
        if case.workload == "other":
            case = CaseSpec("another", "operator")
        if case.workload == "noisy":
            print("chatter on the standard output", flush=True)
            os.write(1, b"and below Python\n")
        if case.workload == "failing":
            return Measurement(case, "failed", (Reason("error", "on purpose"),), visit=visit, host={"pid": os.getpid()}), ()
        return Measurement(case, "ok", timing=Timing((1e-3,)), visit=visit, host={"pid": os.getpid(), "details": details}), ()


class Whereabouts(StandIn):
    """Says where it runs, and which package it finds there."""

    def measure(self, case: CaseSpec, visit: int = 0, details: bool = True):
        from package.net import NAME

        return Measurement(case, "ok", timing=Timing((1e-3,)), visit=visit, host={"cwd": os.getcwd(), "package": NAME}), ()


class Compiling:
    """Compiles in 0.1 s, and notes in a file of the test's what it does, in which process."""

    @classmethod
    def from_settings(cls, settings: bytes) -> Compiling:
        return cls()

    def prepare(self, case: CaseSpec) -> Measurement:
        self._note("prepare", case)
        time.sleep(0.1)
        return Measurement(case, "ok", timing=Timing((), first_call_s=8.0, compile_s=7.0))

    def measure(self, case: CaseSpec, visit: int = 0, details: bool = True):
        self._note("measure", case)
        compile_s = None if case.runtime == "eager" else 0.1
        return Measurement(case, "ok", timing=Timing((1e-3,) * 4, first_call_s=0.2, compile_s=compile_s), visit=visit), ()

    @staticmethod
    def _note(what: str, case: CaseSpec) -> None:
        with open(os.environ["SHMOO_TEST_JOURNAL"], "a") as journal:
            journal.write(f"{what} {os.getpid()} {case.workload}\n")
