"""Whole networks on a device: training steps in s/kimg, the drag in steps a second, an inversion.

The figures published for an A100 stand beside ours for orientation: it is other hardware. Steps are
measured in half precision where there is a GPU, images augmented, regularisation shared out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.models.config import NetworkConfig
from scripts.benchmarks.dragging import shown_steps
from scripts.benchmarks.inverting import whole_inversion
from scripts.benchmarks.rows import Setting, Skipped
from scripts.benchmarks.training import (
    COMPILED,
    COMPILED_REFERENCE,
    OWN_BATCHES,
    PLAIN,
    RECORDED,
    REFERENCE,
    REFERENCE_BATCHES,
    StepFigures,
    measure_step,
    published_shape,
)
from scripts.gpu_checks.finding import Finding, table

# Seconds a thousand images at 512 px that the authors publish for one A100.
PUBLISHED = {"stylegan2": 41.06, "stylegan3-t": 90.25, "stylegan3-r": 110.13}
WANTED_S_PER_KIMG = {"stylegan3-t": 20.0}
WANTED_STEPS_A_SECOND = {"stylegan2": 60.0}
WANTED = "wanted: 0.06 within 10 s"

BATCHES = dict.fromkeys((RECORDED, PLAIN, COMPILED), OWN_BATCHES)
SMALL_BATCHES = (4,)
AUGMENT_P = 0.2
GIB = 1 << 30
# Steps of whole networks take long, and their spread is small.
MOST_REPEATS = 5


def _figures(network: str, ways: Sequence[str], setting: Setting) -> list[tuple[str, object]]:
    """(way, its StepFigures, or why there are none)."""
    side, shape = 512, published_shape(network)
    if setting.quick:
        side = 16
        shape = NetworkConfig(
            architecture=network, channel_base=256, d_channel_base=256, channel_max=16,
            d_channel_max=16, z_dim=16, w_dim=16, mapping_layers=2,
        )  # fmt: skip
    found: list[tuple[str, object]] = []
    for way in ways:
        batches = SMALL_BATCHES if setting.quick else BATCHES.get(way, REFERENCE_BATCHES)
        try:
            found.append((way, measure_step(shape, side, batches, way, setting, AUGMENT_P)))
        except Skipped as reason:
            found.append((way, str(reason)))
    return found


def _training(networks: Sequence[str], ways: Sequence[str], setting: Setting) -> Finding:
    setting = _few(setting)
    rows, figures, failures = [], [], []
    for network in networks:
        for way, found in _figures(network, ways, setting):
            if not isinstance(found, StepFigures):
                rows.append([network, way, str(found), *["–"] * 4])
                if way == RECORDED:
                    failures.append(f"{network}: {found}")
                continue
            kimg = found.an_image * 1000
            wanted = None if way != RECORDED else _wanted(WANTED_S_PER_KIMG, network, setting)
            rows.append([
                network, way, f"{kimg:.2f}", f"{found.main_seconds * 1000:.2f}",
                str(found.at_once), _gib(found.peak_bytes),
                "–" if wanted is None else f"below {wanted:g}",
            ])  # fmt: skip
            figures.append({"network": network, "s_per_kimg": kimg} | asdict(found))
    side = 16 if setting.quick else 512
    published = ", ".join(f"{network} {PUBLISHED[network]}" for network in networks)
    lines = [
        f"{side} px, augmented with p {AUGMENT_P}, regularisation shared out over the iterations. "
        f"recorded: as the program trains on a GPU; {REFERENCE}: the same step on the public "
        f"formulation's operators. Published for one A100, s/kimg: {published}.",
        "",
        *table(
            "network | way | s/kimg | of which main phases | images at once | memory | wanted", rows
        ),
    ]
    return Finding(lines, figures, failures)


def training(setting: Setting) -> Finding:
    """Our step beside the public formulation's."""
    networks = tuple(PUBLISHED) if not setting.quick else ("stylegan2",)
    return _training(networks, (RECORDED, PLAIN, REFERENCE), setting)


def compiled(setting: Setting) -> Finding:
    """Both steps where torch.compile translates the main phases, which takes it minutes."""
    networks = ("stylegan2", "stylegan3-t") if not setting.quick else ("stylegan2",)
    return _training(networks, (COMPILED, COMPILED_REFERENCE), setting)


def dragging(setting: Setting) -> Finding:
    """Steps a second with a picture every second step, as the studio shows a drag."""
    rows, figures = [], []
    for network in ("stylegan2", "stylegan3-t"):
        times = shown_steps(network, setting)
        rate = 2 / times.median
        wanted = _wanted(WANTED_STEPS_A_SECOND, network, setting)
        target = "–" if wanted is None else f"at least {wanted:g}"
        rows.append([network, f"{rate:.1f}", target])
        figures.append({"network": network, "steps_a_second": rate, "samples": times.samples})
    side = 64 if setting.quick else 512
    lines = [
        f"{side} px, random weights, two handles, a full picture every second step.",
        "",
        *table("network | steps/s | wanted", rows),
    ]
    return Finding(lines, figures)


def inverting(setting: Setting) -> Finding:
    """A whole inversion by the invert stage."""
    with tempfile.TemporaryDirectory() as folder:
        found = whole_inversion(Path(folder), setting)
    side = 64 if setting.quick else 512
    row = [
        f"{float(found['seconds']):.1f} s" + ("" if setting.quick else f" ({WANTED})"),
        f"{found['project_seconds']} s, {found['project_steps']} steps",
        f"{found['tune_seconds']} s, {found['tune_steps']} steps",
        f"{found['perceptual']} {float(found['perceptual_tuned']):.3f}",
        f"{float(found['psnr_tuned_db']):.1f} dB",
    ]
    lines = [
        f"A StyleGAN2 at {side} px with random weights finds a picture that it drew from another "
        "latent: loading, pivot, tuning and writing.",
        "",
        *table("whole | pivot | tuning | distance | PSNR", [row]),
    ]
    return Finding(lines, [dict(found)])


def _wanted(targets: Mapping[str, float], network: str, setting: Setting) -> float | None:
    """What is asked for; small shapes answer to no target."""
    return None if setting.quick else targets.get(network)


def _few(setting: Setting) -> Setting:
    return replace(setting, repeats=min(setting.repeats, MOST_REPEATS))


def _gib(size: int | None) -> str:
    return "–" if size is None else f"{size / GIB:.1f} GiB"
