"""Engines: how a job is started on a host without staying connected, and what the engine knows about it afterwards.

Another one is a subclass of `Engine` with the methods that differ, and its name in `hosts.Host.engine`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from shmoo.estimators.errors import ShmooError
from shmoo.estimators.registry import grouped
from shmoo.harness.fleet.channels import Channel, ask, channel_to
from shmoo.harness.fleet.hosts import Host
from shmoo.harness.fleet.remote import RUNNER

QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED")
JOB_LINE = re.compile(r"(\d+)[^|]*\|([^|]*)\|([^|]*)\|(.*)")
"""Number, name, state and reason of a job, as squeue is asked for them."""
STOP_S = 30.0
"""Time for a job to end after it was told to: a visit in flight is given up at once."""
ALIVE = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING")


class Job(NamedTuple):
    """A job as its engine knows it: whether it waits for the machine, whether it runs, and words about it."""

    queued: bool
    alive: bool
    words: str


class Engine:
    """How jobs of a host are started and looked after. This one is for ssh and the machine of the controller: the job is a
    session of its own on the host, and its files tell all."""

    def channel(self, host: Host, rsync: bool = False) -> Channel:
        """The way to the files of a host."""
        return channel_to(host.destination, host.ssh_config, rsync)

    def launch(self, host: Host, folder: str, name: str) -> None:
        """Start the job in `folder`; it outlives this process. Raises as `Channel.run`."""
        ask(self.channel(host), host.python, "launch", int, folder=folder)

    def stop(self, host: Host, folder: str, name: str) -> bool:
        """End the job in `folder`, waiting or running, as Ctrl-C does; whether it is alive all the same. Raises as
        `Channel.run`."""
        return ask(self.channel(host), host.python, "stop", bool, folder=folder, signal=True, wait_s=STOP_S)

    def jobs(self, hosts: Mapping[str, Host]) -> Mapping[str, Job | ShmooError]:
        """What the engine knows of the jobs with these names; jobs that only their files tell of are left out."""
        return {}


class Slurm(Engine):
    """One exclusive job a machine, by plain sbatch and squeue, here or on a login node."""

    def launch(self, host: Host, folder: str, name: str) -> None:
        """As of `Engine`. A job of that name that waits or runs is the one: a controller may have died after it submitted."""
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
        """As of `Engine`. A signal to the batch script alone is one to the job, which passes it on to its measurement."""
        channel = self.channel(host)
        ask(channel, host.python, "stop", bool, folder=folder, signal=False, wait_s=0.0)
        channel.run(["scancel", "--me", f"--name={name}", "--state=PENDING"])
        channel.run(["scancel", "--me", f"--name={name}", "--batch", "--signal=TERM"])
        return ask(channel, host.python, "stop", bool, folder=folder, signal=False, wait_s=STOP_S)

    def jobs(self, hosts: Mapping[str, Host]) -> Mapping[str, Job | ShmooError]:
        """As of `Engine`. One squeue for each login node; it forgets jobs some minutes after their end."""
        jobs: dict[str, Job | ShmooError] = {}
        logins = grouped(((host.destination, host.ssh_config), name) for name, host in hosts.items())
        for login, names in logins.items():
            command = ["squeue", "--noheader", "--states=all", "--format=%i|%j|%T|%r", f"--name={','.join(names)}"]
            try:
                lines = channel_to(*login).run(command).decode("utf-8", "replace").splitlines()
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
    """The engine that a host names."""
    return Slurm() if host.engine == "slurm" else Engine()
