"""The drag recipe: what to drag where, kept as JSON and replayable on any face and model.

This module alone reads and writes the format:

    {"version": 2,
     "frame": {"width": 256, "height": 256},
     "handles": [{"from": [120.5, 160.0], "to": [126.0, 152.5], "radius": 6.0}],
     "mask": null,
     "strategy": "draggan", "constants": {"mask_weight": 20},
     "max_steps": 300, "patience": 80}

Points are continuous pixels (x right, y down) of the aligned face at the size that `frame` states;
replay scales them to the model's. A handle with a `radius` (the same pixels) takes hold of the
whole disc. Version 1, which knew no radius, is read as well. `mask`, where present, is
`{"png": <base64>}`, a grey PNG over the frame: white keeps, black may change, grey in between.
`mask`, `strategy`, `constants`, `max_steps` and `patience` may be left out. Knows nothing of
networks and artifacts.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.data.align import CropTransform
from pipeline.edit.points import MAX_HANDLES, Move, Point
from pipeline.edit.strategies import STRATEGIES, DragGan, build_strategy
from pipeline.errors import AnimedragError, DataError, nearest

VERSION = 2
# Versions that can be read.
READABLE = (1, 2)
# No model's picture is larger; a mask beyond it is a mistake or an attack on memory.
MAX_SIDE = 8192
MAX_BYTES = 64 * 2**20

_KEYS = ("version", "frame", "handles", "mask", "strategy", "constants", "max_steps", "patience")


@dataclass(frozen=True, eq=False)
class Recipe:
    """A drag, independent of the face and the model it is used on.

    `width`, `height`: size of the face that the points are measured on. `mask`: that size,
    uint8, 255 keeps; None leaves everything free.
    """

    width: int
    height: int
    moves: tuple[Move, ...]
    mask: np.ndarray | None = None
    strategy: str = DragGan.name
    constants: Mapping[str, float] = field(default_factory=dict)
    max_steps: int = 300
    patience: int = 80

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and to_json(self) == to_json(other)

    def scaled_to(self, width: int, height: int) -> Recipe:
        """The same drag on a face of another size, points and mask scaled."""

        def scaled(point: Point) -> Point:
            # Multiplied first: a point on the border stays on it, to the last bit.
            return point[0] * width / self.width, point[1] * height / self.height

        longest = max(self.width, self.height)
        moves = tuple(
            Move(
                scaled(m.start),
                scaled(m.target),
                None if m.radius is None else m.radius * max(width, height) / longest,
            )
            for m in self.moves
        )
        mask = self.mask
        if mask is not None and (width, height) != (self.width, self.height):
            mask = np.asarray(Image.fromarray(mask).resize((width, height), _MASK_FILTER))
        return replace(self, width=width, height=height, moves=moves, mask=mask)


_MASK_FILTER = Image.Resampling.BILINEAR


def read(path: Path) -> Recipe:
    """The recipe in a JSON file.

    Raises:
        DataError: one sentence with the file's name, what is wrong and what would be right.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"it is larger than {MAX_BYTES // 2**20} MB")
        text = path.read_text(encoding="utf-8")
        return parse(text)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The recipe {path.name} cannot be read: {error}.") from error
    except DataError as error:
        raise DataError(f"The recipe {path.name} cannot be used: {error}.") from error


def write(recipe: Recipe, path: Path) -> None:
    """Write the recipe as JSON; `read` gives back an equal one."""
    path.write_text(json.dumps(to_json(recipe), indent=1) + "\n", encoding="utf-8")


def parse(text: str) -> Recipe:
    """The recipe in a JSON text; DataError (a phrase without a full stop) if it is none."""
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"it is no valid JSON ({error})") from error
    return from_json(data)


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Plain values, in the format's order."""
    return {
        "version": VERSION,
        "frame": {"width": recipe.width, "height": recipe.height},
        "handles": [
            {
                "from": list(m.start),
                "to": list(m.target),
                **({} if m.radius is None else {"radius": m.radius}),
            }
            for m in recipe.moves
        ],
        "mask": None if recipe.mask is None else {"png": _mask_to_text(recipe.mask)},
        "strategy": recipe.strategy,
        "constants": dict(recipe.constants),
        "max_steps": recipe.max_steps,
        "patience": recipe.patience,
    }


def from_json(data: Any) -> Recipe:
    """The inverse of `to_json`, strict about every key and value."""
    _check_keys("a recipe", data, _KEYS, required=("version", "frame", "handles"))
    if (
        data["version"] not in READABLE
        or not isinstance(data["version"], int | float)
        or (isinstance(data["version"], bool))
    ):
        raise DataError(
            f"version is {_shown(data['version'])}; this program reads "
            f"{' and '.join(map(str, READABLE))}"
        )
    frame = data["frame"]
    _check_keys("frame", frame, ("width", "height"), required=("width", "height"))
    width = _whole("frame.width", frame["width"], 1, MAX_SIDE)
    height = _whole("frame.height", frame["height"], 1, MAX_SIDE)
    defaults = Recipe(width, height, ())
    strategy = data.get("strategy", defaults.strategy)
    constants = data.get("constants", {})
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise DataError(
            f"strategy is {_shown(strategy)}; the nearest one is {nearest(strategy, STRATEGIES)}"
        )
    if not isinstance(constants, dict):
        raise DataError(f"constants is {_shown(constants)}; it must be an object of numbers")
    for name, value in constants.items():
        _number(f"constants.{name}", value)
    try:
        build_strategy(strategy, **constants)
    except AnimedragError as error:
        raise DataError(str(error).rstrip(".")) from error
    return Recipe(
        width=width,
        height=height,
        moves=_moves(data["handles"], width, height),
        mask=_mask(data.get("mask"), width, height),
        strategy=strategy,
        constants=constants,
        max_steps=_whole("max_steps", data.get("max_steps", defaults.max_steps), 1, 100_000),
        patience=_whole("patience", data.get("patience", defaults.patience), 1, 100_000),
    )


# --- points of a picture ---


def moves_of_picture(
    moves: Iterable[Move], transform: CropTransform, width: int, height: int
) -> tuple[Move, ...]:
    """Moves in the uploaded picture's pixels, in those of its aligned face of width × height.

    DataError unless every point lies on the face's part of the picture.
    """
    moves = tuple(moves)
    for number, move in enumerate(moves, 1):
        for end, (x, y) in (("handle", move.start), ("target", move.target)):
            # A point on the border may miss it by a rounding error.
            if np.abs(transform.apply(np.array((x, y))) - 0.5).max() > 0.5 + 1e-9:
                raise DataError(
                    f"The {end} of point {number}, ({x:g}, {y:g}), lies outside the face, which is "
                    f"{transform.width:.0f}×{transform.height:.0f} px of the picture around "
                    f"({transform.center_x:.0f}, {transform.center_y:.0f}); move it inside."
                )
    return tuple(
        Move(
            _into_face(m.start, transform, width, height),
            _into_face(m.target, transform, width, height),
            None if m.radius is None else m.radius * height / transform.height,
        )
        for m in moves
    )


def _into_face(point: Point, transform: CropTransform, width: int, height: int) -> Point:
    """A point of the picture on its face, in pixels of width × height; one on the border stays on
    it, whatever rounding does."""
    x, y = np.clip(transform.apply(np.array(point)), 0, 1).tolist()
    return x * width, y * height


def mirrored(moves: Iterable[Move], width: int) -> tuple[Move, ...]:
    """The moves, each followed by its mirror image across the face's upright middle line.

    Aligned faces stand level in the middle, so both eyes or both corners of the mouth move alike.
    A handle on the middle line is its own mirror image, and one that was set on both sides has its
    own there.
    """
    moves = tuple(moves)
    both = []
    for move in moves:
        both.append(move)
        (x, y), (to_x, to_y) = move.start, move.target
        other = Move((width - x, y), (width - to_x, to_y), move.radius)
        if all(math.dist(other.start, one.start) > 0.02 * width for one in moves):
            both.append(other)
    return tuple(both)


# --- strict reading ---


def _moves(handles: Any, width: int, height: int) -> tuple[Move, ...]:
    if not isinstance(handles, list) or not 1 <= len(handles) <= MAX_HANDLES:
        raise DataError(f'handles must be a list of 1 to {MAX_HANDLES} of {{"from", "to"}}')
    moves = []
    for number, handle in enumerate(handles):
        where = f"handles[{number}]"
        _check_keys(where, handle, ("from", "to", "radius"), required=("from", "to"))
        start = _point(f"{where}.from", handle["from"], width, height)
        target = _point(f"{where}.to", handle["to"], width, height)
        radius = None
        if handle.get("radius") is not None:
            radius = _number(f"{where}.radius", handle["radius"])
            if not 0 < radius <= max(width, height) / 2:
                raise DataError(
                    f"{where}.radius is {radius:g}; it must be above 0 and at most "
                    f"{max(width, height) / 2:g}, half the frame"
                )
        moves.append(Move(start, target, radius))
    return tuple(moves)


def _point(where: str, value: Any, width: int, height: int) -> Point:
    if not isinstance(value, list) or len(value) != 2:
        raise DataError(f"{where} is {_shown(value)}; it must be [x, y]")
    x, y = _number(where, value[0]), _number(where, value[1])
    if not (0 <= x <= width and 0 <= y <= height):
        raise DataError(f"{where} is ({x:g}, {y:g}), outside the frame of {width}×{height}")
    return x, y


def _check_keys(where: str, data: Any, known: tuple[str, ...], required: tuple[str, ...]) -> None:
    if not isinstance(data, dict):
        raise DataError(f"{where} must be an object with {', '.join(known)}, not {_shown(data)}")
    for key in data:
        if key not in known:
            close = nearest(key, known)
            raise DataError(
                f'{where} has the unknown key "{key}"; the nearest valid one is {close}'
            )
    for key in required:
        if key not in data:
            raise DataError(f'{where} lacks "{key}"')


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where} holds {_shown(value)}, which is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"{where} holds {_shown(value)}, which is no finite number")
    return number


def _whole(where: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DataError(
            f"{where} is {_shown(value)}; it must be a whole number from {low} to {high}"
        )
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f'the key "{twice}" appears twice')
    return data


def _no_constant(text: str) -> float:
    raise DataError(f"it holds {text}, which is no finite number")


# --- mask ---


def _mask_to_text(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _mask(data: Any, width: int, height: int) -> np.ndarray | None:
    if data is None:
        return None
    _check_keys("mask", data, ("png",), required=("png",))
    if not isinstance(data["png"], str):
        raise DataError(f"mask.png is {_shown(data['png'])}; it must be a base64 text")
    try:
        raw = base64.b64decode(data["png"], validate=True)
        with Image.open(io.BytesIO(raw), formats=["PNG"]) as image:
            # Checked before a pixel is decoded, so that a bomb stays small.
            if image.size != (width, height):
                raise DataError(
                    f"mask is {image.size[0]}×{image.size[1]} px, but the frame is {width}×{height}"
                )
            return np.asarray(image.convert("L")).copy()
    except (
        binascii.Error,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"mask.png is no readable PNG in base64 ({error})") from error
