"""What libraries say of themselves goes to Shmoo's log (-vv) and not to the person."""

from __future__ import annotations

import logging
import os
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from shmoo.harness.defaults import own_folders

logger = logging.getLogger(__name__)

LIBRARIES = frozenset({"diffusers", "functorch", "huggingface_hub", "timm", "torch", "torchao", "torchvision", "transformers"})
"""Packages whose warnings are about themselves. Their errors are shown, apart from torch's."""
TORCH_LOGS = "TORCH_LOGS"
"""Whoever sets this variable asks torch to say more."""


@contextmanager
def libraries_quiet() -> Iterator[None]:
    """While active, warnings that a library logs, and Python warnings from its code or from Shmoo's, go to the log; those of the
    user's code are shown as ever. So do errors that torch logs: they are tracebacks of what it tried, and it raises them, too."""
    quiet = LIBRARIES - {"torch"} if os.environ.get(TORCH_LOGS) else LIBRARIES
    handle = logging.Logger.handle
    folders = [Path(sysconfig.get_path(kind)) / name for kind in ("purelib", "platlib") for name in quiet]
    folders += own_folders()

    def handle_unless_library(self: logging.Logger, record: logging.LogRecord) -> None:
        library = self.name.partition(".")[0]
        own = record.levelno == logging.WARNING or (record.levelno == logging.ERROR and library == "torch")
        if own and library in quiet:
            logger.debug("%s: %s", record.name, record.getMessage())
        else:
            handle(self, record)

    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_unless_library(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if any(Path(filename).is_relative_to(folder) for folder in folders):
                logger.debug("%s:%d: %s: %s", filename, lineno, category.__name__, message)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_unless_library
        logging.Logger.handle = handle_unless_library  # type: ignore[method-assign]
        try:
            yield
        finally:
            logging.Logger.handle = handle  # type: ignore[method-assign]
