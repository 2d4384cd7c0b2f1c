"""Animations: the ones that ship close their loops; what is no animation is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.edit.emotion_names import ANIMATIONS
from pipeline.edit.emotions.keyframes import EASINGS, FOLDER, find_animation, read_animation
from pipeline.errors import DataError


@pytest.mark.parametrize("name", ANIMATIONS)
def test_loops_close(name: str) -> None:
    animation = find_animation(name)
    first, last = animation.keyframes[0], animation.keyframes[-1]
    assert first.goal is None
    assert last.goal is None
    frames = animation.frames(24)
    assert len(frames) == round(24 * animation.seconds)
    assert all(0 <= share <= 1 and before + 1 == after for before, after, share in frames)


def test_every_animation_in_conf_has_a_name() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(ANIMATIONS)


def test_easings_begin_and_end_where_they_should() -> None:
    for name, ease in EASINGS.items():
        assert (ease(0), ease(1)) == (0, 1), name
        assert ease(0.3) < ease(0.6)
    assert EASINGS["ease-in"](0.5) < 0.5 < EASINGS["ease-out"](0.5)


def test_frames_lie_between_keyframes(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"keyframes": [{"at": 0}, {"at": 1, "emotion": "smile", "easing": "ease-in"}, '
                    '{"at": 2}]}')  # fmt: skip
    animation = read_animation(path)
    assert animation.label == "mine"
    frames = animation.frames(4)
    assert frames[:4] == [(0, 1, 0.0), (0, 1, 0.0625), (0, 1, 0.25), (0, 1, 0.5625)]
    assert frames[4:6] == [(1, 2, 0.0), (1, 2, 0.25)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keyframes: [{at: 0}]", "2 to"),
        ("keyframes: [{at: 0}, {at: 1}, {at: 0.5}]", "order of time"),
        ("keyframes: [{at: 0}, {at: 1, emotion: smlie}]", "smile"),
        ("keyframes: [{at: 0}, {at: 1, easing: bounce}]", "easing of keyframe 2"),
        ("keyframes: [{at: 0}, {at: .nan}]", "no second"),
        ("keyframes: [{at: 0}, {when: 1}]", "keyframe 2"),
        ("nothing", "list of keyframes"),
        ("a: [", "cannot be read"),
    ],
)
def test_what_is_no_animation_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_animation(path)
