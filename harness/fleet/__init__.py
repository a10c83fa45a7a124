"""Many machines measured with one command: hosts, the engines that reach them, campaigns over them, and what comes back.

Nothing here measures: each machine runs a `shmoo` command of its own. State is in files; no service stays on a machine."""
