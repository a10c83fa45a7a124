"""Measuring many machines with one command: hosts, the engines that reach them, campaigns over them, and fetched rows.

Measuring belongs in campaign: each machine runs its own `shmoo` command. State is in files; no service stays on a machine.
"""
