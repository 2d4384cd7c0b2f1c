"""Rows of the studio: a real server, its workers, and for two of them a real browser.

The model has the starter's shape at 256 px and random weights, on which no speed depends.
"""

from __future__ import annotations

import contextlib
import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.rows import Check, Outcome, Row, Setting, Skipped

if TYPE_CHECKING:
    from pipeline.edit.client import Client

SIDE, QUICK_SIDE = 256, 64
# The starter's own numbers (conf/experiment): channels, latents.
CHANNEL_MAX, LATENT = 128, 256
CHANNELS_TIMES_SIDE = 16
WAIT_SECONDS = 240.0
DRAG_SECONDS = 8.0
LEAST_STEPS = 5
MOVES = 40
# First paint since the page was asked for, in ms; null until there is one.
PAINTED = "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)[0]"
# From a pointer's event to the end of the frame in which the stage was drawn with it, in ms.
WATCH = """() => {
  window.latencies = [];
  document.querySelector("#canvas").addEventListener("pointermove", (event) =>
    requestAnimationFrame(() => window.latencies.push(performance.now() - event.timeStamp)));
}"""


@dataclass
class RandomModel:
    """Config of the stage that makes the model."""

    name: str
    side: int


def _make_model(
    config: RandomModel, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    import torch

    from pipeline.models import checkpoint
    from pipeline.models.build import build
    from pipeline.models.config import NetworkConfig

    torch.manual_seed(0)
    channels = CHANNELS_TIMES_SIDE * config.side
    network = NetworkConfig(
        architecture="stylegan2", mapping_layers=4, channel_base=channels,
        d_channel_base=channels, channel_max=CHANNEL_MAX, w_dim=LATENT, z_dim=LATENT,
        use_noise=False,
    )  # fmt: skip
    generator, _ = build(network, config.side, 3, 0)
    checkpoint.save(out, {"G_ema": generator.eval()})
    return {}


@contextlib.contextmanager
def _studio(setting: Setting) -> Iterator[str]:
    """Address of a studio with that model; everything it made goes afterwards."""
    from pipeline.artifacts.store import Store
    from pipeline.runner import run_stage
    from pipeline.stages import Stage

    here = f"{__name__}:"
    stage = Stage(name="random-model", version=1, produces="model",
                  config=f"{here}RandomModel", run=f"{here}_make_model")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "artifacts"
        config = RandomModel("random", QUICK_SIDE if setting.quick else SIDE)
        with contextlib.redirect_stdout(io.StringIO()):
            run_stage(stage, config, Store(store))
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.studio", "--port", "0", "--store", str(store),
             "--sessions", f"{folder}/sessions", "--model", "model/random",
             "--device", setting.device.type],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            if found is None:
                raise Skipped("not measured: the studio did not start")
            yield found.group()
        finally:
            process.terminate()
            process.wait(60)


@contextlib.contextmanager
def _page(address: str) -> Iterator[Any]:
    """The studio in a browser; Skipped where there is none."""
    from scripts.install_browser import installed

    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise Skipped("not measured: playwright is not installed") from None
    if installed() is None:
        raise Skipped("not measured: no Chromium here (python -m scripts.install_browser)")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=installed(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(WAIT_SECONDS * 1000)
        page.goto(address)
        yield page
        browser.close()


def _until(true: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not true():
        if time.monotonic() > end:
            raise Skipped("not measured: the studio did not answer in time")
        time.sleep(0.02)


def _first_paint(setting: Setting) -> Outcome:
    """The browser's own first-contentful-paint, the server just up, its workers still starting."""
    with _studio(setting) as address, _page(address) as page:
        _until(lambda: page.evaluate(PAINTED) is not None)
        seconds = page.evaluate(PAINTED) / 1000
    check = Check("s to the first paint", seconds, 1.0, at_least=False, unit="")
    return Outcome(ours_seconds=seconds, checks=(check,))


def _pointer(setting: Setting) -> Outcome:
    """A target is moved about while a drag runs."""
    with _studio(setting) as address, _page(address) as page:
        page.wait_for_selector("#gallery:not([aria-busy]) img")
        page.locator("#gallery button").nth(1).click()
        _until(lambda: page.evaluate("!document.querySelector('#work').hidden"))
        box = page.locator("#canvas").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.click(x - 60, y)
        page.mouse.click(x - 60, y + 90)
        _until(lambda: page.locator("#points li").count() == 1)
        page.evaluate(WATCH)
        page.click("#run")
        _until(lambda: page.evaluate("+document.querySelector('#scrub').max >= 2"))
        page.mouse.move(x - 60, y + 90)
        page.mouse.down()
        for number in range(MOVES):
            page.mouse.move(x - 60 + 2 * (number % 20), y + 90 + number % 7)
            time.sleep(0.03)
        page.mouse.up()
        made = page.evaluate("+document.querySelector('#scrub').max")
        taken = sorted(value / 1000 for value in page.evaluate("window.latencies"))
    middle, late = taken[len(taken) // 2], taken[int(len(taken) * 0.95)]
    return Outcome(
        ours_seconds=middle,
        checks=(Check("s from pointer to overlay", middle, 0.05, at_least=False, unit=""),),
        samples={"pointer to overlay": tuple(taken)},
        figures={"95 of 100 within (ms)": round(late * 1000, 1), "steps meanwhile": made},
    )


def _drag(setting: Setting) -> Outcome:
    """Frames that come over the socket, each a step and its picture."""
    from pipeline.edit.client import Client

    side = QUICK_SIDE if setting.quick else SIDE
    with _studio(setting) as address, Client(address.rstrip("/")) as client:
        client.wait("state", seconds=WAIT_SECONDS)
        client.send("seed", seed=1)
        client.wait("state", lambda head: head.get("step_seconds", 0) > 0, WAIT_SECONDS)
        for x in (0.35, 0.65):
            client.send("add", position=[x * side, 0.45 * side], target=[x * side, 0.9 * side])
        taken = _intervals(client, 1 if setting.quick else DRAG_SECONDS)
    seconds = statistics.median(taken)
    check = Check("steps with their picture a second", 1 / seconds, 8, unit="")
    samples = {"between pictures": tuple(taken)}
    return Outcome(ours_seconds=seconds, checks=(check,), samples=samples)


def _intervals(client: Client, seconds: float) -> list[float]:
    """Seconds from picture to picture of a drag, for so long; begun again where it ends.

    It does: random weights have nothing that a point could be recognised by for long.
    """
    taken: list[float] = []
    last: float | None = None
    client.send("run")
    while sum(taken) < seconds or len(taken) < LEAST_STEPS:
        head, _ = client.receive(WAIT_SECONDS)
        now = time.perf_counter()
        if head["type"] == "frame":
            if last is not None:
                taken.append(now - last)
            last = now
        elif head["type"] == "ended":
            client.send("run")
            last = None
        elif head["type"] == "error":
            raise Skipped(f"not measured: {head['message']}")
    return taken


def _first_preview(setting: Setting) -> Outcome:
    """From the wish to have a face found to its first preview on the socket."""
    from PIL import Image

    from pipeline.data.painter import sample_face
    from pipeline.edit.client import Client

    data = io.BytesIO()
    Image.fromarray(sample_face(0, 0, size=512).image).save(data, "PNG")
    with _studio(setting) as address, Client(address.rstrip("/")) as client:
        client.wait("state", seconds=WAIT_SECONDS)
        client.upload(data.getvalue())
        client.wait("state", lambda head: head["phase"] == "faces", WAIT_SECONDS)
        began = time.perf_counter()
        client.send("face", x=256, y=256, width=400)
        client.wait("preview", seconds=WAIT_SECONDS)
        seconds = time.perf_counter() - began
    check = Check("s to the first preview", seconds, 2.0, at_least=False, unit="")
    return Outcome(ours_seconds=seconds, checks=(check,))


ROWS = (
    Row(
        key="studio-first-paint",
        title="studio: first paint, the server just up",
        target="< 1 s",
        measure=_first_paint,
    ),
    Row(
        key="studio-drag-256",
        title="studio: drag step and its picture, 256 px, 2 handles",
        target="≥ 8 a second",
        measure=_drag,
    ),
    Row(
        key="studio-pointer",
        title="studio: pointer to overlay while it drags, 256 px",
        target="< 50 ms",
        measure=_pointer,
    ),
    Row(
        key="studio-preview",
        title="studio: first preview of an inversion, 256 px",
        target="< 2 s",
        measure=_first_preview,
    ),
)
