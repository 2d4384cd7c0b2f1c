"""Facial expressions as continuous parameters: named presets, blending, small variations.

Numbers only; how they bend brows, lids and mouth is written in `features`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from pipeline.errors import check_choice


@dataclass(frozen=True)
class Expression:
    """What a face does. Every value is continuous; 0 is the neutral state unless said."""

    brow_raise: float = 0.0  # -1 lowered .. 1 raised
    brow_tilt: float = 0.0  # -1 inner ends up (sad) .. 1 inner ends down (angry)
    brow_bend: float = 0.0  # -1 straight .. 1 strongly arched
    brow_squeeze: float = 0.0  # 0 .. 1 drawn towards each other
    left_lid: float = 0.94  # openness of the picture-left eye: 0 shut, 1 open, 1.2 wide
    right_lid: float = 0.94
    lower_lid: float = 0.0  # 0 .. 1 lower lids pushed up (a smile's squint)
    lid_slant: float = 0.0  # -1 outer half droops (sad) .. 1 inner half pressed down (angry)
    lid_bend: float = 0.0  # shut eye's arc: -1 hangs down (asleep) .. 1 arches up (happy)
    pupil: float = 1.0  # iris and pupil size factor
    gaze_x: float = 0.0  # -1 left .. 1 right
    gaze_y: float = 0.0  # -1 up .. 1 down
    shine: float = 1.0  # highlight size factor; watery eyes above 1
    mouth_open: float = 0.0  # 0 shut .. 1 wide open
    mouth_width: float = 1.0  # factor
    mouth_smile: float = 0.3  # -1 corners down .. 1 corners up
    mouth_round: float = 0.0  # 0 lens-shaped .. 1 an "o"
    mouth_pout: float = 0.0  # 0 .. 1 small, pushed up, lower lip shown
    teeth: float = 0.0  # 0 .. 1 upper row shown in an open mouth
    blush: float = 0.25  # 0 .. 1
    cheek_puff: float = 0.0  # 0 .. 1 rounder cheeks
    tears: float = 0.0  # 0 .. 1
    sweat: float = 0.0  # 0 .. 1 a drop at the temple


EXPRESSIONS: dict[str, Expression] = {
    "neutral": Expression(),
    "smile": Expression(
        brow_raise=0.2, brow_bend=0.35, lower_lid=0.35, left_lid=0.92, right_lid=0.92,
        mouth_smile=1.0, mouth_width=1.45, blush=0.5,
    ),
    "laugh": Expression(
        brow_raise=0.5, brow_bend=0.5, left_lid=0.0, right_lid=0.0, lid_bend=1.0,
        mouth_open=0.85, mouth_smile=1.0, mouth_width=1.42, teeth=0.8, blush=0.7,
    ),
    "sad": Expression(
        brow_raise=0.15, brow_tilt=-1.0, brow_squeeze=0.5, left_lid=0.68, right_lid=0.68,
        lid_slant=-0.8, gaze_y=0.4, shine=1.25, mouth_smile=-0.85, mouth_width=0.95,
        blush=0.3, tears=0.75,
    ),
    "angry": Expression(
        brow_raise=-0.75, brow_tilt=1.05, brow_squeeze=0.9, left_lid=0.82, right_lid=0.82,
        lid_slant=0.9, lower_lid=0.2, pupil=0.84, shine=0.8, mouth_open=0.5,
        mouth_smile=-0.85, mouth_width=1.2, teeth=1.0, blush=0.2,
    ),
    "surprised": Expression(
        brow_raise=1.15, brow_bend=0.7, left_lid=1.2, right_lid=1.2, pupil=0.66, shine=0.9,
        mouth_open=0.72, mouth_round=1.0, mouth_width=0.85, mouth_smile=0.0, blush=0.35,
        sweat=0.6,
    ),
    "wink": Expression(
        brow_raise=0.25, brow_bend=0.35, left_lid=1.02, right_lid=0.0, lid_bend=0.8,
        mouth_open=0.5, mouth_smile=1.0, mouth_width=1.3, teeth=0.5, blush=0.5,
    ),
    "closed": Expression(
        brow_raise=0.05, left_lid=0.0, right_lid=0.0, lid_bend=-0.85, mouth_smile=0.3,
        blush=0.3,
    ),
    "pout": Expression(
        brow_raise=-0.3, brow_tilt=0.55, brow_squeeze=0.4, left_lid=0.74, right_lid=0.74,
        lid_slant=0.25, gaze_x=0.4, mouth_smile=-0.95, mouth_width=0.92, mouth_pout=1.0,
        blush=0.95, cheek_puff=1.0,
    ),
}  # fmt: skip

# How far `vary` may move each parameter at amount 1; parameters not named stay as they are.
_SPREAD: dict[str, float] = {
    "brow_raise": 0.2,
    "brow_tilt": 0.15,
    "brow_bend": 0.25,
    "lower_lid": 0.08,
    "lid_slant": 0.12,
    "pupil": 0.06,
    "gaze_x": 0.45,
    "gaze_y": 0.2,
    "shine": 0.12,
    "mouth_width": 0.12,
    "mouth_smile": 0.12,
    "blush": 0.2,
}
_LOWEST: dict[str, float] = {"lower_lid": 0.0, "pupil": 0.5, "shine": 0.4, "blush": 0.0}


def preset(name: str) -> Expression:
    """The named expression; ConfigError names the nearest one if there is none of that name."""
    check_choice("expression", name, EXPRESSIONS)
    return EXPRESSIONS[name]


def blend(a: Expression, b: Expression, amount: float) -> Expression:
    """From `a` (amount 0) to `b` (amount 1), each parameter linearly; may extrapolate a little."""
    values = {
        field.name: (1 - amount) * getattr(a, field.name) + amount * getattr(b, field.name)
        for field in fields(Expression)
    }
    return Expression(**values)


def vary(expression: Expression, rng: np.random.Generator, amount: float = 1.0) -> Expression:
    """A natural variation of an expression: the same mood, never exactly the same face."""
    offsets = rng.uniform(-1, 1, size=len(_SPREAD) + 1)
    changes = {
        name: max(
            getattr(expression, name) + spread * amount * float(offset), _LOWEST.get(name, -2.0)
        )
        for (name, spread), offset in zip(_SPREAD.items(), offsets[1:], strict=True)
    }
    # Both lids of open eyes move together; a shut eye stays shut.
    lid = 1.0 + 0.08 * amount * float(offsets[0])
    changes["left_lid"] = expression.left_lid * lid
    changes["right_lid"] = expression.right_lid * lid
    changes["mouth_open"] = expression.mouth_open * (1 + 0.2 * amount * float(offsets[0]))
    return replace(expression, **changes)
