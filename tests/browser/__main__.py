"""Draws the pictures of the documentation and those that tests compare pages with: `python -m tests.browser [NAME...]`."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path

import click

from tests.browser.pages import write_pages
from tests.browser.pictures import (
    IMAGES,
    MODES,
    NAMES,
    STORED,
    SWEEPS,
    compared,
    opened,
    plots,
    started,
    swept,
    window,
    write_swept,
)


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Draw the pictures of NAMES (a page of the gallery, or a picture of docs/sweeps.md), or all of them."""
    commands = swept(SWEEPS.read_text(encoding="utf-8"))
    if others := set(names) - {*NAMES, *commands}:
        raise click.UsageError(f"no such picture: {', '.join(sorted(others))}; there are {', '.join((*NAMES, *commands))}")
    wanted = set(names) or {*NAMES, *commands}
    with tempfile.TemporaryDirectory() as name, contextmanager(started)() as browser:
        folder = Path(name)
        pages = write_pages(folder) if wanted & set(NAMES) else {}
        for one in (one for one in NAMES if one in wanted):
            for mode in MODES:
                page, _ = opened(browser, pages[one], mode)
                compared(page).save(STORED / f"{one}-{mode}.png", optimize=True)
                window(page).save(IMAGES / f"{one}-{mode}.png", optimize=True)
                page.context.close()
            click.echo(f"drew {one}")
        for one in (one for one in commands if one in wanted):
            write_swept(commands[one], folder)
            page, _ = opened(browser, folder / f"{one}.html", "light")
            plots(page).save(IMAGES / f"{one}.png", optimize=True)
            page.context.close()
            click.echo(f"drew {one}")


if __name__ == "__main__":
    main(prog_name="python -m tests.browser")
