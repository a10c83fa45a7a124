"""Pictures of pages in Chromium: of whole windows for the gallery, of one section for a page of the documentation."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.docs_commands import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STORED = Path(__file__).parent / "screenshots"
IMAGES = ROOT / "docs" / "images"
SWEEPS = ROOT / "docs" / "sweeps.md"
NAMES = ("report", "inspect", "roofline", "sweep-curves", "sweep-winner", "sweep-design", "explore", "history", "fleet")
MODES = {"light": (1280, 900), "dark": (1280, 900), "phone": (390, 844)}
TALL = 2400
"""Height of a window that holds any plot."""
PLOTS = ("map", "curves")
"""Sections of a sweep's page that hold its plots; the first that is there is shown."""


def started() -> Iterator[Browser]:
    """Chromium, which ends when the iterator is closed."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Browser, path: Path, mode: str) -> tuple[Page, list[str]]:
    """The page without a network, and what goes wrong in it from now on."""
    width, height = MODES[mode]
    scheme = "dark" if mode == "dark" else "light"
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", offline=True
    )
    page, problems = context.new_page(), []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url))
    page.goto(path.as_uri())
    return page, problems


def picture(screenshot: bytes) -> Image.Image:
    return Image.open(io.BytesIO(screenshot)).convert("RGB")


def compared(page: Page) -> Image.Image:
    """The whole page half as large as a reader sees it, in 64 colours: stored pictures stay small."""
    whole = picture(page.screenshot(full_page=True))
    return whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.LANCZOS).quantize(64)


def window(page: Page) -> Image.Image:
    """What a reader sees of the page at first."""
    return picture(page.screenshot()).quantize(256)


def plots(page: Page) -> Image.Image:
    """The section of a sweep's page that holds its plots, in a window that is tall enough for it."""
    page.set_viewport_size({"width": MODES["light"][0], "height": TALL})
    section = next(found for name in PLOTS if (found := page.locator(f"section#{name}")).count())
    return picture(section.screenshot()).quantize(256)


def swept(text: str) -> dict[str, str]:
    """Picture -> command that writes the page it is a part of, for every picture of a page of the documentation."""
    drawing = re.finditer(r"^\$? ?(shmoo .* --plot (\S+)\.html.*)$", text, re.MULTILINE)
    commands = {match[2]: match[1].partition(" | ")[0] for match in drawing}
    return {name: commands[name] for name in re.findall(r"\]\(images/(\S+)\.png\)", text)}


def write_swept(command: str, folder: Path) -> None:
    """Run a command of the documentation, in a folder for its files."""
    words = shlex.split(command, comments=True)[1:]
    command = [sys.executable, "-m", "shmoo.harness.cli", *words]
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
