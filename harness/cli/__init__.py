"""The command line: options, output, tables and progress that verbs share; each verb is a file in verbs.

Work belongs in the rooms above: verbs only parse and print. Each verb is imported when it runs; torch and the libraries for
plotting and fitting where they are needed.
"""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run `shmoo` on the process's arguments and exit with the code that docs and scripts rely on: 0 done, 1 a check failed,
    2 bad usage or input, 3 nothing usable measured, 130 interrupted."""
    _open_closed_streams()
    from shmoo.harness.cli.app import BAD_INPUT, cli

    try:
        cli(prog_name="shmoo")
    finally:
        # The system frees the process's memory; a last garbage collection would take as long as half of all imports.
        gc.freeze()
        try:
            sys.stdout.flush()
        except OSError as error:
            # The interpreter would flush again at its end, fail, and exit with its own code.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stderr.write(f"shmoo: cannot write the result: {error.strerror}\n")
            sys.exit(BAD_INPUT)


def _open_closed_streams() -> None:
    """Point streams that the caller closed (`>&-`) to the null device. Otherwise the next opened file gets the descriptor of a
    closed stream, and prints go into it."""
    for descriptor, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            if getattr(sys, name) is None:
                setattr(sys, name, os.fdopen(descriptor, "r" if flags == os.O_RDONLY else "w", closefd=False))
