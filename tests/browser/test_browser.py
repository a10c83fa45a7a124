"""Pages in Chromium: they open offline without an error, look as they did, read well, and can be used with a keyboard.

`python -m tests.browser` replaces the stored pictures, and those in the documentation. The stored ones are half as large as what
a reader sees, in 64 colours, to keep them small.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.browser.pages import write_pages

if find_spec("playwright") is None:
    pytest.skip("playwright is not installed; the extra `browser` brings it", allow_module_level=True)

from PIL import Image, ImageChops
from playwright.sync_api import Browser, Page

from tests.browser.pictures import CHROMIUM, IMAGES, MODES, NAMES, STORED, SWEEPS, compared, opened, started, swept

if CHROMIUM is None:
    pytest.skip("no Chromium; Debian's package `chromium` brings it", allow_module_level=True)

pytestmark = pytest.mark.slow
TOLERANCE = 0.02
"""Share of a band's pixels that may differ clearly, and of its height: fonts differ a little between machines."""
BAND = 400
"""Height in pixels of the parts of a picture that are compared one by one, so that a change is not lost in a long page."""
CLEARLY = 96
"""Difference of a channel, of 255, from which a pixel counts as different."""
MOST_SECONDS = 3.0
"""A page opens within this on two slow cores; a second is usual."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from started()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_reads_and_looks_as_it_did(name: str, mode: str, pages: dict[str, Path], browser: Browser) -> None:
    """No error, nothing loaded, no sideways scrolling, no violation that axe-core finds, and the stored picture."""
    page, problems = opened(browser, pages[name], mode)
    assert problems == []
    assert page.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart") < 1000 * MOST_SECONDS
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the window"
    assert page.locator(".plot svg").count() >= page.locator(".plot").count()
    if find_spec("axe_playwright_python") is not None:
        assert violations(page) == []
    assert different(compared(page), Image.open(STORED / f"{name}-{mode}.png")) <= TOLERANCE
    page.context.close()


def test_every_picture_of_a_sweep_is_a_part_of_what_a_command_draws() -> None:
    """The command that writes a page of the picture's name stands on the same page of the documentation."""
    commands = swept(SWEEPS.read_text(encoding="utf-8"))
    drawn = {path.stem for path in IMAGES.glob("*.png")}
    assert drawn == {*commands, *(f"{name}-{mode}" for name in NAMES for mode in MODES)}
    assert all(command.startswith("shmoo sweep ") and "|" not in command for command in commands.values())


def violations(page: Page) -> list[str]:
    """What axe-core objects to, text of low contrast among it."""
    import axe_playwright_python

    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = page.evaluate("axe.run().then((result) => result.violations)")
    return [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]]


def different(one: Image.Image, other: Image.Image) -> float:
    """Share of pixels that differ clearly in one of their channels, in the band of the pages where most do; 1 for pages of
    different width or of heights that differ by more than `TOLERANCE`."""
    if one.width != other.width or abs(one.height - other.height) > TOLERANCE * max(one.height, other.height):
        return 1.0
    channels = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).split()
    largest = ImageChops.lighter(ImageChops.lighter(channels[0], channels[1]), channels[2])
    shares = []
    for top in range(0, largest.height, BAND):
        band = largest.crop((0, top, largest.width, min(top + BAND, largest.height)))
        shares.append(sum(band.histogram()[CLEARLY:]) / (band.width * BAND))
    return max(shares)


def test_a_changed_picture_is_seen() -> None:
    """A dark box over 4 % of a band is a difference wherever it stands, another width too; the picture itself is none."""
    page = Image.new("RGB", (100, 3 * BAND), "#ffffff")
    for top in (0, BAND, 2 * BAND):
        changed = page.copy()
        changed.paste("#202020", (0, top, 20, top + BAND // 5))
        assert different(page, changed) == pytest.approx(0.04)
    assert different(page, page) == 0
    assert different(page, page.resize((90, 3 * BAND))) == 1
    assert different(page, page.resize((100, 2 * BAND))) == 1


def test_space_and_enter_open_a_module(pages: dict[str, Path], browser: Browser) -> None:
    """Closed first, so that one node stands for a module; the key opens it and the focus moves to what is inside."""
    page, problems = opened(browser, pages["inspect"], "light")
    page.click("#close")
    for key in (" ", "Enter"):
        closed = page.locator(".node[aria-expanded=false]")
        before = page.locator(".node").count()
        closed.first.focus()
        page.keyboard.press(key)
        assert page.locator(".node").count() > before
        assert page.evaluate("document.activeElement.classList.contains('node')")
    boxes = page.locator("#modules .box")
    boxes.nth(1).focus()
    page.keyboard.press(" ")
    assert boxes.first.get_attribute("aria-label") != "transformer"
    assert problems == []


def test_labels_stay_inside_their_boxes(pages: dict[str, Path], browser: Browser) -> None:
    """Of every node, and of every box of the icicle and of the treemap."""
    page, _ = opened(browser, pages["inspect"], "light")
    outside = """(groups) => groups.filter((group) => {
        const box = group.querySelector("rect").getBoundingClientRect();
        return [...group.querySelectorAll("text")].some((text) => text.getBoundingClientRect().right > box.right + 0.5);
    }).map((group) => group.textContent)"""
    assert page.locator(".node").count() > 20
    for kind in ("icicle", "treemap"):
        page.click(f"[data-kind={kind}]")
        assert page.locator(".node, .box").evaluate_all(outside) == []


def test_layers_stand_one_after_another(pages: dict[str, Path], browser: Browser) -> None:
    """With modules closed, each layer of a transformer stands below the one before it."""
    page, _ = opened(browser, pages["inspect"], "light")
    page.click("#close")
    page.locator(".node", has_text="encoder").focus()
    page.keyboard.press("Enter")
    page.locator(".node", has_text="layers").focus()
    page.keyboard.press("Enter")
    heights = [page.locator(".node", has_text=f"layer_{i}").first.bounding_box()["y"] for i in range(6)]
    assert heights == sorted(heights)
    assert len(set(heights)) == 6


def test_a_design_opens_with_the_keyboard(pages: dict[str, Path], browser: Browser) -> None:
    """Space on a dot of the front shows its numbers and where its time goes."""
    page, problems = opened(browser, pages["explore"], "light")
    page.locator(".design[tabindex]").first.focus()
    page.keyboard.press(" ")
    assert page.locator("#design table").count() == 2
    assert problems == []


def test_a_menu_changes_the_map_and_the_legend_hides_a_curve(pages: dict[str, Path], browser: Browser) -> None:
    """Another quantity has other values in its cells; a click on an entry of the legend takes its curve away."""
    page, problems = opened(browser, pages["sweep-design"], "light")
    cells = page.locator(".plot svg text")
    before = cells.all_text_contents()
    page.select_option(".plot select", label="latency")
    assert cells.all_text_contents() != before
    page, more = opened(browser, pages["sweep-curves"], "light")
    paths = page.locator(".chart path").count()
    page.locator(".legend button").first.click()
    assert page.locator(".chart path").count() < paths
    assert problems == more == []


def test_a_heading_sorts_its_table(pages: dict[str, Path], browser: Browser) -> None:
    """By number, not by text, and the other way round on the second click."""
    page, _ = opened(browser, pages["sweep-curves"], "light")
    heading, column = page.locator("th button", has_text="latency"), page.locator("td:nth-child(3)")
    keys = "(cells) => cells.map((cell) => Number(cell.dataset.key))"
    heading.click()
    rising = column.evaluate_all(keys)
    assert rising == sorted(rising)
    heading.click()
    assert column.evaluate_all(keys) == rising[::-1]
