"""Training with recorded main phases equals the plain training bit for bit, and falls back."""

from __future__ import annotations

import functools
import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models.build import build
from pipeline.train import loop, stage
from pipeline.train.augment import AdaController, AugmentPipe
from pipeline.train.loss import Objective
from pipeline.train.recipe import Recipe, make_recipe
from pipeline.train.recorded import RecordedObjective
from pipeline.train.state import TrainingState, new_state
from tests.train_tiny import SIZE, make_config, make_dataset
from torch_utils import toolkit
from torch_utils.distributed import ALONE
from torch_utils.recording import WARM_UP_CALLS, CannotRecordError, Outputs, Recorder, Rerun

BATCH = 4
SHAPES: dict[str, dict[str, Any]] = {
    "stylegan2": {},
    "stylegan3-t": {"channel_base": 256, "synthesis_layers": 6},
}


class Images:
    """A new batch each time."""

    def batch(self, images_seen: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.Generator().manual_seed(images_seen)
        images = torch.rand(count, 3, SIZE, SIZE, generator=noise) * 2 - 1
        return images, torch.zeros(count, 0)

    def draw_labels(self, count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.zeros(count, 0)


def beginning(architecture: str, **changes: Any) -> tuple[TrainingState, Recipe]:
    """A training before its first image, augmentation on and a blur at the start."""
    config = make_config(
        network={"architecture": architecture, **SHAPES[architecture]},
        batch=BATCH, blur_sigma=1.0, blur_fade_kimg=0.01, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    generator, discriminator = build(config.network, SIZE, 3, 0)
    recipe = make_recipe(config, architecture, SIZE, SIZE)
    controller, pipe = AdaController(p=0.3), AugmentPipe.from_group("bgc")
    objective = Objective(
        generator.train(),
        discriminator.train(),
        augment=lambda seen: pipe(seen, controller.p),
        r1_gamma=recipe.r1_gamma,
        path_length_weight=recipe.path_length_weight,
    )
    frozen = [f"G.mapping.{name}" for name, _ in generator.mapping.named_parameters()]
    return new_state(objective, recipe, controller=controller, frozen=frozen), recipe


def recorded(state: TrainingState, recipe: Recipe, recorder: Recorder) -> RecordedObjective:
    return RecordedObjective(
        state.objective,
        {name: list(parameters.values()) for name, parameters in state.trainable.items()},
        gain=1 / loop.passes(recipe, 1),
        recorder=recorder,
    )


def trained(
    architecture: str, recorder: Recorder | None, iterations: int, **changes: Any
) -> dict[str, torch.Tensor]:
    """Everything that changes in a training, after some iterations."""
    state, recipe = beginning(architecture, **changes)
    losses = None if recorder is None else recorded(state, recipe, recorder)
    for iteration in range(iterations):
        inputs = loop.draw_inputs(state, recipe, Images(), seed=3)
        loop.run_iteration(state, recipe, inputs, iteration, ALONE, losses)
        state.images_seen += BATCH
        state.controller.p = 0.1 * (iteration % 3)  # also 0: no augmentation at all
    values = {
        f"{name}/{key}": value
        for name, network in state.networks.items()
        for key, value in network.state_dict().items()
    }
    values |= {f"statistics/{key}": value for key, value in state.statistics.tensors().items()}
    return values | {"path_length": state.objective.path_length_mean}


@pytest.mark.parametrize("architecture", SHAPES)
@pytest.mark.parametrize("microbatch", [BATCH, BATCH // 2])
def test_a_recorded_training_is_the_training(architecture: str, microbatch: int) -> None:
    iterations = WARM_UP_CALLS + 2
    plain = trained(architecture, None, iterations, microbatch=microbatch)
    same = trained(architecture, Rerun(), iterations, microbatch=microbatch)
    assert plain.keys() == same.keys()
    assert [name for name in plain if not torch.equal(plain[name], same[name])] == []


class Failing(Rerun):
    """Records some pieces and then none any more."""

    def __init__(self, possible: int) -> None:
        self.left = possible

    def record(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        if self.left == 0:
            raise CannotRecordError("operation not permitted when stream is capturing")
        self.left -= 1
        return super().record(function)


def test_where_recording_fails_it_goes_on_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever of the six pieces it is: nothing counts twice, nothing is drawn otherwise."""
    # Two parts a phase, so that the fourth call, which records, is the second part of a phase.
    plain = trained("stylegan2", None, 3, microbatch=BATCH // 2)
    for possible in range(6):
        capsys.readouterr()
        same = trained("stylegan2", Failing(possible), 3, microbatch=BATCH // 2)
        different = [name for name in plain if not torch.equal(plain[name], same[name])]
        assert different == [], possible
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert "cannot be recorded as CUDA graphs (operation not permitted" in said[0]
        assert "train.cuda_graphs=false" in said[0]


def test_what_was_recorded_before_a_failure_is_let_go() -> None:
    """Else its graphs would hold memory as long as the training lasts."""
    launches: list[weakref.ref[Any]] = []

    class Watched(Failing):
        def record(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
            launch = super().record(function)
            launches.append(weakref.ref(launch))
            return launch

    state, recipe = beginning("stylegan2")
    losses = recorded(state, recipe, Watched(4))
    for iteration in range(WARM_UP_CALLS + 1):
        inputs = loop.draw_inputs(state, recipe, Images(), seed=3)
        loop.run_iteration(state, recipe, inputs, iteration, ALONE, losses)
    gc.collect()
    assert len(launches) == 4
    assert [launch() for launch in launches] == [None] * 4
    assert not losses.recorded


def test_another_gain_is_refused() -> None:
    state, recipe = beginning("stylegan2")
    losses = recorded(state, recipe, Rerun())
    inputs = loop.draw_inputs(state, recipe, Images(), seed=3)
    with pytest.raises(ValueError, match="recorded with gain"):
        losses.generator_main(inputs["Gmain"].latents, 2.0)


def samples_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.safetensors"))}


def test_the_stage_with_recordings_makes_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, a rerun standing in for the graph; `cuda_graphs=false` asks for none."""
    dataset = make_dataset(tmp_path / "dataset")
    asked: list[torch.device] = []

    def stand_in(device: torch.device) -> Recorder:
        asked.append(device)
        return Rerun()

    config = functools.partial(make_config, kimg=0.04, snapshot_kimg=0.04)
    monkeypatch.setattr(stage, "recorder_for", stand_in)
    stage.run(config(cuda_graphs=False), {"dataset": dataset}, tmp_path / "plain")
    assert not asked
    stage.run(config(), {"dataset": dataset}, tmp_path / "recorded")
    assert len(asked) == 1
    plain = samples_of(tmp_path / "plain")
    assert len(plain) == 3
    assert samples_of(tmp_path / "recorded") == plain


def test_the_stage_with_compiled_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile follows both networks in whole, and what it makes is the same training.

    Without its C++ code generator, which takes minutes; the regularisers run in between.
    """
    dataset = make_dataset(tmp_path / "dataset")
    compiled = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(toolkit, "torch_compile_problem", lambda device_type: None)
    config = functools.partial(make_config, kimg=0.016, log_kimg=0.016)
    stage.run(config(compile=True), {"dataset": dataset}, tmp_path / "compiled")
    stage.run(config(), {"dataset": dataset}, tmp_path / "plain")
    last = [
        json.loads((tmp_path / name / "stats.jsonl").read_text().splitlines()[-1])
        for name in ("compiled", "plain")
    ]
    for key in ("loss_G", "loss_D_real", "loss_r1", "grad_norm_Dmain", "path_length"):
        assert last[0][key] == pytest.approx(last[1][key], rel=1e-3), key


def test_compile_without_a_compiler_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkit, "compiler", lambda: None)
    config = make_config(compile=True)
    with pytest.raises(ConfigError, match=r"compile=true is not possible here: there is no C\+\+"):
        stage.run(config, {"dataset": make_dataset(tmp_path / "data")}, tmp_path / "out")
