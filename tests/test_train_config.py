"""Settings of the train stage, and the recipe they become."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pipeline.errors import ConfigError
from pipeline.train.augment import GROUPS
from pipeline.train.config import AUGMENT_PIPES, AugmentConfig, TrainConfig
from pipeline.train.recipe import heuristic_gamma, lazy_adam, make_recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, r"train\.batch=0 .* use 1"),
        ({"kimg": 0}, r"train\.kimg=0 .* above 0"),
        ({"kimg": float("nan")}, r"train\.kimg=nan"),
        ({"gamma": -1}, r"train\.gamma=-1 .* use 0"),
        ({"generator_lr": 0.0}, r"train\.generator_lr=0"),
        ({"discriminator_lr": 2.0}, r"train\.discriminator_lr=2.0 .* use 1"),
        ({"style_mixing": 1.5}, r"train\.style_mixing=1.5 .* use 1"),
        ({"device": "gpu"}, r"train\.device=gpu .* nearest valid value is cpu"),
        ({"sample_grid": [4]}, r"train\.sample_grid"),
        ({"sample_grid": [4, 0]}, r"train\.sample_grid=0"),
        ({"freeze_d": 3}, r"train\.freeze_d=3 .*resume_from"),
        ({"grow": True}, r"train\.grow=True .*resume_from"),
        ({"grow": True, "resume_from": "model/x", "resume_at": 8}, r"grow.*resume_at"),
        ({"microbatch": 64}, r"train\.microbatch=64 .* use 32"),
        ({"snapshot_kimg": 0}, r"train\.snapshot_kimg=0"),
        ({"threads": 0}, r"train\.threads=0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "adaptive"}, r"augment\.mode=adaptive .* ada"),
        ({"pipe": "bcg"}, r"augment\.pipe=bcg .* bgc"),
        ({"p": 1.2}, r"augment\.p=1.2 .* use 1"),
        ({"interval": 0}, r"augment\.interval=0"),
        ({"speed_kimg": 0}, r"augment\.speed_kimg=0"),
    ],
)
def test_impossible_augmentation_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        AugmentConfig(**changes)


def test_config_and_pipe_know_the_same_groups():
    assert tuple(GROUPS) == AUGMENT_PIPES


def test_yaml_and_dataclass_agree(root):
    """conf/stages/train.yaml lists every setting, with the defaults of the dataclass."""
    written = OmegaConf.load(root / "conf" / "stages" / "train.yaml")
    defaults = dataclasses.asdict(TrainConfig())
    assert set(written) == set(defaults)
    from_elsewhere = {"name", "dataset", "seed", "device", "network", "augment"}
    for key in defaults.keys() - from_elsewhere:
        assert written[key] == defaults[key], key


@pytest.mark.parametrize("path", ["stages/train.yaml", "augment/ada.yaml", "augment/fixed.yaml"])
def test_every_key_has_a_comment_above(root, path):
    lines = (root / "conf" / path).read_text().splitlines()
    for before, line in zip(["", *lines[:-1]], lines, strict=True):
        if re.match(r"\w+:", line):
            assert before.startswith("# "), line


def test_config_imports_no_torch(root):
    code = "import sys, pipeline.train.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_defaults_by_architecture():
    config = TrainConfig(batch=32)
    sg2 = make_recipe(config, "stylegan2", 512, 512)
    assert (sg2.generator_lr, sg2.discriminator_lr) == (0.002, 0.002)
    assert (sg2.path_length_weight, sg2.path_length_interval, sg2.style_mixing) == (2.0, 4, 0.9)
    assert sg2.r1_interval == 16
    assert sg2.ema_images == 10_000
    assert sg2.blur_sigma == 0
    rotation = make_recipe(config, "stylegan3-r", 512, 512)
    assert rotation.generator_lr == 0.0025
    assert (rotation.path_length_interval, rotation.style_mixing) == (None, 0.0)
    assert (rotation.blur(0), rotation.blur(100_000), rotation.blur(10**6)) == (10.0, 5.0, 0)
    assert make_recipe(config, "stylegan3-t", 512, 512).blur_sigma == 0
    # Other weights are sharp already, but a training that is taken up goes on as it was.
    other = TrainConfig(resume_from="model/other")
    assert make_recipe(other, "stylegan3-r", 512, 512).blur_sigma == 0
    taken_up = TrainConfig(resume_from="model/same", resume_at=20.0)
    assert make_recipe(taken_up, "stylegan3-r", 512, 512).blur_sigma == 10.0
    # It may itself have begun with another model.
    began = dataclasses.asdict(make_recipe(other, "stylegan3-r", 512, 512))
    again = make_recipe(taken_up, "stylegan3-r", 512, 512, taken_up=began)
    assert (again.blur_sigma, again.ema_rampup) == (0, None)
    began = dataclasses.asdict(make_recipe(config, "stylegan3-r", 512, 512))
    again = make_recipe(taken_up, "stylegan3-r", 512, 512, taken_up=began)
    assert (again.blur_sigma, again.ema_rampup) == (10.0, 0.05)


def test_settings_win_over_defaults():
    config = TrainConfig(gamma=7.0, generator_lr=0.001, path_length_weight=1.0, style_mixing=0.5)
    recipe = make_recipe(config, "stylegan3-t", 256, 256)
    assert (recipe.r1_gamma, recipe.generator_lr, recipe.style_mixing) == (7.0, 0.001, 0.5)
    assert recipe.path_length_interval == 4


def test_gamma_heuristic():
    assert heuristic_gamma(512, 512, 32) == pytest.approx(1.6384)
    assert make_recipe(TrainConfig(batch=32), "stylegan2", 512, 512).r1_gamma == (
        pytest.approx(1.6384)
    )


def test_lazy_regularisation_rescales_adam():
    rate, betas = lazy_adam(0.002, 4)
    assert rate == pytest.approx(0.0016)
    assert betas == pytest.approx((0.0, 0.99 ** (4 / 5)))
    assert lazy_adam(0.002, None) == (0.002, (0.0, 0.99))


def test_average_forgets_faster_at_first():
    recipe = make_recipe(TrainConfig(batch=32), "stylegan2", 64, 64)
    assert recipe.ema_beta(0) == 0
    # 20 thousand images at a ramp of 0.05: a half-life of 1000.
    assert recipe.ema_beta(20_000) == pytest.approx(0.5 ** (32 / 1000))
    assert recipe.ema_beta(10**7) == pytest.approx(0.5 ** (32 / 10_000))
    resumed = make_recipe(TrainConfig(batch=32, resume_from="model/a"), "stylegan2", 64, 64)
    assert resumed.ema_beta(0) == pytest.approx(0.5 ** (32 / 10_000))


@example(images=16_100, batch=100)
@given(images=st.integers(1, 10**6), batch=st.integers(1, 512))
def test_training_ends_with_the_batch_that_reaches_kimg(images, batch):
    recipe = make_recipe(TrainConfig(kimg=images / 1000, batch=batch), "stylegan2", 64, 64)
    assert recipe.total_images % batch == 0
    assert images <= recipe.total_images < images + batch
