"""make bench: the reference computes what the program computes; the table says what was found."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.edit import drag
from pipeline.edit.drag import AddHandle, Limits, Step, Stepped
from pipeline.edit.generator import choose_layer, drag_model
from pipeline.edit.strategies import build_strategy
from pipeline.models import stylegan2, stylegan3
from pipeline.models.build import build
from pipeline.models.config import NetworkConfig
from scripts.bench import main
from scripts.benchmarks import measure, reference
from scripts.benchmarks.all_rows import ROWS
from scripts.benchmarks.dragging import HANDLES, TARGETS, pixels
from scripts.benchmarks.generators import make_generator, random_ws
from scripts.benchmarks.reference_drag import ReferenceDrag
from scripts.benchmarks.rows import Check, Outcome, Result, Row, Setting, Skipped, Work
from scripts.benchmarks.run import run_row
from scripts.benchmarks.table import markdown
from scripts.benchmarks.training import (
    REFERENCE,
    RandomImages,
    amortised,
    make_training,
    measure_step,
    published_shape,
    recorded_calls,
)
from tests import quick_python
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d import modulated_conv2d
from torch_utils.ops.filtered_lrelu import filtered_lrelu
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d
from torch_utils.recording import Outputs, Rerun

CPU = Setting(torch.device("cpu"), repeats=1, quick=True)
seeds = st.integers(0, 2**31)


def same_with_gradients(ours, theirs, *leaves: torch.Tensor) -> None:
    """Values and gradients of two functions of the leaves agree."""
    a, b = ours(), theirs()
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    weight = torch.linspace(-1, 1, a.numel()).view_as(a)
    for one, other in zip(
        torch.autograd.grad((a * weight).sum(), leaves),
        torch.autograd.grad((b * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds, up=st.integers(1, 3), down=st.integers(1, 3), taps=st.integers(1, 9),
    padding=st.lists(st.integers(-2, 6), min_size=4, max_size=4), flip=st.booleans(),
)  # fmt: skip
def test_reference_upfirdn2d(seed, up, down, taps, padding, flip) -> None:
    noise = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 11, 12, generator=noise, requires_grad=True)
    f = setup_filter(torch.rand(taps, generator=noise) + 0.1)
    options = {"up": up, "down": down, "padding": padding, "flip_filter": flip, "gain": 1.7}
    same_with_gradients(
        lambda: upfirdn2d(x, f, **options), lambda: reference.upfirdn2d(x, f, **options), x
    )


@settings(max_examples=15, deadline=None)
@given(seed=seeds, up=st.integers(1, 4), down=st.integers(1, 4), clamp=st.sampled_from([None, 0.5]))
def test_reference_filtered_lrelu(seed, up, down, clamp) -> None:
    noise = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 2, 12, 13, generator=noise, requires_grad=True)
    b = torch.randn(2, generator=noise, requires_grad=True)
    fu = setup_filter(torch.rand(6 * up, generator=noise) + 0.1)
    fd = setup_filter(torch.rand(6 * down, generator=noise) + 0.1)
    options = {
        "fu": fu,
        "fd": fd,
        "up": up,
        "down": down,
        "padding": 6 * (up + down),
        "clamp": clamp,
    }
    same_with_gradients(
        lambda: filtered_lrelu(x, b=b, **options),
        lambda: reference.filtered_lrelu(x, b=b, **options),
        x,
        b,
    )


@pytest.mark.parametrize("act", ["lrelu", "linear", "swish"])
def test_reference_bias_act(act: str) -> None:
    x = torch.randn(2, 3, 5, 7, requires_grad=True)
    b = torch.randn(3, requires_grad=True)
    options = {"act": act, "clamp": 0.7}
    same_with_gradients(
        lambda: bias_act(x, b, **options), lambda: reference.bias_act(x, b, **options), x, b
    )


@settings(max_examples=20, deadline=None)
@given(
    seed=seeds, kernel=st.sampled_from([1, 3]), factors=st.sampled_from([(1, 1), (2, 1), (1, 2)]),
    demodulate=st.booleans(), flip=st.booleans(),
)  # fmt: skip
def test_reference_modulated_convolution(seed, kernel, factors, demodulate, flip) -> None:
    noise = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, 8, 8, generator=noise, requires_grad=True)
    weight = torch.randn(5, 4, kernel, kernel, generator=noise, requires_grad=True)
    styles = torch.randn(3, 4, generator=noise, requires_grad=True)
    options = {
        "up": factors[0], "down": factors[1], "padding": kernel // 2, "demodulate": demodulate,
        "flip_weight": flip, "resample_filter": setup_filter([1, 3, 3, 1]), "input_gain": 0.8,
    }  # fmt: skip
    same_with_gradients(
        lambda: modulated_conv2d(x, weight, styles, **options),
        lambda: reference.modulated_conv2d(x, weight, styles, **options),
        x,
        weight,
        styles,
    )


@pytest.mark.parametrize("architecture", ["stylegan2", "stylegan3-t", "stylegan3-r"])
def test_networks_on_the_reference_compute_the_same(architecture: str) -> None:
    torch.manual_seed(0)
    shape = {"channel_base": 1024, "channel_max": 32, "z_dim": 16, "w_dim": 16}
    config = NetworkConfig(
        architecture=architecture, **shape, d_channel_base=1024, d_channel_max=32
    )
    generator, discriminator = build(config, 64, 3, 0)
    for name, parameter in generator.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            torch.nn.init.normal_(parameter, 0.3, 0.3)
    z = torch.randn(2, 16)
    image = generator(z, noise_mode="const")
    logits = discriminator(image)
    with reference.public_formulation():
        other = generator(z, noise_mode="const")
        other_logits = discriminator(image)
    torch.testing.assert_close(other, image, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(other_logits, logits, atol=1e-4, rtol=1e-4)


def test_the_reference_takes_whatever_the_program_passes() -> None:
    for own, other in reference.exchanges().items():
        asked, taken = (inspect.signature(one).parameters for one in (own, other))
        assert [(p.name, p.kind, p.default) for p in taken.values()] == [
            (p.name, p.kind, p.default) for p in asked.values()
        ], own.__name__


def test_inside_the_block_the_reference_runs_and_behind_it_the_program() -> None:
    own = (stylegan2.modulated_conv2d, stylegan2.bias_act, stylegan3.filtered_lrelu)
    inside = []
    with contextlib.suppress(KeyError), reference.public_formulation():
        inside = [stylegan2.modulated_conv2d, stylegan2.bias_act, stylegan3.filtered_lrelu]
        raise KeyError
    assert inside == [reference.modulated_conv2d, reference.bias_act, reference.filtered_lrelu]
    assert own == (stylegan2.modulated_conv2d, stylegan2.bias_act, stylegan3.filtered_lrelu)
    called = []

    def noted(*arguments, **options):
        called.append(1)
        return filtered_lrelu(*arguments, **options)

    generator = make_generator("stylegan3-t", 64, CPU, small=True)
    with reference.exchanged({filtered_lrelu: noted}):
        generator.synthesis(random_ws(generator, CPU))
    assert len(called) == 15  # the layers, the image's included


@pytest.mark.parametrize("architecture", ["stylegan2", "stylegan3-t"])
def test_the_references_drag_step_is_the_compatible_strategys(architecture: str) -> None:
    generator = make_generator(architecture, 64, CPU, small=True)
    ws, layer = random_ws(generator, CPU), choose_layer(generator)
    # The strategy's lengths are those of 512 px, eight times the reference's.
    strategy = build_strategy("draggan-compatible", radius=24.0, search_radius=96.0)
    public = ReferenceDrag(generator, layer, pixels(64, TARGETS), rows=6, radius=3, reach=12)
    model, handles = drag_model(generator, layer), pixels(64, HANDLES)
    references = public.references(ws, handles)
    state = drag.start(ws, (0, 6))
    for (row, column), (to_row, to_column) in zip(handles, pixels(64, TARGETS), strict=True):
        event = AddHandle((column + 0.5, row + 0.5), (to_column + 0.5, to_row + 0.5))
        state, _ = drag.advance(state, event, model, strategy, Limits())
    for _ in range(3):
        state, events = drag.advance(state, Step(), model, strategy, Limits())
        stepped = events[0]
        assert isinstance(stepped, Stepped)
        with reference.public_formulation():
            handles, loss, gradient = public.step(stepped.ws, handles, references)
        places = [(column + 0.5, row + 0.5) for row, column in handles]
        assert places == [handle.position for handle in stepped.handles]
        assert float(loss) == pytest.approx(stepped.motion_loss, rel=1e-4)
        torch.testing.assert_close(gradient, stepped.gradient, atol=1e-5, rtol=1e-3)


# --- measuring ---


def test_sides_take_turns_and_the_middle_sample_counts() -> None:
    called: list[str] = []
    ticks: Iterator[float] = iter([0, 1, 0, 1, 0, 5, 0, 4, 0, 2, 0, 10, 0, 100, 0, 20])
    quick, slow = measure.interleaved(
        [lambda: called.append("a"), lambda: called.append("b")],
        3,
        torch.device("cpu"),
        lambda: float(next(ticks)),
    )
    assert quick.samples == (5, 2, 100)
    assert (quick.median, slow.median) == (5, 10)
    assert called == [*"ab" * 4]


def test_a_quick_side_calls_several_times_a_sample() -> None:
    """What a slow and large reference leaves behind must not be charged to every call of ours."""
    called: list[str] = []
    ticks: Iterator[float] = iter([0, 1, 0, 20, 0, 12, 0, 20])
    quick, slow = measure.interleaved(
        [lambda: called.append("a"), lambda: called.append("b")],
        1,
        torch.device("cpu"),
        lambda: float(next(ticks)),
    )
    assert (quick.samples, slow.samples) == ((3,), (20,))
    assert "".join(called) == "ab" + "aaaab"


def test_peak_memory_is_what_the_call_needs_above_what_was_there(root: Path) -> None:
    code = (
        "import numpy, torch\n"
        "from scripts.benchmarks.measure import peak_bytes\n"
        "kept = numpy.ones(64 << 20, numpy.uint8)\n"
        "freed = numpy.ones(200 << 20, numpy.uint8)\n"
        "del freed\n"
        "print(peak_bytes(lambda: numpy.ones(48 << 20, numpy.uint8).sum(), torch.device('cpu')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert 47 <= int(done.stdout) / (1 << 20) <= 60


def test_a_reference_that_does_not_fit_is_left_out_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(_: Setting) -> Work:
        raise AssertionError("the row must not be begun")

    row = Row("big", "something big", "≥ 2x", work=never, speed=2, wants_gib=12)
    monkeypatch.setattr(measure, "free_bytes", lambda: 4 << 30)
    result = run_row(row, Setting(torch.device("cpu")))
    assert result.outcome is None
    assert "12 GiB" in result.reason
    assert "4.0 GiB are free" in result.reason


def test_a_gpus_ceiling_fills_the_gpu() -> None:
    """A product whose blocks (of 128 x 128) an H100 runs in few rounds, the last one half empty,
    would be a low ceiling, beside which every kernel looks good."""
    processors = 132
    side, copy_bytes = measure.CEILING_SIZES["cuda"]
    rounds = (side / 128) ** 2 / processors
    assert rounds / math.ceil(rounds) > 0.95
    assert copy_bytes > 10 * 50 * measure.MIB  # its cache


def test_every_target_must_be_reached() -> None:
    row = Row("x", "some work", "≥ 2x, peak memory ≤ 1/4")
    fast, lean = Check("speed", 2.5, 2), Check("memory", 3.0, 4)
    close = Check("of its convolutions alone", 1.2, 1.3, at_least=False)
    assert Result(row, Outcome(checks=(fast, close))).reached is True
    assert Result(row, Outcome(checks=(fast, lean))).reached is False
    assert Result(row, None, "no GPU").reached is None
    text = markdown(
        [Result(row, Outcome(2.0, 5.0, 100 << 20, 300 << 20, 1e9, 2e9, (fast, lean)))],
        measure.Ceilings(10, 4),
        {},
    )
    line = next(line for line in text.splitlines() if line.startswith("| some work"))
    assert "2.5x, memory 1/3.0" in line
    assert "100 MB | 300 MB | 0.5 (5%) | 1.0 (25%) | **no** |" in line


def test_regularisation_is_shared_out_over_the_steps() -> None:
    _, recipe = make_training(published_shape("stylegan2", 256), 16, 4, CPU.device)
    seconds = {"Gmain": 1.0, "Greg": 8.0, "Dmain": 2.0, "Dreg": 32.0, "EMA": 0.5}
    assert amortised(recipe, seconds) == pytest.approx(1 + 8 / 4 + 2 + 32 / 16 + 0.5)


@pytest.mark.parametrize("row", [row for row in ROWS if row.work], ids=lambda row: row.key)
def test_both_sides_of_a_row_run(row: Row) -> None:
    assert row.work is not None
    work = row.work(CPU)
    work.ours()
    work.reference()
    for part in work.parts.values():
        part()
    assert work.flops is None or work.flops > 0


@pytest.mark.parametrize(
    "key", ["train-stylegan2-128", "train-stylegan3-t-128", "preprocess", "studio-drag-256"]
)
def test_rows_that_measure_themselves(key: str) -> None:
    result = run_row(next(row for row in ROWS if row.key == key), CPU)
    assert result.outcome is not None
    assert result.outcome.checks[0].value > 0
    assert result.outcome.ours_seconds is not None


# --- the command ---


def bench(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.bench", "--threads", "1", *arguments]
    return quick_python.run(command, cwd=root)


def test_the_command_writes_a_table(root: Path, tmp_path: Path) -> None:
    keys = ["bias_act", "gpu-drag-stylegan2-512"]
    only = [part for key in keys for part in ("--only", key)]
    done = bench(root, "--quick", "--repeats", "1", "--out", str(tmp_path / "new" / "b"), *only)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "new" / "b" / "bench.json").read_text(encoding="utf-8"))
    rows = {row["key"]: row for row in content["rows"]}
    assert list(rows) == keys
    assert rows["bias_act"]["ours_seconds"] > 0
    assert rows["bias_act"]["checks"][0]["value"] == pytest.approx(
        rows["bias_act"]["reference_seconds"] / rows["bias_act"]["ours_seconds"]
    )
    assert rows["bias_act"]["reference_bytes"] > 0
    assert rows["gpu-drag-stylegan2-512"]["reason"].startswith("not measured")
    assert content["ceilings"]["gflops"] > 0
    text = (tmp_path / "new" / "b" / "bench.md").read_text(encoding="utf-8")
    assert "answer to no target" in text
    assert all(row.title in text for row in ROWS if row.key in keys)


def test_a_misspelt_row_is_one_sentence(root: Path) -> None:
    done = bench(root, "--only", "bias_akt")
    assert done.returncode == 2
    assert "bias_act" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_that_measures_nothing_fails(tmp_path: Path) -> None:
    arguments = ["--quick", "--only", "gpu-filtered-lrelu", "--out", str(tmp_path / "b")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("bench: none of the chosen rows can be measured here")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "b").exists()


def test_a_recorded_training_step_is_timed_once_it_is_recorded() -> None:
    state, recipe = make_training(published_shape("stylegan2", 256), 16, 4, CPU.device)
    launched: list[str] = []

    class Counted(Rerun):
        def record(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
            launch = super().record(function)

            def counted() -> Outputs:
                launched.append("launch")
                return launch()

            return counted

    calls = recorded_calls(state, recipe, RandomImages(16, 4), Counted())
    launched.clear()
    calls["Gmain"]()
    assert len(launched) == 3
    calls["Dmain"]()
    assert len(launched) == 6


def test_a_step_takes_as_many_images_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's memory does not run out here: what stands in for that is the reader."""
    read = RandomImages.batch

    def batch(
        self: RandomImages, images_seen: int, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if count > 4:
            raise torch.OutOfMemoryError
        return read(self, images_seen, count)

    monkeypatch.setattr(RandomImages, "batch", batch)
    network = published_shape("stylegan2", 256)
    found = measure_step(network, 16, (16, 8, 4), REFERENCE, replace(CPU, repeats=1))
    assert found.at_once == 4
    assert set(found.seconds) == {"Gmain", "Greg", "Dmain", "Dreg", "EMA"}
    assert found.main_seconds == pytest.approx(
        (found.seconds["Gmain"] + found.seconds["Dmain"]) / 4
    )
    assert found.an_image > found.main_seconds
    with pytest.raises(Skipped, match="8 images do not fit"):
        measure_step(network, 16, (16, 8), REFERENCE, CPU)


def test_rows_are_listed(root: Path) -> None:
    done = bench(root, "--list")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [row.key for row in ROWS]
    assert len({row.key for row in ROWS}) == len(ROWS)
