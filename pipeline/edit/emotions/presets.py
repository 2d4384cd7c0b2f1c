"""Presets: how a face's landmarks move from its neutral state to an emotion, or along a slider.

This module alone reads and writes the files, `conf/emotion/<name>.yaml` and
`conf/slider/<name>.yaml`:

    label: Smile
    reads_as: {smile: 1.0}          # expressions of the face reader that it stands for, with shares
    displacements: [[0.0, 0.0], ...]  # 28 landmarks, then both irises' centres: mean move
    sensitivity:                    # how that move grows with the face's proportions
      eye_height: [[0.0, 0.0], ...]
    marks: {blush: 0.25, teeth: 0.0, tears: 0.0}  # what is drawn on the face besides, 0 to 1
    typical: {eye_height: 0.17}     # the mean proportions that `displacements` belong to

Moves are in face widths (`landmarks.face_width`) of the neutral, frontal, level face, x along the
line of the eyes. They come from the painter's statistics (`derive`), never by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.data import face_measures as measures
from pipeline.data import landmarks as lm
from pipeline.data.landmarks import Points
from pipeline.edit.emotion_names import EMOTIONS, SLIDERS
from pipeline.errors import ConfigError, check_choice

CONF = Path(__file__).resolve().parents[3] / "conf"
FOLDERS = {"emotion": CONF / "emotion", "slider": CONF / "slider"}
# The 28 landmarks, then the centres of the left and right iris, which the face reader does not see.
POINTS = (*lm.NAMES, "left_iris", "right_iris")
IRISES = slice(lm.NUM_LANDMARKS, lm.NUM_LANDMARKS + 2)
MIRROR = (*lm.MIRROR, lm.NUM_LANDMARKS + 1, lm.NUM_LANDMARKS)
# Proportions are believed within these multiples of the typical ones.
_LEAST, _MOST = 0.35, 1.8


@dataclass(frozen=True, eq=False)
class Preset:
    """One emotion or slider; arrays are 30×2, face widths."""

    name: str
    label: str
    kind: str  # emotion | slider
    displacements: Points
    sensitivity: Mapping[str, Points]
    typical: Mapping[str, float]
    reads_as: Mapping[str, float]  # empty for a slider
    marks: Mapping[str, float]  # empty for a slider
    # Of the neutral preset: measures of a face at rest, mean and deviation; empty for the others.
    rest: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def moves(self, proportions: Mapping[str, float], mirror: bool = False) -> Points:
        """30×2: the move of every point of a neutral frontal face with these proportions."""
        moves = self.displacements.copy()
        for name, slope in self.sensitivity.items():
            usual = self.typical[name]
            value = min(max(proportions[name], _LEAST * usual), _MOST * usual)
            moves += (value - usual) * slope
        if mirror:
            moves = moves[list(MIRROR)] * (-1, 1)
        return moves


def proportions(neutral: Points) -> dict[str, float]:
    """What the moves depend on, of a neutral face's 28 landmarks (levelled, in face widths)."""
    left, right = neutral[lm.LEFT_EYE], neutral[lm.RIGHT_EYE]
    mouth = neutral[lm.MOUTH]

    def across(eye: Points) -> float:
        return float(eye[:, 0].max() - eye[:, 0].min())

    return {
        "eye_height": float(left[4, 1] - left[1, 1] + right[4, 1] - right[1, 1]) / 2,
        "eye_width": (across(left) + across(right)) / 2,
        "mouth_width": float(mouth[2, 0] - mouth[0, 0]),
        "chin": float(neutral[lm.INDEX["chin"], 1]),
    }


def rest_measures(neutral: Points) -> dict[str, float]:
    """What tells a face at rest from one that does something, of 28 landmarks (any px)."""
    width = measures.mouth_width(neutral)
    return {
        "left_eye": measures.eye_aspect(neutral, "left"),
        "right_eye": measures.eye_aspect(neutral, "right"),
        "mouth_gap": measures.mouth_aspect(neutral) * width,
        "mouth_bend": measures.mouth_curvature(neutral),
        "brow_tilt": measures.brow_tilt(neutral),
        "brow_height": measures.brow_height(neutral),
    }


@cache
def find_preset(kind: str, name: str) -> Preset:
    """The preset that ships, by kind ("emotion" or "slider") and name.

    ConfigError, naming the nearest, where there is none; or where its file is damaged.
    """
    check_choice(kind, name, {"emotion": EMOTIONS, "slider": SLIDERS}[kind])
    return read_preset(FOLDERS[kind] / f"{name}.yaml", kind)


def read_preset(path: Path, kind: str) -> Preset:
    """Read one file; ConfigError where it is missing or not as the module says."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        preset = Preset(
            name=path.stem,
            label=str(data["label"]),
            kind=kind,
            displacements=_points(data["displacements"]),
            sensitivity={str(k): _points(v) for k, v in data["sensitivity"].items()},
            typical={str(k): float(v) for k, v in data["typical"].items()},
            reads_as={str(k): float(v) for k, v in (data["reads_as"] or {}).items()},
            marks={str(k): float(v) for k, v in (data["marks"] or {}).items()},
            rest={str(k): (float(v[0]), float(v[1])) for k, v in (data.get("rest") or {}).items()},
        )
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is missing; derive the presets again: make emotion-presets."
        ) from None
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); derive the presets again: make emotion-presets."
        ) from error
    return preset


def preset_text(preset: Preset) -> str:
    """The file's text; `read_preset` gives the preset back, rounded to 1/10000 face width."""
    said = {"emotion": "from the neutral face to this emotion", "slider": "at slider value 1"}
    lines = [
        f"# {preset.name}: how a face's landmarks move, {said[preset.kind]}, in face widths.",
        "# Derived from the painter's statistics (make emotion-presets); not to be edited by hand.",
        "",
        "# What it is called on sheets and pages.",
        f"label: {preset.label}",
        "# Expressions of the face reader that it stands for, with shares; none for a slider.",
        f"reads_as: {_flow(preset.reads_as)}",
        "# Besides: blush beyond the neutral face's, teeth shown, tears; 0 to 1.",
        f"marks: {_flow(preset.marks)}",
        "# Mean proportions that the displacements belong to, in face widths.",
        f"typical: {_flow(preset.typical)}",
        "# Mean moves [right, down] of the 28 landmarks and both irises.",
        "displacements:",
        *_rows(preset.displacements, "  "),
        "# How much farther each moves, for every face width that the proportion is larger.",
        "sensitivity:",
    ]
    if preset.rest:
        pairs = ", ".join(
            f"{name}: [{_number(mean)}, {_number(deviation)}]"
            for name, (mean, deviation) in preset.rest.items()
        )
        lines.insert(-4 - len(POINTS), "# Measures of a face at rest: mean, standard deviation.")
        lines.insert(-4 - len(POINTS), f"rest: {{{pairs}}}")
    for name, slope in preset.sensitivity.items():
        lines += [
            f"  # By the face's {name.replace('_', ' ')}.",
            f"  {name}:",
            *_rows(slope, "    "),
        ]
    return "\n".join(lines) + "\n"


def _rows(points: Points, indent: str) -> list[str]:
    return [
        f"{indent}- [{_number(x)}, {_number(y)}] # {name}"
        for name, (x, y) in zip(POINTS, points, strict=True)
    ]


def _flow(values: Mapping[str, float]) -> str:
    return "{" + ", ".join(f"{key}: {_number(value)}" for key, value in values.items()) + "}"


def _number(value: float) -> str:
    # + 0.0: no "-0.0000".
    return f"{round(float(value), 4) + 0.0:.4f}"


def _points(value: Any) -> Points:
    points = np.asarray(value, dtype=np.float64)
    if points.shape != (len(POINTS), 2) or not np.isfinite(points).all():
        raise ValueError(f"{len(POINTS)} pairs of finite numbers were expected")
    return points
