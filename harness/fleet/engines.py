"""Engines start jobs on hosts without staying connected, and report on them afterwards.

To add an engine, subclass `Engine`, override the methods that differ, and add its name to `hosts.Host.engine`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from shmoo.estimators.errors import ShmooError
from shmoo.estimators.registry import grouped
from shmoo.harness.fleet.channels import Channel, ask
from shmoo.harness.fleet.hosts import Host
from shmoo.harness.fleet.remote import RUNNER

QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED")
JOB_LINE = re.compile(r"(\d+)[^|]*\|([^|]*)\|([^|]*)\|(.*)")
"""Number, name, state and reason of a job in the requested output of squeue."""
STOP_S = 30.0
"""Time limit for a job to end after the signal; it abandons a running visit at once."""
ALIVE = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING")


class Job(NamedTuple):
    """A job as its engine reports it: whether it is queued, whether it runs, and the engine's description."""

    queued: bool
    alive: bool
    words: str


class Engine:
    """Starts and watches the jobs of a host. This class is for ssh and for the controller's machine: a job is a separate session
    on the host, and its files contain its state."""

    def channel(self, host: Host, rsync: bool = False) -> Channel:
        """The channel to a host."""
        return Channel(host.destination, host.ssh_config, rsync)

    def launch(self, host: Host, folder: str, name: str) -> None:
        """Start the job in `folder`; it outlives this process. Raises as `Channel.run`."""
        ask(self.channel(host), host.python, "launch", int, folder=folder)

    def stop(self, host: Host, folder: str, name: str) -> bool:
        """Stop the waiting or running job in `folder`, as Ctrl-C does; returns whether it is still alive. Raises as
        `Channel.run`."""
        return ask(self.channel(host), host.python, "stop", bool, folder=folder, signal=True, wait_s=STOP_S)

    def jobs(self, hosts: Mapping[str, Host]) -> Mapping[str, Job | ShmooError]:
        """The engine's reports on the jobs of these names; jobs that are only known from their files are left out."""
        return {}


class Slurm(Engine):
    """One exclusive Slurm job per machine, by plain sbatch and squeue, here or on a login node."""

    def launch(self, host: Host, folder: str, name: str) -> None:
        """As of `Engine`. Does nothing if a job of that name waits or runs, since a controller may have died after submitting
        it."""
        job = self.jobs({name: host}).get(name)
        if isinstance(job, ShmooError):
            raise job
        if job is not None and (job.queued or job.alive):
            return
        script = f"#!/bin/sh\nexec {shlex.join([host.python, f'{folder}/{RUNNER}', folder])}\n"
        command = ["sbatch", "--parsable", "--exclusive", "--nodes=1", "--ntasks=1", "--no-requeue", f"--job-name={name}"]
        command += [f"--nodelist={host.node or host.name}", f"--chdir={folder}", f"--output={folder}/job.log", *host.sbatch]
        self.channel(host).run(command, script.encode())

    def stop(self, host: Host, folder: str, name: str) -> bool:
        """As of `Engine`. Signals only the batch script, which is the job; it passes the signal on to its measurement."""
        channel = self.channel(host)
        ask(channel, host.python, "stop", bool, folder=folder, signal=False, wait_s=0.0)
        channel.run(["scancel", "--me", f"--name={name}", "--state=PENDING"])
        channel.run(["scancel", "--me", f"--name={name}", "--batch", "--signal=TERM"])
        return ask(channel, host.python, "stop", bool, folder=folder, signal=False, wait_s=STOP_S)

    def jobs(self, hosts: Mapping[str, Host]) -> Mapping[str, Job | ShmooError]:
        """As of `Engine`. Runs one squeue per login node; Slurm forgets jobs some minutes after their end."""
        jobs: dict[str, Job | ShmooError] = {}
        logins = grouped(((host.destination, host.ssh_config), name) for name, host in hosts.items())
        for login, names in logins.items():
            command = ["squeue", "--noheader", "--states=all", "--format=%i|%j|%T|%r", f"--name={','.join(names)}"]
            try:
                lines = Channel(*login).run(command).decode("utf-8", "replace").splitlines()
            except ShmooError as error:
                jobs.update(dict.fromkeys(names, error))
                continue
            # A login shell may print other lines. The newest job of a name is the last attempt.
            job_lines = [match.groups() for line in lines if (match := JOB_LINE.fullmatch(line.strip()))]
            for _, name, state, reason in sorted(job_lines, key=lambda job: int(job[0])):
                words = f"Slurm: {state}" if reason in ("None", "") else f"Slurm: {state} ({reason})"
                jobs[name] = Job(state in QUEUED, state in ALIVE, words)
            for name in names:
                jobs.setdefault(name, Job(False, False, "Slurm knows no such job any more"))
        return jobs


def engine_of(host: Host) -> Engine:
    """The engine named in a host's settings."""
    return Slurm() if host.engine == "slurm" else Engine()
