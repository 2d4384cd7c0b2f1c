"""Rows of the drag step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.edit import drag
from pipeline.edit.drag import AddHandle, DragModel, DragState, Limits, Step, Strategy
from pipeline.edit.generator import choose_layer, drag_model, free_rows
from pipeline.edit.strategies import REFERENCE_HEIGHT, build_strategy
from pipeline.models.build import Generator
from scripts.benchmarks.generators import make_generator, random_ws, with_reference
from scripts.benchmarks.measure import Times, interleaved
from scripts.benchmarks.reference_drag import Pixel, ReferenceDrag
from scripts.benchmarks.rows import Check, Outcome, Row, Setting, Work

# Rows of ws that are optimised, as in the edit stage's settings.
ROWS_OPTIMISED = 6
# Shares of the picture: (row, column) of two handles, and of their targets.
HANDLES = ((0.45, 0.35), (0.45, 0.65))
TARGETS = ((0.55, 0.30), (0.40, 0.70))


def pixels(side: int, shares: tuple[tuple[float, float], ...]) -> tuple[Pixel, ...]:
    """Whole pixels of a picture."""
    return tuple((int(row * side), int(column * side)) for row, column in shares)


def own_drag(
    generator: Generator, layer: str, ws: Tensor, strategy: Strategy
) -> tuple[DragState, DragModel]:
    """The program's drag with both handles, after the step in which they got their references."""
    model = drag_model(generator, layer)
    state = drag.start(ws, free_rows(generator, layer, ROWS_OPTIMISED, move_whole_face=False))
    side = generator.img_resolution
    for (row, column), (to_row, to_column) in zip(
        pixels(side, HANDLES), pixels(side, TARGETS), strict=True
    ):
        event = AddHandle((column + 0.5, row + 0.5), (to_column + 0.5, to_row + 0.5))
        state, _ = drag.advance(state, event, model, strategy, Limits())
    state, _ = drag.advance(state, Step(), model, strategy, Limits())
    return state, model


def reference_drag(generator: Generator, layer: str) -> ReferenceDrag:
    """The public formulation's drag of the same points."""
    side = generator.img_resolution
    scale = side / REFERENCE_HEIGHT
    return ReferenceDrag(
        generator, layer, pixels(side, TARGETS), ROWS_OPTIMISED, round(3 * scale), round(12 * scale)
    )


def drag_work(architecture: str, resolution: int) -> Callable[[Setting], Work]:
    """Work of one step with two handles: the studio's strategy."""

    def make(setting: Setting) -> Work:
        side = 64 if setting.quick else resolution
        generator = make_generator(architecture, side, setting, small=setting.quick)
        layer, ws = choose_layer(generator), random_ws(generator, setting)
        strategy = build_strategy("draggan")
        state, model = own_drag(generator, layer, ws, strategy)
        public = reference_drag(generator, layer)
        handles = pixels(side, HANDLES)
        references = public.references(ws, handles)

        def ours() -> object:
            return drag.advance(state, Step(), model, strategy, Limits())

        def theirs() -> object:
            return public.step(ws, handles, references)

        def picture() -> object:
            with torch.no_grad():
                return generator.synthesis(ws, noise_mode="const", force_fp32=True)

        return Work(ours, with_reference(theirs), parts={"a full picture": picture})

    return make


def shown_steps(architecture: str, setting: Setting) -> Times:
    """Two steps of a drag at 512 px and a picture, as the studio shows it."""
    side = 64 if setting.quick else 512
    generator = make_generator(architecture, side, setting, small=setting.quick)
    strategy = build_strategy("draggan")
    layer, ws = choose_layer(generator), random_ws(generator, setting)
    state, model = own_drag(generator, layer, ws, strategy)

    def two_steps_and_a_picture() -> None:
        for _ in range(2):
            drag.advance(state, Step(), model, strategy, Limits())
        with torch.no_grad():
            generator.synthesis(ws, noise_mode="const")

    (times,) = interleaved([two_steps_and_a_picture], *setting.timing)
    return times


def _steps_on_gpu(setting: Setting) -> Outcome:
    """Steps a second with a picture each second step."""
    times = shown_steps("stylegan2", setting)
    return Outcome(
        ours_seconds=times.median / 2,
        checks=(Check("steps a second", 2 / times.median, 60, unit=""),),
        samples={"two steps and a picture": times.samples},
    )


ROWS = (
    Row(
        key="drag-stylegan2-512",
        title="drag step, StyleGAN2-512, 2 handles",
        target="≥ 4x, peak memory ≤ 1/4",
        work=drag_work("stylegan2", 512),
        speed=4,
        memory=4,
        wants_gib=3.5,
        most_repeats=3,
    ),
    Row(
        key="drag-stylegan3-t-256",
        title="drag step, StyleGAN3-T-256, 2 handles, same feature layer",
        target="≥ 20x, peak memory ≤ 1/10",
        work=drag_work("stylegan3-t", 256),
        speed=20,
        memory=10,
        wants_gib=13,
        most_repeats=3,
    ),
)
GPU_ROWS = (
    Row(
        key="gpu-drag-stylegan2-512",
        title="GPU: drag step, StyleGAN2-512, a picture each 2 steps",
        target="≥ 60 steps/s",
        measure=_steps_on_gpu,
        device="cuda",
        most_repeats=50,
    ),
)
