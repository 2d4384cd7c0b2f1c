"""The studio's page in a real browser, where one is installed: pointer, phone, keyboard, axe."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from studio_process import ROOT, StudioProcess

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed here")

WAIT_MS = 60_000
# The red, green, blue and opacity of a pixel of the stage, in CSS pixels from its corner.
COUNT = """([red, green, blue]) => {
  const canvas = document.querySelector("#canvas");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let i = 0; i < data.length; i += 4)
    count += Math.abs(data[i] - red) + Math.abs(data[i + 1] - green)
      + Math.abs(data[i + 2] - blue) < 40;
  return count;
}"""
RED, BLUE = (217, 43, 56), (31, 95, 214)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioProcess]:
    process = StudioProcess(tmp_path_factory.mktemp("studio"))
    yield process
    process.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Any, studio: StudioProcess) -> Iterator[Any]:
    """The start page with its samples; `(width, height)` by indirect parameter."""
    width, height = getattr(request, "param", (1280, 800))
    context = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=width < 500, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.wrong = wrong
    page.goto(studio.address)
    page.wait_for_selector("#gallery:not([aria-busy]) img")
    yield page
    context.close()
    assert wrong == []


def until(page: Any, expression: str) -> None:
    """Wait until the page's expression is true; its policy forbids what Playwright's own uses."""
    end = time.monotonic() + WAIT_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


def last_frame(page: Any) -> int:
    return int(page.evaluate("+document.querySelector('#scrub').max"))


def pick_sample(page: Any) -> tuple[float, float, float]:
    """Take the fourth face; the stage's middle and its shorter side."""
    page.locator("#gallery button").nth(3).click()
    page.wait_for_selector("#canvas", state="visible")
    until(page, "!document.querySelector('#work').hidden")
    box = page.locator("#canvas").bounding_box()
    middle_x, middle_y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    return middle_x, middle_y, min(box["width"], box["height"])


def put_point(page: Any, stage: tuple[float, float, float], count: int = 1) -> None:
    x, y, side = stage
    page.mouse.click(x - 0.13 * side, y + 0.07 * side)
    page.mouse.click(x - 0.13 * side, y + 0.25 * side)
    until(page, f"document.querySelectorAll('#points li').length == {count}")


@pytest.mark.parametrize("page", [(1280, 800), (390, 844)], ids=["desk", "phone"], indirect=True)
def test_pointing_starting_stopping_undoing_scrubbing(page: Any) -> None:
    stage = pick_sample(page)
    before = [page.evaluate(COUNT, colour) for colour in (RED, BLUE)]
    put_point(page, stage)
    after = [page.evaluate(COUNT, colour) for colour in (RED, BLUE)]
    assert min(now - then for now, then in zip(after, before, strict=True)) > 20  # both are drawn
    page.click("#run")
    until(page, "+document.querySelector('#scrub').max >= 5")
    page.click("#run")
    until(page, "!document.body.classList.contains('running')")
    stopped = last_frame(page)
    time.sleep(0.3)
    assert last_frame(page) == stopped  # it stands
    page.click("#undo")
    until(page, "!document.querySelector('#redo').disabled")
    page.click("#redo")
    until(page, f"+document.querySelector('#scrub').max == {stopped}")
    page.focus("#scrub")
    page.keyboard.press("Home")
    until(page, "+document.querySelector('#scrub').value == 0")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_keyboard_alone_does_it_all(page: Any) -> None:
    page.locator("#gallery button").nth(2).focus()
    page.keyboard.press("Enter")
    until(page, "document.activeElement.id == 'canvas'")
    page.keyboard.press("n")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Enter")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#points li').length == 1")
    page.keyboard.press(" ")
    until(page, "+document.querySelector('#scrub').max >= 3")
    page.keyboard.press(" ")
    until(page, "!document.body.classList.contains('running')")
    page.keyboard.press("Control+z")
    until(page, "!document.querySelector('#redo').disabled")
    page.keyboard.press("Delete")
    until(page, "document.querySelectorAll('#points li').length == 0")


def test_a_drawing_from_upload_to_taking_it_home(page: Any, tmp_path: Path) -> None:
    with Image.open(ROOT / "assets" / "start-64" / "reals.png") as reals:
        face = reals.convert("RGB").crop((0, 0, 64, 64))
    sheet = Image.new("RGB", (300, 260), "#dfe8f0")
    sheet.paste(face.resize((192, 192), Image.Resampling.LANCZOS), (60, 30))
    sheet.save(tmp_path / "drawing.png")
    page.set_input_files("#file", tmp_path / "drawing.png")
    page.wait_for_selector("#faces", state="visible")
    for name, value in {"x": 156 / 300, "y": 126 / 260, "size": 192 / 260}.items():
        page.locator(f"#box-{name}").fill(str(round(value * 1000)))
    page.locator("#box-roll").fill("0")
    page.click("#faces-go")
    page.wait_for_selector("#work", state="visible")
    box = page.locator("#canvas").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    put_point(page, (*middle, min(box["width"], box["height"])))
    page.click("#run")
    until(page, "+document.querySelector('#scrub').max >= 60")
    page.click("#run")
    page.click("#view-picture")
    page.click("#compare-on")
    page.locator("#compare-at").fill("300")
    page.click("#save")
    page.wait_for_selector("#kept a")
    with page.expect_download() as download:
        page.locator("#kept a").first.click()
    full = np.asarray(Image.open(download.value.path()).convert("RGB"))
    assert full.shape == (260, 300, 3)
    assert not np.array_equal(full, np.asarray(sheet))
    assert np.array_equal(full[:20], np.asarray(sheet)[:20])  # outside the face not a bit changed


def test_axe_finds_no_violation(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.context.grant_permissions([])
    for step in (lambda: None, lambda: put_point(page, pick_sample(page))):
        step()
        found = axe.run(page).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


def test_a_killed_server_loses_nothing(page: Any, studio: StudioProcess) -> None:
    put_point(page, pick_sample(page))
    page.click("#step")
    until(page, "+document.querySelector('#scrub').max == 1")
    page.evaluate("window.stays = true")
    studio.end(signal.SIGKILL)
    until(page, "!document.querySelector('#notice').hidden")  # it says so
    studio.start()
    until(page, "document.querySelector('#notice').textContent.includes('again. Nothing')")
    until(page, "document.querySelectorAll('#points li').length == 1")
    page.click("#step")
    until(page, "+document.querySelector('#scrub').max == 2")
    assert page.evaluate("window.stays")  # without a reload
    # The browser itself complains of what could not be reached meanwhile.
    page.wrong[:] = [said for said in page.wrong if "WebSocket connection" not in said]
