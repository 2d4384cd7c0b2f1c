"""What fine-tuning decides by rules alone: advice, the division of images, the published snapshot,
returns after a divergence."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.train.advice import NO_ADVICE, TABLE, advise
from pipeline.train.choice import choose
from pipeline.train.config import FinetuneConfig, TrainConfig
from pipeline.train.divergence import (
    Diverged,
    Rollback,
    exploded,
    rate_after,
    read_rollbacks,
    state_to_take,
    what_is_wrong,
    write_rollbacks,
)
from pipeline.train.publication import Record, Verdict, best, guard, read_record, write_record
from pipeline.train.recipe import heuristic_gamma, make_recipe
from pipeline.train.statistics import Statistics

# ---- advice ----


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_smaller_sets_are_trained_more_carefully(one: int, other: int) -> None:
    few, many = advise(min(one, other)), advise(max(one, other))
    assert few.lr_factor <= many.lr_factor <= 1
    assert few.gamma_factor >= many.gamma_factor >= 1
    assert few.augment_p >= many.augment_p >= 0
    assert 1 >= few.freeze_d_share >= many.freeze_d_share >= 0
    assert few.freeze_mapping >= many.freeze_mapping
    assert few.kimg <= many.kimg


def test_the_table_covers_every_size() -> None:
    assert advise(1) is TABLE[0][1]
    assert advise(50) is TABLE[0][1]
    assert advise(51) is TABLE[1][1]
    assert advise(10**9) is TABLE[-1][1]
    assert [most for most, _ in TABLE] == sorted(most for most, _ in TABLE)


def test_advice_becomes_numbers() -> None:
    config = FinetuneConfig(resume_from="model/a")
    recipe = make_recipe(config, "stylegan2", 256, 256, images=28)
    assert recipe.generator_lr == pytest.approx(0.001)
    assert recipe.discriminator_lr == pytest.approx(0.001)
    assert recipe.r1_gamma == pytest.approx(4 * heuristic_gamma(256, 256, 16))
    assert (recipe.augment_p, recipe.augment_speed_kimg) == (0.4, 100)
    assert recipe.freeze_mapping
    assert recipe.freeze_d_share == 0.5
    assert recipe.total_images == 40_000
    assert recipe.snapshot_images == 2000
    assert recipe.ema_images == 1000 * 40 * 0.05
    assert recipe.ema_rampup is None


def test_what_is_set_wins_over_advice() -> None:
    config = FinetuneConfig(
        resume_from="model/a", kimg=3, generator_lr=0.01, gamma=7, freeze_mapping=False
    )
    config.augment.p = 0.1
    recipe = make_recipe(config, "stylegan2", 256, 256, images=28)
    assert (recipe.generator_lr, recipe.r1_gamma, recipe.augment_p) == (0.01, 7, 0.1)
    assert recipe.total_images == 3008  # the batch that reaches 3000
    assert not recipe.freeze_mapping
    assert recipe.discriminator_lr == pytest.approx(0.001)


def test_training_from_scratch_takes_no_advice() -> None:
    recipe = make_recipe(TrainConfig(), "stylegan2", 64, 64, images=20)
    assert recipe.generator_lr == 0.002
    assert recipe.augment_p == 0
    assert recipe.augment_speed_kimg == 500
    assert recipe.total_images == 1_000_000
    assert NO_ADVICE.freeze_d_share == 0


def test_an_architecture_keeps_its_own_rate() -> None:
    config = FinetuneConfig(resume_from="model/a")
    assert make_recipe(config, "stylegan3-t", 64, 64, images=20).generator_lr == 0.0025 / 2
    # StyleGAN3-R's blurred start is for networks that know nothing yet.
    assert make_recipe(config, "stylegan3-r", 64, 64, images=20).blur_sigma == 0


# ---- settings ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume_from": None}, r"finetune\.resume_from=null .*model/NAME"),
        ({"kimg": 0.0}, r"finetune\.kimg=0.0 .* above 0"),
        ({"min_heldout": -1}, r"finetune\.min_heldout=-1 .* use 0"),
        ({"max_images": 0}, r"finetune\.max_images=0 .* use 1"),
        ({"copies_allowed": 1.5}, r"finetune\.copies_allowed=1.5 .* use 1"),
        ({"publish": "beste"}, r"finetune\.publish=beste .* best"),
        ({"score_samples": 2}, r"finetune\.publish=best needs .*score_samples=8"),
        ({"rollbacks": -1}, r"finetune\.rollbacks=-1"),
        ({"divergence_limit": 0.0}, r"finetune\.divergence_limit=0"),
        ({"kept_states": 0}, r"finetune\.kept_states=0 .* use 1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig(**{"resume_from": "model/a", **changes})


@pytest.mark.parametrize("name", ["freeze_d", "freeze_mapping", "resume_at"])
def test_nothing_is_kept_of_random_weights(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"train\.{name}=.*resume_from=model/NAME"):
        TrainConfig(**{name: 1})


def test_yaml_and_dataclass_agree(root: Path) -> None:
    """What conf/stages/finetune.yaml changes is what FinetuneConfig changes."""
    from omegaconf import OmegaConf

    written = OmegaConf.load(root / "conf" / "stages" / "finetune.yaml")
    defaults = dataclasses.asdict(FinetuneConfig())
    usual = dataclasses.asdict(TrainConfig())
    changed = {key for key in defaults if defaults[key] != usual[key]}
    assert set(written) - {"defaults"} == changed
    for key in changed:
        assert written[key] == defaults[key], key


# ---- images ----


@given(
    count=st.integers(1, 200),
    share=st.floats(0, 0.5),
    min_heldout=st.integers(0, 50),
    max_images=st.none() | st.integers(1, 300),
    seed=st.integers(0, 100),
)
def test_every_image_is_on_one_side(
    count: int, share: float, min_heldout: int, max_images: int | None, seed: int
) -> None:
    held = list(range(int(count * share)))
    train = list(range(len(held), count))
    chosen = choose(train, held, seed=seed, min_heldout=min_heldout, max_images=max_images)
    assert set(chosen.train).isdisjoint(chosen.heldout)
    assert set(held) <= set(chosen.heldout)
    assert chosen.train
    assert chosen.train == sorted(chosen.train)
    assert len(chosen.train) <= (max_images or count)
    assert set(chosen.train) | set(chosen.heldout) <= set(range(count))
    # At most a quarter of the training images is spared.
    assert len(chosen.heldout) <= max(len(held), len(held) + len(train) // 4)
    again = choose(train, held, seed=seed, min_heldout=min_heldout, max_images=max_images)
    assert again == chosen


def test_twenty_images_spare_four() -> None:
    chosen = choose(range(20), [], seed=0, min_heldout=4)
    assert (len(chosen.train), len(chosen.heldout)) == (16, 4)
    enough = choose(range(4, 20), range(4), seed=0, min_heldout=4)
    assert enough.train == list(range(4, 20))


def test_the_subset_follows_from_the_seed() -> None:
    one, other = (choose(range(100), [], seed=seed, max_images=10).train for seed in (0, 1))
    assert len(one) == len(other) == 10
    assert one != other


# ---- publication ----


def verdict(images_seen: int, score: float, copied: float = 0.0, scale: float = 2.0) -> Verdict:
    guarded = guard(score, copied, allowed=0.25, scale=scale)
    return Verdict(images_seen, score, score - 0.1, score + 0.1, copied, guarded)


def test_the_best_score_is_published() -> None:
    # The start is no candidate, however good its score.
    verdicts = [verdict(0, 0.1), verdict(10, 1.5), verdict(20, 0.9), verdict(30, 1.1)]
    chosen = best(verdicts)
    assert chosen is not None
    assert chosen.images_seen == 20
    assert best(verdicts[:1]) is None


def test_a_generator_that_copies_loses_against_one_that_does_not() -> None:
    honest, copier = verdict(10, 0.8, copied=0.1), verdict(20, 0.1, copied=0.9)
    assert best([honest, copier]) is honest
    # The same distance without copies wins.
    assert best([honest, verdict(20, 0.1, copied=0.2)]).copied == 0.2  # type: ignore[union-attr]


@given(st.floats(-1, 10), st.floats(0, 1), st.floats(0, 1), st.floats(0, 10))
def test_the_guard_never_rewards_copies(
    score: float, copied: float, allowed: float, scale: float
) -> None:
    guarded = guard(score, copied, allowed=allowed, scale=scale)
    assert guarded >= score
    assert copied > allowed or guarded == score


def test_the_record_is_read_back(tmp_path: Path) -> None:
    assert read_record(tmp_path) == Record()
    record = Record((verdict(0, 2.0), verdict(10, 1.0, 0.3)), 10)
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert record.of_the_model == record.verdicts[1]
    assert Record(record.verdicts).of_the_model is None


# ---- divergence ----


def statistics(**values: float) -> Statistics:
    made = Statistics()
    made.add({name: torch.tensor([value]) for name, value in values.items()})
    return made


def test_numbers_that_are_none_and_losses_that_explode_are_wrong() -> None:
    assert what_is_wrong(statistics(loss_G=3.0, grad_norm_Gmain=1e9), 1000) == ""
    assert "loss_G became infinite" in what_is_wrong(statistics(loss_G=math.inf), 1000)
    assert "path_length became" in what_is_wrong(statistics(path_length=math.nan), 1000)
    assert what_is_wrong(statistics(loss_D_real=1001.0), 1000) == "loss_D_real exceeded 1000"
    many = statistics(**{f"loss_{number}": math.nan for number in range(9)})
    assert "loss_0, loss_1, loss_2 and 6 more became" in what_is_wrong(many, 1000)
    assert exploded({"loss_G": 10.0}, 9.0) == ["loss_G"]
    assert "before 5 kimg" in str(Diverged("loss_G exceeded 1000", 5000))


def rollback(images_seen: int, back_to: int, rate: float = 0.5) -> Rollback:
    return Rollback(images_seen, back_to, rate, "loss_G exceeded 1000")


def test_the_newest_state_is_taken_that_did_not_fail_before() -> None:
    assert state_to_take([], []) is None
    assert state_to_take([0, 10, 20], []) == 20
    assert state_to_take([0, 10, 20], [rollback(25, 20)]) == 10
    assert state_to_take([0, 10], [rollback(25, 20), rollback(15, 10)]) == 0
    assert state_to_take([0], [rollback(25, 0)]) == 0
    # New states were saved since: the newest of these.
    assert state_to_take([20, 30], [rollback(25, 20)]) == 30


def test_rollbacks_are_read_back(tmp_path: Path) -> None:
    assert read_rollbacks(tmp_path) == []
    assert rate_after([]) == 1
    kept = [rollback(25, 20), rollback(30, 20, 0.25)]
    write_rollbacks(tmp_path, kept)
    assert read_rollbacks(tmp_path) == kept
    assert rate_after(kept) == 0.25
