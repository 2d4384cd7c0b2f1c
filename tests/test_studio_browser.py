"""The studio's page in a real browser: pointer, phone, keyboard, files, axe.

Pictures of what was seen are left in build/studio/, for people to look at.
"""

from __future__ import annotations

import io
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from studio_process import ROOT, StudioProcess

from pipeline.edit import framing
from scripts.install_browser import installed

BROWSER = installed()
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed here (python -m scripts.install_browser)"
)

SHOTS = ROOT / "build" / "studio"
# On a machine that is busy with other things a worker takes a minute to start.
WAIT_SECONDS = 180.0
# How many pixels of the stage have nearly that colour.
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
    process.warm(WAIT_SECONDS)
    yield process
    process.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    SHOTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


class Desk:
    """A page of the studio, and what a test does with it."""

    def __init__(self, browser: Any, studio: StudioProcess, **options: Any) -> None:
        options = {"viewport": {"width": 1280, "height": 800}, "locale": "en", **options}
        self.context = browser.new_context(reduced_motion="reduce", **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_SECONDS * 1000)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._heard)
        self.page.goto(studio.address)
        self.page.wait_for_selector("#gallery:not([aria-busy]) img")

    def _heard(self, said: Any) -> None:
        if said.type == "error":
            self.wrong.append(said.text)

    def until(self, expression: str) -> None:
        """Wait until the page's expression is true; its policy forbids Playwright's own way."""
        end = time.monotonic() + WAIT_SECONDS
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def begin(self, seed: int = 3) -> None:
        """Take that face of the gallery."""
        self.page.locator("#gallery button").nth(seed).click()
        self.until("!document.querySelector('#work').hidden")
        self.until("document.querySelector('#frame-words').textContent.startsWith('Picture 1 ')")

    def at(self, x: float, y: float, side: int = 64) -> tuple[float, float]:
        """Where a pixel of the face lies on the screen."""
        box = self.page.locator("#canvas").bounding_box()
        margin = 40 if min(box["width"], box["height"]) > 500 else 12
        scale = (min(box["width"], box["height"]) - 2 * margin) / side
        return (
            box["x"] + box["width"] / 2 + (x - side / 2) * scale,
            box["y"] + box["height"] / 2 + (y - side / 2) * scale,
        )

    def add(self, start: tuple[float, float], target: tuple[float, float]) -> None:
        count = self.page.locator("#points li").count()
        self.page.mouse.click(*self.at(*start))
        self.page.mouse.click(*self.at(*target))
        self.until(f"document.querySelectorAll('#points li').length > {count}")

    def frames(self) -> int:
        return int(self.page.evaluate("+document.querySelector('#scrub').max"))

    def run_until(self, frames: int) -> None:
        self.page.click("#run")
        self.until(f"+document.querySelector('#scrub').max >= {frames}")

    def stop(self) -> None:
        self.page.click("#run")
        self.until("!document.body.classList.contains('running')")

    def shows(self, words: str) -> None:
        self.until(f"document.querySelector('#frame-words').textContent.startsWith('{words}')")

    def face(self) -> np.ndarray:
        """The frame at the scrubber's place, as the studio keeps it; height x width x 3."""
        source = self.page.locator("#history [aria-current=true] img").get_attribute("src")
        root = self.page.url.split("/#")[0]
        return pixels(self.context.request.get(f"{root}{source}").body())

    def shot(self, name: str) -> None:
        self.page.screenshot(path=SHOTS / f"{name}.png")

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.fixture
def desk(browser: Any, studio: StudioProcess) -> Iterator[Desk]:
    desk = Desk(browser, studio)
    yield desk
    desk.close()


def test_pointing_starting_stopping_undoing_scrubbing(desk: Desk) -> None:
    desk.shot("start")
    desk.begin()
    before = [desk.page.evaluate(COUNT, colour) for colour in (RED, BLUE)]
    first = desk.face()
    desk.add((21, 36), (21, 48))
    drawn = [desk.page.evaluate(COUNT, colour) for colour in (RED, BLUE)]
    assert min(now - then for now, then in zip(drawn, before, strict=True)) > 20
    desk.run_until(12)
    desk.shot("dragging")
    desk.stop()
    stopped, words = desk.frames(), desk.page.locator("#frame-words").inner_text()
    time.sleep(0.5)
    assert desk.frames() == stopped  # it stands
    last = desk.face()
    assert np.abs(last - first).max() > 8
    desk.page.locator("#scrub").fill("2")
    desk.shows("Picture 3 ")
    desk.page.keyboard.press("Control+z")
    desk.shows(words)
    desk.page.click("#undo")
    desk.shows("Picture 1 ")
    desk.page.click("#step")  # a branch; what was left is still in the list of what was done
    desk.shows("Picture 2 of 2")
    desk.page.click("#history-box summary")
    desk.shot("history")
    desk.page.locator("#history li", has_text="Dragged").first.locator("button").click()
    desk.shows(words)
    assert np.array_equal(desk.face(), last)


def test_a_target_moves_while_it_runs_and_pairs_follow(desk: Desk) -> None:
    desk.begin()
    desk.page.check("#mirror")
    desk.add((21, 36), (21, 50))
    assert desk.page.locator("#points li").count() == 2
    desk.run_until(3)
    desk.page.mouse.move(*desk.at(21, 50))
    desk.page.mouse.down()
    desk.page.mouse.move(*desk.at(26, 46), steps=4)
    desk.page.mouse.up()
    made = desk.frames()
    desk.until(f"+document.querySelector('#scrub').max > {made + 2}")
    assert desk.page.evaluate("document.body.classList.contains('running')")
    desk.stop()


def test_an_emotion_is_chosen_compared_and_dragged_on_from(desk: Desk) -> None:
    page = desk.page
    desk.begin()
    page.click("#moods-box summary")
    desk.until("!document.querySelector('#moods').hasAttribute('aria-busy')")
    sources = page.evaluate("[...document.querySelectorAll('#moods img')].map(one => one.src)")
    assert len(set(sources)) == 10
    page.click("[data-mood=surprised]")
    page.wait_for_selector("#view-mood", state="visible")
    desk.until("document.querySelector('#view-mood').getAttribute('aria-pressed') == 'true'")
    page.click("#compare-on")
    desk.shot("emotion")
    middle, y = desk.at(32, 32)
    page.mouse.move(middle, y)
    page.mouse.down()
    page.mouse.move(desk.at(48, 32)[0], y, steps=3)
    page.mouse.up()
    assert abs(int(page.locator("#compare-at").input_value()) - 750) < 12
    page.click("#compare-on")
    page.click("#mood-enter")
    desk.shows("Picture 11 of 11")
    desk.until("document.querySelector('#view-face').getAttribute('aria-pressed') == 'true'")
    desk.add((21, 36), (21, 44))
    page.click("#step")
    desk.shows("Picture 12 of 12")


def test_a_mask_keeps_what_it_covers(desk: Desk) -> None:
    change = {}
    for masked in (False, True):
        desk.page.click(".brand")
        desk.page.wait_for_selector("#gallery:not([aria-busy]) img")
        desk.begin(4)
        first = desk.face()
        desk.add((21, 36), (21, 44))
        if masked:
            desk.page.click("#tool-keep")
            desk.page.locator("#brush").fill("30")
            desk.page.mouse.move(*desk.at(50, 4))
            desk.page.mouse.down()
            for y in (60, 4):
                desk.page.mouse.move(*desk.at(50 if y == 60 else 56, y), steps=3)
            desk.page.mouse.up()
            desk.page.click("#tool-point")
            desk.shot("mask")
        desk.run_until(25)
        desk.stop()
        moved = np.abs(desk.face() - first)
        change[masked] = moved[:, 44:60].mean() / max(moved[:, 14:28].mean(), 1e-6)
    assert change[True] < 0.8 * change[False]


def test_two_sessions_at_once_in_two_windows(browser: Any, studio: StudioProcess) -> None:
    one, other = Desk(browser, studio), Desk(browser, studio)
    for desk, seed, target in ((one, 3, (21, 50)), (other, 5, (40, 20))):
        desk.begin(seed)
        desk.add((21, 36), target)
    assert not np.array_equal(one.face(), other.face())
    one.page.click("#run")
    other.page.click("#run")
    for _ in range(2):  # both go on at once
        for desk in (one, other):
            made = desk.frames()
            desk.until(f"+document.querySelector('#scrub').max > {made + 2}")
    one.stop()
    assert other.page.evaluate("document.body.classList.contains('running')")
    other.stop()
    assert one.page.url != other.page.url
    for desk in (one, other):
        assert desk.page.locator("#points li").count() == 1
        desk.close()


def test_keyboard_alone_does_it_all(desk: Desk) -> None:
    page = desk.page
    page.locator("#gallery button").nth(2).focus()
    page.keyboard.press("Enter")
    desk.until("document.activeElement.id == 'canvas'")
    page.keyboard.press("n")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    for _ in range(6):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    desk.until("document.querySelectorAll('#points li').length == 1")
    assert "3.0 px" in page.locator("#points .left").inner_text()
    page.keyboard.press("Shift+ArrowDown")  # the target, nudged
    desk.until("document.querySelector('#points .left').textContent.includes('5.0 px')")
    page.keyboard.press("Space")
    desk.until("+document.querySelector('#scrub').max >= 3")
    page.keyboard.press("Space")
    desk.until("!document.body.classList.contains('running')")
    assert page.locator("#status").inner_text() == "Stopped"
    page.keyboard.press("Control+z")
    desk.until("!document.querySelector('#redo').disabled")
    page.keyboard.press("Delete")
    desk.until("document.querySelectorAll('#points li').length == 0")
    page.keyboard.press("Control+z")
    desk.until("document.querySelectorAll('#points li').length == 1")
    page.keyboard.press("c")  # compare, and its slider by keys
    page.wait_for_selector("#compare", state="visible")
    page.focus("#compare-at")
    page.keyboard.press("End")
    page.keyboard.press("c")
    page.wait_for_selector("#compare", state="hidden")


def test_on_a_phone_with_fingers(browser: Any, studio: StudioProcess) -> None:
    phone = {"width": 390, "height": 844}
    desk = Desk(browser, studio, viewport=phone, has_touch=True, is_mobile=True)
    desk.page.locator("#gallery button").nth(1).tap()
    desk.until("!document.querySelector('#work').hidden")
    desk.page.touchscreen.tap(*desk.at(21, 36))
    desk.page.touchscreen.tap(*desk.at(21, 44))
    desk.until("document.querySelectorAll('#points li').length == 1")
    desk.page.locator("#run").tap()
    desk.until("+document.querySelector('#scrub').max >= 3")
    desk.page.locator("#run").tap()
    desk.until("!document.body.classList.contains('running')")
    assert desk.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    desk.shot("phone")
    desk.close()


def test_a_drawing_from_upload_to_taking_it_home(desk: Desk, tmp_path: Path) -> None:
    page = desk.page
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
    desk.shot("face-chosen")
    page.click("#faces-go")
    page.wait_for_selector("#work", state="visible")
    desk.add((21, 36), (21, 39))
    page.click("#run")
    # Where a drag has ended, what it did to the drawing is shown.
    desk.until("document.querySelector('#view-picture').getAttribute('aria-pressed') == 'true'")
    # While it is drawn the page says so, then what leads back.
    desk.until("document.querySelector('#hint').textContent.includes('shows the points again')")
    page.click("#compare-on")
    page.locator("#compare-at").fill("300")
    page.click("#save")
    page.wait_for_selector("#kept a")
    desk.shot("picture-saved")
    with page.expect_download() as download:
        page.locator("#kept a").first.click()
    full = np.asarray(Image.open(download.value.path()).convert("RGB"))
    assert full.shape == (260, 300, 3)
    assert not np.array_equal(full, np.asarray(sheet))
    assert np.array_equal(full[:20], np.asarray(sheet)[:20])  # outside the face not a bit changed
    with page.expect_download() as download:
        page.click("#pack")
    download.value.save_as(tmp_path / "mine.animedrag")
    words = page.locator("#frame-words").inner_text()
    page.click(".brand")  # anew, and the file opened there
    page.wait_for_selector("#gallery:not([aria-busy]) img")
    page.set_input_files("#session-file", tmp_path / "mine.animedrag")
    page.wait_for_selector("#work", state="visible")
    desk.shows(words)
    shown = "document.querySelector('#history img').src"
    before = page.evaluate(shown)
    page.click("#carry")  # and the same on another face
    page.wait_for_selector("#carried", state="visible")
    page.locator("#gallery button").nth(2).click()
    # The new face's frames have addresses of their own: the browser keeps the old ones' pictures.
    desk.until(f"{shown} != '{before}'")
    desk.until("document.querySelectorAll('#points li').length == 1")
    bytes_of = """async ([at, cache]) =>
        [...new Uint8Array(await (await fetch(at, {cache})).arrayBuffer())]"""
    address = page.evaluate(shown)
    seen, fresh = (page.evaluate(bytes_of, [address, cache]) for cache in ("default", "no-store"))
    assert len(fresh) > 1000
    assert seen == fresh


def test_axe_finds_no_violation(browser: Any, studio: StudioProcess, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    desk = Desk(browser, studio, color_scheme="dark")
    assert desk.page.evaluate("document.documentElement.dataset.theme") == "dark"
    held: list[Any] = []

    def work() -> None:
        desk.begin()
        desk.add((21, 36), (21, 44))
        for box in desk.page.locator("details summary").all():
            box.click()

    def faces() -> None:
        Image.new("RGB", (300, 260), "#dfe8f0").save(tmp_path / "plain.png")
        desk.page.set_input_files("#file", tmp_path / "plain.png")
        desk.page.wait_for_selector("#faces", state="visible")

    def hold(socket: Any) -> None:
        """Pass on what the studio says until the inversion is done: its screen then stays."""
        server = socket.connect_to_server()

        def pass_on(message: Any) -> None:
            head, _ = framing.unpack(message)
            if held or head["type"] == "frame":
                held.append(message)
            else:
                socket.send(message)

        server.on_message(pass_on)

    def finding() -> None:
        desk.page.route_web_socket(re.compile("/socket$"), hold)
        desk.page.goto(studio.address)
        faces()
        desk.page.click("#faces-go")
        desk.page.wait_for_selector("#finding", state="visible")
        desk.until("document.querySelector('#finding-model').width == 512")  # a preview is there

    def api() -> None:
        desk.page.goto(f"{studio.address}api.html")
        desk.page.wait_for_selector("#content section")
        assert "/api/sessions/{id}/picture" in desk.page.locator("#content").inner_text()

    steps = {"start": lambda: None, "work": work, "faces": faces, "finding": finding, "api": api}
    for name, step in steps.items():
        step()
        for scheme in ("dark", "light"):
            if name == "api":  # it has no button
                desk.page.emulate_media(color_scheme=scheme)
            elif desk.page.evaluate("document.documentElement.dataset.theme") != scheme:
                desk.page.click("#theme")
            desk.shot(f"{name}-{scheme}")
            found = axe.run(desk.page).response["violations"]
            told = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
            assert told == [], (name, scheme)
    desk.close()


def test_texts_of_other_languages(browser: Any, studio: StudioProcess) -> None:
    desk = Desk(browser, studio, locale="zh-CN")  # the browser's own is taken
    sample = desk.page.locator("#gallery button").nth(3)
    for code, words in (("ja", "顔 3"), ("zh", "人脸 3")):
        desk.page.select_option("#language", code)
        assert sample.get_attribute("aria-label") == words
    desk.page.locator("#gallery button").nth(3).click()
    desk.until("!document.querySelector('#work').hidden")
    for code, word in (("zh", "开始"), ("ja", "開始"), ("en", "Start")):
        if code != "zh":
            desk.page.select_option("#language", code)
        assert desk.page.locator("#run-words").inner_text() == word
        assert desk.page.evaluate("document.documentElement.lang") == code
        desk.shot(f"work-{code}")
    desk.close()


def test_a_killed_server_loses_nothing(desk: Desk, studio: StudioProcess) -> None:
    page = desk.page
    desk.begin()
    desk.add((21, 36), (21, 44))
    page.click("#step")
    desk.until("+document.querySelector('#scrub').max == 1")
    page.evaluate("window.stays = true")
    studio.end(signal.SIGKILL)
    desk.until("!document.querySelector('#notice').hidden")  # it says so
    studio.start()
    desk.until("document.querySelector('#notice').textContent.includes('again. Nothing')")
    desk.until("document.querySelectorAll('#points li').length == 1")
    page.click("#step")
    desk.until("+document.querySelector('#scrub').max == 2")
    assert page.evaluate("window.stays")  # without a reload
    # The browser itself complains of what could not be reached meanwhile.
    cut = ("WebSocket connection", "net::ERR_", "Failed to fetch")
    desk.wrong[:] = [said for said in desk.wrong if not any(words in said for words in cut)]
