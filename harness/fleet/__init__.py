"""Many machines measured with one command: hosts, the engines that reach them, campaigns over them, and what comes back.

Nothing of this room measures: each machine runs an ordinary `shmoo` command of its own, detached from the controller. State lives
in the campaign's directory here and in files on the machines; no service stays there.
"""
