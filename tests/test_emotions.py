"""Emotions in pictures: drawn in a drawing's own lines, searched for in a model; directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data import landmarks as lm
from pipeline.data.align import CropTransform, crop
from pipeline.data.face_measures import eye_aspect
from pipeline.data.face_reader import FaceReader
from pipeline.data.painter import EXPRESSIONS, Pose, character, paint_face
from pipeline.edit import drag
from pipeline.edit.drag import Limits
from pipeline.edit.emotion_config import BatchConfig, DirectionsConfig, EmotionConfig
from pipeline.edit.emotions import Goal, batch, learn, plan_goal
from pipeline.edit.emotions.directions import Directions, measure_names
from pipeline.edit.emotions.drawn import draw_emotion, marks_of
from pipeline.edit.emotions.express import Performer, Ways
from pipeline.edit.emotions.regression import fit_logistic, fit_ridge
from pipeline.edit.emotions.sheet import portrait
from pipeline.edit.generator import latent_prior, numbered_ws
from pipeline.edit.recipe import Move, Recipe
from pipeline.edit.sharpening import crisp
from pipeline.edit.view import GeneratorView
from pipeline.errors import ArtifactError, ConfigError
from pipeline.models import checkpoint

SIDE = 320


@pytest.fixture(scope="module")
def reader() -> FaceReader:
    return FaceReader.shipped()


@pytest.fixture(scope="module")
def generator(root: Path) -> Any:
    network = checkpoint.load(root / "assets" / "start-64", ("G_ema",))["G_ema"]
    return network.eval().requires_grad_(False)


# --- drawn ---


@pytest.mark.parametrize("number", [23, 5])
def test_drawn_emotions_are_read_as_what_they_are(number: int, reader: FaceReader) -> None:
    painted = paint_face(character(number), Pose(6, -2, 4), size=SIDE)
    reading = reader.read(painted.image)
    right, misses = 0, []
    for name, reads in [("laugh", "laugh"), ("wink", "wink"), ("surprised", "surprised"),
                        ("angry", "angry"), ("sleepy", "closed")]:  # fmt: skip
        goal = Goal({name: 1.0})
        plan = plan_goal(reading, goal, width=SIDE, height=SIDE)
        assert plan.mask is not None
        keep = plan.mask.astype(np.float32) / 255
        done = draw_emotion(
            painted.image, reading.landmarks, plan.landmark_targets, keep, marks_of(goal), {}
        )
        np.testing.assert_array_equal(done.face[plan.mask == 255], painted.image[plan.mask == 255])
        after = reader.read(done.face)
        right += after.expression == reads
        # The painter's own truth of the same character in that mood.
        mood = EXPRESSIONS[reads]
        truth = paint_face(character(number), Pose(6, -2, 4), mood, size=SIDE).landmarks
        off = np.linalg.norm(after.landmarks - truth, axis=1).mean() / lm.face_width(truth)
        misses.append(off)
    assert right == 5
    assert np.mean(misses) < 0.03


def test_a_shut_eye_keeps_the_hair_and_the_other_eye(reader: FaceReader) -> None:
    painted = paint_face(character(23), Pose(), size=SIDE)
    reading = reader.read(painted.image)
    plan = plan_goal(reading, Goal({}, {"eye_open_right": -1.0}), width=SIDE, height=SIDE)
    assert plan.mask is not None
    keep = plan.mask.astype(np.float32) / 255
    args = (painted.image, reading.landmarks, plan.landmark_targets, keep, {}, {})
    done = draw_emotion(*args)
    assert done.parts == ("right_eye",)
    after = reader.read(done.face).landmarks
    assert eye_aspect(after, "right") < 0.3 * eye_aspect(reading.landmarks, "right")
    assert eye_aspect(after, "left") > 0.85 * eye_aspect(reading.landmarks, "left")
    np.testing.assert_array_equal(done.face, draw_emotion(*args).face)
    # The tip of a lash beside the eye's place goes with the eye; a mole on the cheek stays.
    width = lm.face_width(reading.landmarks)
    x, y = reading.landmarks[lm.RIGHT_EYE].max(axis=0) - (0.12 * width, 0)
    left, rows = round(x), [round(y + below * width) for below in (0.085, 0.25)]
    speckled = painted.image.copy()
    for row in rows:
        speckled[row : row + 3, left : left + 3] = (60, 30, 40)
    shut = draw_emotion(speckled, *args[1:]).face
    darkest = [int(shut[row : row + 3, left : left + 3].min()) for row in rows]
    assert darkest[0] > 120 > darkest[1]


def test_a_winks_eye_is_opened_with_the_other_ones_image(reader: FaceReader) -> None:
    """Where both are shut there is nothing to open them with: they stay, and are not stretched."""
    for mood, parts, reads in (
        ("wink", ("right_eye", "mouth"), "smile"),
        ("closed", ("mouth",), "closed"),
    ):
        painted = paint_face(character(23), Pose(6, -2, 4), EXPRESSIONS[mood], size=SIDE)
        reading = reader.read(painted.image)
        goal = Goal({"smile": 1.0})
        plan = plan_goal(reading, goal, width=SIDE, height=SIDE)
        assert plan.mask is not None
        keep = plan.mask.astype(np.float32) / 255
        done = draw_emotion(
            painted.image, reading.landmarks, plan.landmark_targets, keep, marks_of(goal), {}
        )
        assert done.parts == parts
        after = reader.read(done.face)
        assert after.expression == reads
        left, right = (eye_aspect(after.landmarks, side) for side in ("left", "right"))
        if mood == "wink":
            assert 0.7 < left / right < 1 / 0.7
        else:
            assert max(left, right) < 0.25


def test_a_sheets_portrait_ends_where_the_drawing_does(generator: Any, reader: FaceReader) -> None:
    drawing = paint_face(character(23), size=400).image
    ws = generator.mapping.w_avg.repeat(1, generator.num_ws, 1)
    around = CropTransform.square(200, 160, 480)  # beyond the drawing on three sides
    shown = portrait(Performer(generator, ws, reader, None, Ways(), drawing, around))
    assert shown.shape == (426, 426, 3)  # 400 of 480 px, in a view of 512
    inside = crop(drawing, CropTransform.square(200, 200, 400), 426)
    assert np.abs(shown.astype(float) - inside).mean() < 12
    whole = CropTransform.whole(400, 400)
    assert portrait(Performer(generator, ws, reader, None, Ways(), drawing, whole)).shape[0] == 512


def test_enlarging_makes_lines_sharp_and_invents_no_colours() -> None:
    small = paint_face(character(23), size=64).image
    large = crisp(small)
    assert large.shape == (512, 512, 3)
    assert (large.max(axis=(0, 1)) <= small.max(axis=(0, 1))).all()

    def slope(picture: np.ndarray) -> float:
        return float(np.abs(np.diff(picture.astype(float).mean(axis=2), axis=1)).max())

    plain = np.kron(small, np.ones((8, 8, 1), np.uint8))
    soft = (plain.astype(float) + np.roll(plain, 4, 0) + np.roll(plain, 4, 1)) / 3
    assert slope(large) > 0.5 * slope(soft)


# --- regression and directions ---


def test_ridge_and_logistic_find_what_is_there() -> None:
    draws = torch.Generator().manual_seed(3)
    x = torch.randn(400, 8, generator=draws)
    y = torch.stack(
        [x[:, 0] + 0.1 * torch.randn(400, generator=draws), torch.randn(400, generator=draws)], 1
    )
    fit = fit_ridge(x, y, folds=4)
    assert fit.r2[0] > 0.95
    assert fit.r2[1] < 0.1
    assert fit.weights[0, 0] == pytest.approx(1, abs=0.08)
    labels = (x[:, 1] > 0).long()
    found = fit_logistic(x, labels, classes=3, folds=4, penalty=1e-3)
    assert found.accuracy > 0.95
    assert found.auc[0] > 0.98
    assert torch.isnan(found.auc[2])
    assert found.weights[1].abs().argmax() == 1


def directions(weights: Tensor) -> Directions:
    count, size = weights.shape
    return Directions(
        mean=torch.zeros(size),
        spread=torch.eye(size),
        weights=weights,
        bias=torch.zeros(count),
        noise=torch.full((count,), 1e-6),
        expression_weights=torch.eye(2, size),
        measures=tuple(f"m{index}" for index in range(count)),
        expressions=("neutral", "smile"),
        rows=(0, 4),
        about={"model_digest": "x"},
    )


def test_a_direction_holds_what_the_goal_does_not_name() -> None:
    # Two measures that mostly change together: the move for one must not take the other along.
    found = directions(torch.tensor([[1.0, 0.2, 0.0], [1.0, -0.2, 0.0]]))
    move = found.solve(torch.tensor([1.0, 0.0]))
    changed = found.weights @ move
    assert changed[0] == pytest.approx(1, abs=1e-3)
    assert changed[1] == pytest.approx(0, abs=1e-3)
    towards = found.towards({"smile": 1.0}, {"neutral": 1.0})
    assert towards.norm() == pytest.approx(1, abs=1e-5)
    assert towards[1] > 0 > towards[0]


def test_directions_come_back_and_damage_is_told(tmp_path: Path) -> None:
    made = directions(torch.randn(5, 3))
    made.save(tmp_path)
    again = Directions.load(tmp_path)
    torch.testing.assert_close(again.weights, made.weights)
    assert again.rows == (0, 4)
    assert again.about["model_digest"] == "x"
    (tmp_path / "directions.json").write_text("{")
    with pytest.raises(ArtifactError, match="make directions"):
        Directions.load(tmp_path)


def test_an_interrupted_reading_of_samples_goes_on(
    generator: Any, reader: FaceReader, tmp_path: Path
) -> None:
    prior = latent_prior(generator)
    first, whole = tmp_path / "first", tmp_path / "whole"
    first.mkdir()
    whole.mkdir()
    learn.draw(DirectionsConfig(samples=20, batch=10), generator, reader, prior, first)
    config = DirectionsConfig(samples=30, batch=10)
    resumed = learn.draw(config, generator, reader, prior, first)
    anew = learn.draw(config, generator, reader, prior, whole)
    torch.testing.assert_close(resumed.u, anew.u)
    torch.testing.assert_close(resumed.measures, anew.measures)
    assert resumed.measures.shape == (30, len(measure_names(reader.expressions)))


def test_the_stage_learns_directions_of_a_model(root: Path, tmp_path: Path) -> None:
    config = DirectionsConfig(samples=60, batch=20, folds=3, tried=1)
    metrics = learn.run(config, {"model": root / "assets" / "start-64"}, tmp_path)
    assert metrics["samples"] == 60
    found = Directions.load(tmp_path)
    scores = found.about["scores"]
    assert set(scores["expressions"]) == set(found.expressions)
    assert len(scores["r2"]) == len(found.measures) == len(found.weights)
    assert metrics["expression_accuracy"] == scores["expression_accuracy"]
    assert (tmp_path / "sheet.png").exists()


# --- a model's face ---


def test_the_search_comes_nearer_and_keeps_what_is_masked(
    generator: Any, reader: FaceReader
) -> None:
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(3))
    ws = generator.mapping(z, None, truncation_psi=0.5)
    ways = Ways(method="solve", steps=4, prior=0.1)
    performer = Performer(generator, ws, reader, None, ways)
    goal = Goal({}, {"mouth_open": 1.0})
    done = performer.express(goal)
    assert done.reached is not None
    assert done.reached.loss < done.reached.begun
    assert done.full is None
    plan = performer.model_plan(goal)
    assert plan.mask is not None
    assert done.face is not None
    kept = plan.mask == 255
    np.testing.assert_array_equal(done.face[kept], performer.face[kept])
    assert (done.face[~kept] != performer.face[~kept]).any()


def test_auto_takes_what_measures_better(generator: Any, reader: FaceReader) -> None:
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(3))
    ws = generator.mapping(z, None, truncation_psi=0.5)
    performer = Performer(generator, ws, reader, None, Ways(steps=1))
    done = performer.express(Goal({"surprised": 1.0}))
    assert set(done.tried) == {"search", "drawn"}
    assert done.tried[done.method] == min(done.tried.values())


def test_a_recipe_is_followed_as_the_edit_stage_follows_it(
    generator: Any, reader: FaceReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    performer = Performer(generator, numbered_ws(generator, 3, 0.5), reader)
    advance, told = drag.advance, []

    def listening(state: Any, event: Any, model: Any, strategy: Any, limits: Limits) -> Any:
        told.append((event, limits))
        return advance(state, event, model, strategy, limits)

    monkeypatch.setattr(drag, "advance", listening)
    monkeypatch.setattr(GeneratorView, "_samples", lambda _: 2)  # for the time
    move = Move((32.0, 50.0), (32.0, 46.0), radius=3.0)
    done = performer.follow(
        Recipe(64, 64, (move,), strategy="auto", max_steps=1, patience=7, constants={"noise": 1.0})
    )
    assert told[0][0] == drag.AddHandle(*vars(move).values())
    assert told[0][1] == Limits(max_steps=1, patience=7)
    # `auto` is dragged under a proposed mask, and what that keeps is as it was.
    (mask,) = [event.mask for event, _ in told if isinstance(event, drag.SetMask)]
    kept = mask.numpy() == 1
    assert kept.any()
    assert done.face is not None
    np.testing.assert_array_equal(done.face[kept], performer.face[kept])


def test_a_batch_without_faces_is_refused(root: Path) -> None:
    config = BatchConfig(name="x", emotion=EmotionConfig(name="smile"))
    with pytest.raises(ConfigError, match="nothing to work on"):
        batch.check(config, {"model": root / "assets" / "start-64"})
    assert batch.parse_seeds("0-2, 7,7") == [0, 1, 2, 7]
    for text in ("a", "5-3", "1-"):
        with pytest.raises(ConfigError, match="cannot be read"):
            batch.parse_seeds(text)
