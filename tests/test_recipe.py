"""Recipes: what is written is read back, and what is wrong is refused in one sentence."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.align import CropTransform
from pipeline.edit import recipe as recipes
from pipeline.edit.points import check_moves, parse_points
from pipeline.edit.recipe import Move, Recipe
from pipeline.errors import AnimedragError, DataError


@st.composite
def any_recipe(draw: st.DrawFn) -> Recipe:
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    point = st.tuples(st.floats(0, width, allow_nan=False), st.floats(0, height, allow_nan=False))
    moves = draw(
        st.lists(
            st.builds(Move, point, point, st.none() | st.floats(0.01, max(width, height) / 2)),
            min_size=1,
            max_size=5,
        )
    )
    mask = None
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 9)))
        mask = rng.integers(0, 256, (height, width), dtype=np.uint8)
    return Recipe(
        width=width,
        height=height,
        moves=tuple(moves),
        mask=mask,
        strategy=draw(st.sampled_from(["draggan", "draggan-compatible"])),
        constants=draw(
            st.dictionaries(st.sampled_from(["mask_weight", "radius"]), st.floats(1, 99))
        ),
        max_steps=draw(st.integers(1, 999)),
        patience=draw(st.integers(1, 999)),
    )


@settings(max_examples=60, deadline=None)
@given(any_recipe())
def test_what_is_written_is_read_back(recipe: Recipe) -> None:
    again = recipes.parse(json.dumps(recipes.to_json(recipe)))
    assert again == recipe
    assert again.moves == recipe.moves
    assert (again.mask is None) == (recipe.mask is None)
    if recipe.mask is not None:
        np.testing.assert_array_equal(again.mask, recipe.mask)


def test_a_recipe_of_the_first_version_is_read() -> None:
    text = """{"version": 1, "frame": {"width": 64, "height": 64},
        "handles": [{"from": [1, 2], "to": [3, 4]}], "mask": null, "strategy": "draggan",
        "constants": {}, "max_steps": 300, "patience": 80}"""
    assert recipes.parse(text) == Recipe(64, 64, (Move((1.0, 2.0), (3.0, 4.0)),))


def test_region_handles_are_written_scaled_and_read_from_a_line() -> None:
    (move,) = parse_points("10,12>14,12 radius 3")
    assert move == Move((10, 12), (14, 12), 3.0)
    (large,) = Recipe(64, 64, (move,)).scaled_to(128, 128).moves
    assert large == Move((20, 24), (28, 24), 6.0)
    for wrong in ("10,12>14,12 radius", "10,12>14,12 radius -1", "10,12>14,12 radius x"):
        with pytest.raises(DataError, match="radius 6"):
            parse_points(wrong)


def test_a_handle_that_was_set_on_both_sides_gets_no_mirror_image() -> None:
    moves = (Move((20, 30), (18, 30)), Move((44, 30), (50, 30)))
    assert recipes.mirrored(moves, 64) == moves


def test_mirrored_moves_are_those_of_both_sides() -> None:
    moves = (Move((20, 30), (22, 28), 2.0), Move((32, 50), (32, 54)))
    assert recipes.mirrored(moves, 64) == (
        moves[0],
        Move((44, 30), (42, 28), 2.0),
        moves[1],
    )


def test_a_file_is_written_and_read(tmp_path: Path) -> None:
    recipe = Recipe(64, 64, (Move((1.5, 2), (3, 4)),), np.eye(64, dtype=np.uint8) * 255)
    recipes.write(recipe, tmp_path / "r.json")
    assert recipes.read(tmp_path / "r.json") == recipe


@settings(max_examples=30, deadline=None)
@given(any_recipe(), st.integers(1, 300), st.integers(1, 300))
def test_scaling_keeps_the_places(recipe: Recipe, width: int, height: int) -> None:
    scaled = recipe.scaled_to(width, height)
    for before, after in zip(recipe.moves, scaled.moves, strict=True):
        for one, two in ((before.start, after.start), (before.target, after.target)):
            assert two[0] / width == pytest.approx(one[0] / recipe.width)
            assert two[1] / height == pytest.approx(one[1] / recipe.height)
    assert (scaled.mask is None) == (recipe.mask is None)
    if scaled.mask is not None:
        assert scaled.mask.shape == (height, width)
    # A scaled recipe is a valid one.
    back = recipes.parse(json.dumps(recipes.to_json(scaled)))
    assert (back.width, back.height) == (width, height)


def test_a_point_on_the_border_stays_there() -> None:
    # 26 * (57 / 26) is more than 57 in floating point.
    scaled = Recipe(1, 26, (Move((0, 0), (1, 26)),)).scaled_to(1, 57)
    assert scaled.moves[0].target == (1, 57)


def test_a_scaled_mask_keeps_its_sides() -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 255
    scaled = Recipe(32, 32, (), mask).scaled_to(128, 128).mask
    assert scaled is not None
    assert (scaled[:, :56] == 0).all()
    assert (scaled[:, 72:] == 255).all()


# --- mutated recipes ---


def valid() -> dict[str, Any]:
    return recipes.to_json(Recipe(64, 48, (Move((1, 2), (3, 4)),), np.full((48, 64), 9, np.uint8)))


def png(size: tuple[int, int], kind: str = "PNG") -> dict[str, str]:
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, kind)
    return {"png": base64.b64encode(buffer.getvalue()).decode()}


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(key) and None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put("handels", value=[]), "handles"),
        (put("max_stps", value=3), "max_steps"),
        (put("frame", "widht", value=3), "width"),
        (put("handles", 0, "form", value=[1, 1]), "from"),
        (put("version", value=3), "version"),
        (put("version", value=True), "version"),
        (put("version", value="1"), "version"),
        (drop("version"), "version"),
        (drop("frame"), "frame"),
        (drop("handles"), "handles"),
        (put("frame", value=[64, 48]), "frame"),
        (put("frame", "width", value=64.5), "width"),
        (put("frame", "width", value=0), "width"),
        (put("frame", "height", value=10**9), "height"),
        (put("handles", value=[]), "handles"),
        (put("handles", value={}), "handles"),
        (put("handles", value=[{"from": [0, 0], "to": [0, 0]}] * 257), "256"),
        (put("handles", 0, value=[1, 2, 3, 4]), "object"),
        (put("handles", 0, "from", value=[1]), r"\[x, y\]"),
        (put("handles", 0, "from", value=["1", 2]), "no number"),
        (put("handles", 0, "to", value=[True, 2]), "no number"),
        (put("handles", 0, "to", value=[65, 2]), "outside"),
        (put("handles", 0, "to", value=[-0.1, 2]), "outside"),
        (put("handles", 0, "to", value=[10**400, 2]), "finite"),
        (put("mask", value="white"), "mask"),
        (put("mask", value={"png": "%%%"}), "base64"),
        (put("mask", value={"png": "AAAA"}), "PNG"),
        (put("mask", value={"png": 3}), "base64"),
        (put("mask", value=png((3, 3))), "3×3"),
        (put("mask", value=png((64, 48), "GIF")), "PNG"),
        (put("strategy", value="dragan"), "draggan"),
        (put("strategy", value=["draggan"]), "draggan"),
        (put("constants", value=[1]), "constants"),
        (put("constants", value={"mask_wieght": 1}), "mask_weight"),
        (put("constants", value={"mask_weight": "x"}), "no number"),
        (put("constants", value={"mask_weight": -1}), "mask_weight"),
        (put("max_steps", value=0), "max_steps"),
        (put("patience", value=1.5), "patience"),
    ],
)
def test_a_wrong_recipe_is_refused_in_a_sentence(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    data = valid()
    change(data)
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=says) as caught:
        recipes.read(path)
    assert "wrong.json" in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", '{"version": 1, "version": 1}', '{"version": NaN}', "[" * 100_000],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=r"r\.json"):
        recipes.read(tmp_path / "r.json")
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"r\.json"):
        recipes.read(tmp_path / "r.json")
    with pytest.raises(DataError, match="absent"):
        recipes.read(tmp_path / "absent.json")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_mutation_is_read_or_refused_cleanly(data: st.DataObject) -> None:
    text = json.dumps(valid())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        cut = data.draw(st.integers(0, 3))
        new = data.draw(st.text(alphabet='0123456789-+.eE[]{},:"\\ntrufalse', max_size=3))
        text = text[:at] + new + text[at + cut :]
    try:
        recipe = recipes.parse(text)
    except AnimedragError:
        return
    assert recipes.parse(json.dumps(recipes.to_json(recipe))) == recipe


# --- points ---


def test_points_are_parsed() -> None:
    moves = parse_points(" 1,2 > 3.5,-4 ; 5e1,6>7,8; ")
    assert moves == (Move((1, 2), (3.5, -4)), Move((50, 6), (7, 8)))


@pytest.mark.parametrize(
    "text", ["", ";", "1,2", "1,2>3", "1>2", "a,b>c,d", "1,2>3,4>5,6", "1,2>3,nan", "1,2,3>4,5"]
)
def test_points_that_cannot_be_read_are_quoted_with_an_example(text: str) -> None:
    with pytest.raises(DataError, match="120,160>126,152"):
        parse_points(text)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0, 64), st.floats(0, 64), st.floats(-40, 40), st.floats(30, 200), st.floats(0, 500)
)
def test_points_of_the_picture_land_on_the_face(
    x: float, y: float, roll: float, side: float, centre: float
) -> None:
    transform = CropTransform.square(centre, 100.0, side, roll)
    there = tuple(transform.inverse(np.array([x, y]), 64).tolist())
    (move,) = recipes.moves_of_picture([Move(there, there)], transform, 64, 64)
    assert move.start == pytest.approx((x, y), abs=1e-6)
    # A corner of the face, too, however it is turned.
    corners = [(float(u), float(v)) for u, v in transform.corners()]
    check_moves(
        recipes.moves_of_picture([Move(one, there) for one in corners], transform, 64, 64), 64, 64
    )


def test_a_point_of_the_picture_off_the_face_is_named_as_given() -> None:
    transform = CropTransform.square(200.0, 100.0, 80.0)
    said = r"target of point 2, \(250, 90\).*80×80 px of the picture around \(200, 100\)"
    moves = [Move((170, 90), (180, 90)), Move((170, 90), (250, 90))]
    with pytest.raises(DataError, match=said):
        recipes.moves_of_picture(moves, transform, 64, 64)


def test_a_point_off_the_face_is_named() -> None:
    with pytest.raises(DataError, match=r"target of point 2.*64×64"):
        check_moves([Move((1, 1), (2, 2)), Move((1, 1), (2, 65))], 64, 64)


def test_what_a_recipe_could_not_be_read_with_is_refused_beforehand() -> None:
    wide = Move((1, 1), (2, 2), radius=33.0)
    for moves, said in (([wide], r"radius of point 1, 33,.*at most 32"), ([wide] * 257, "256")):
        with pytest.raises(DataError):
            recipes.from_json(recipes.to_json(Recipe(64, 64, tuple(moves))))
        with pytest.raises(DataError, match=said):
            check_moves(moves, 64, 64)
