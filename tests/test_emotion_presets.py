"""Emotion presets: derived again to the byte, true of painted faces, planned from any mood."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.data import landmarks as lm
from pipeline.data.face_reader import Reading
from pipeline.data.painter import EXPRESSIONS, Pose, random_identity
from pipeline.edit.emotions import (
    EMOTIONS,
    SLIDERS,
    EmotionPlan,
    Goal,
    derive,
    find_preset,
    goal_text,
    labels,
    parse_goal,
    plan_emotion,
    plan_goal,
)
from pipeline.edit.emotions.presets import CONF, preset_text
from pipeline.errors import ConfigError
from scripts.emotion_presets import main

SIZE = 256
EXPRESSION_OF = {"sleepy": "closed"}


def painted(mood: str, index: int = 0, pose: Pose | None = None) -> np.ndarray:
    who = random_identity(np.random.default_rng([997, index]))
    expression = derive.EMBARRASSED if mood == "embarrassed" else EXPRESSIONS[mood]
    return derive.painted_points(who, pose or Pose(9.0, -4.0, 12.0), expression, SIZE)


def reading_of(mood: str, index: int = 0, pose: Pose | None = None) -> Reading:
    """What a reader without errors would read of a painted face."""
    pose = pose or Pose(9.0, -4.0, 12.0)
    return Reading(
        landmarks=painted(mood, index, pose)[: lm.NUM_LANDMARKS],
        errors=np.zeros(lm.NUM_LANDMARKS),
        visibility=np.ones(lm.NUM_LANDMARKS),
        expressions={name: float(name == mood) for name in EXPRESSIONS},
        yaw=pose.yaw,
        pitch=pose.pitch,
        roll=pose.roll,
    )


def plan(mood: str, goal: Goal, index: int = 0) -> EmotionPlan:
    return plan_goal(reading_of(mood, index), goal, width=SIZE, height=SIZE)


def off(plan: EmotionPlan, truth: np.ndarray) -> float:
    """Mean distance of the planned landmarks from the painted ones, per cent of face width."""
    misses = np.linalg.norm(plan.landmark_targets - truth[: lm.NUM_LANDMARKS], axis=1)
    return 100 * float(misses.mean()) / plan.face_px


def test_presets_are_derived_again_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derive, "EMOTIONS", ("neutral", "laugh"))
    monkeypatch.setattr(derive, "SLIDERS", ("head_yaw",))
    for preset in derive.derive():
        path = CONF / preset.kind / f"{preset.name}.yaml"
        assert path.read_text(encoding="utf-8") == preset_text(preset)


def test_every_preset_ships() -> None:
    shown = labels()
    assert tuple(shown["emotion"]) == EMOTIONS
    assert tuple(shown["slider"]) == SLIDERS
    assert len({*shown["emotion"].values(), *shown["slider"].values()}) == 23
    for kind, names in (("emotion", EMOTIONS), ("slider", SLIDERS)):
        moved = {name: float(abs(find_preset(kind, name).displacements).max()) for name in names}
        assert all(value > 0.01 for name, value in moved.items() if name != "neutral")
    assert not find_preset("emotion", "neutral").displacements.any()


@pytest.mark.parametrize("emotion", EMOTIONS)
@pytest.mark.parametrize("mood", ["neutral", "angry", "smile"])
def test_targets_are_where_the_painter_has_them(emotion: str, mood: str) -> None:
    # From any open mood; shut eyes hide how large they are.
    for index in range(3):
        truth = painted(EXPRESSION_OF.get(emotion, emotion), index)
        assert off(plan(mood, Goal({emotion: 1.0}), index), truth) < 0.6


def test_what_the_face_does_already_moves_little() -> None:
    assert plan("smile", Goal({"smile": 1.0})).way < 0.001
    assert plan("angry", Goal({"smile": 1.0})).way > 0.02
    ignored = plan_emotion(reading_of("smile"), "smile", width=SIZE, height=SIZE, assume="neutral")
    assert ignored.way > 0.005


def test_strength_scales_and_goals_add_up() -> None:
    ways = [plan("neutral", Goal({"laugh": strength})).way for strength in (0.0, 0.5, 1.0, 1.5)]
    assert ways[0] < 1e-9
    assert ways[1] / ways[2] == pytest.approx(0.5, abs=0.01)
    assert ways[3] > 1.3 * ways[2]
    both = plan("neutral", Goal({"smile": 1.0}, {"eye_open_left": -0.5}))
    smile = plan("neutral", Goal({"smile": 1.0}))
    left, right = lm.INDEX["left_eye_upper_middle"], lm.INDEX["right_eye_upper_middle"]
    assert both.target[left, 1] > smile.target[left, 1] + 3
    np.testing.assert_allclose(both.target[right], smile.target[right], atol=1e-9)


def test_mirrored_winks_with_the_other_eye() -> None:
    frontal = reading_of("neutral", pose=Pose())

    def gaps(mirror: bool) -> tuple[float, float]:
        found = plan_emotion(frontal, "wink", width=SIZE, height=SIZE, mirror=mirror).target
        return float(found[15, 1] - found[12, 1]), float(found[21, 1] - found[18, 1])

    (left, right), (mirrored_left, mirrored_right) = gaps(False), gaps(True)
    assert right < 0.2 * left
    assert mirrored_left < 0.2 * mirrored_right


def test_masks_keep_what_does_not_belong_to_the_goal() -> None:
    smile = plan("neutral", Goal({"smile": 1.0}))
    assert smile.mask is not None
    assert (smile.mask[:20] == 255).all()
    x, y = smile.target[lm.INDEX["mouth_upper"]]
    assert smile.mask[round(y), round(x)] == 0
    mouth = plan("neutral", Goal({}, {"mouth_open": 1.0}))
    assert mouth.mask is not None
    x, y = mouth.source[lm.INDEX["left_eye_upper_middle"]]
    assert mouth.mask[round(y), round(x)] == 255
    assert plan("neutral", Goal({}, {"head_yaw": 0.5})).mask is None


def test_gaze_moves_the_irises_alone() -> None:
    gaze = plan("neutral", Goal({}, {"gaze_x": 1.0}))
    assert len(gaze.moves) == 2
    assert all(move.target[0] > move.start[0] + 1 for move in gaze.moves)


def test_goals_are_read_from_the_command_line() -> None:
    goal = parse_goal("smile 0.5 + wink", "gaze_x=-0.25, mouth_open=1", strength=0.8)
    assert goal == Goal({"smile": 0.4, "wink": 0.8}, {"gaze_x": -0.25, "mouth_open": 1.0})
    assert goal_text(goal) == "smile 0.4 + wink 0.8 + gaze_x=-0.25 + mouth_open=1"
    assert goal.reads_as == pytest.approx({"smile": 1 / 3, "wink": 2 / 3})
    for emotion, sliders, word in [
        ("smlie", None, "smile"),
        ("smile x", None, "smile x"),
        ("smile 7", None, "strength of smile"),
        (None, "mouth_opn=1", "mouth_open"),
        (None, "mouth_open", "no value"),
        (None, "gaze_x=nan", "gaze_x=nan"),
    ]:
        with pytest.raises(ConfigError, match=word):
            parse_goal(emotion, sliders)


def test_the_command_says_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derive, "EMOTIONS", ("neutral",))
    monkeypatch.setattr(derive, "SLIDERS", ("gaze_x",))

    def command(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["--out", str(tmp_path), *arguments])

    assert "2 presets" in command().output
    assert command("--check").exit_code == 0
    file = tmp_path / "slider" / "gaze_x.yaml"
    file.write_text(file.read_text().replace("0.0", "0.1"))
    differing = command("--check")
    assert differing.exit_code == 1
    assert "gaze_x.yaml is not as derived" in differing.output
    assert "neutral" not in differing.output


def test_a_misread_face_at_rest_is_left_as_it_is() -> None:
    # Drawings of other styles are often read as sad; the smile must not get angry brows by that.
    misread = replace(reading_of("neutral"), expressions={"sad": 0.9, "neutral": 0.1})
    found = plan_emotion(misread, "smile", width=SIZE, height=SIZE)
    assert off(found, painted("smile")) < 0.2
