"""Who is drawn: everything about a character that stays the same in every picture of it.

Plain values; how they look is written in the modules that draw. `random_identity` draws one from
a numpy Generator, weighted towards combinations that sit well together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.data.painter.colours import Colour, from_hex, from_hsv, lighten, mix, shade

FRINGES = ("tufts", "swept", "parted", "blunt", "messy", "centre", "wispy", "open")
BACK_HAIR = (
    "bob",
    "short",
    "spiky",
    "long",
    "wavy",
    "twintails",
    "ponytail",
    "buns",
    "braids",
    "hime",
    "low_tails",
)
OUTFITS = ("sailor", "blazer", "hoodie", "turtleneck", "dress", "kimono", "tunic")
ACCESSORIES = (
    "ribbon",
    "hairpin",
    "horns",
    "glasses",
    "headband",
    "cat_ears",
    "flower",
    "beret",
    "earrings",
    "choker",
)
IRIS_STYLES = ("gem", "soft", "ring", "star")


@dataclass(frozen=True)
class Hair:
    """Hair: lengths in head units, `seed` fixes the strands."""

    colour: Colour = (0.45, 0.55, 0.85)
    tip_colour: Colour | None = None
    fringe: str = "tufts"
    fringe_length: float = 0.0  # -0.15 shorter .. 0.15 longer
    part: float = 0.0  # where the hair parts, -0.5 .. 0.5
    back: str = "long"
    side_length: float = 1.0  # how far the locks before the ears hang down
    volume: float = 1.0  # 0.9 .. 1.15
    curl: float = 0.0  # 0 straight .. 1 wavy locks
    ahoge: float = 0.0  # 0 none .. 1 a big upright strand
    gloss: str = "ring"  # highlight: ring | streaks | soft | none
    mirrored: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Eyes:
    """Eyes: sizes in head units."""

    colour: Colour = (0.35, 0.45, 0.85)
    second_colour: Colour | None = None  # of the picture-right eye
    width: float = 0.29  # half width
    height: float = 0.25  # half height
    spacing: float = 0.56  # centre from the face's middle
    tilt: float = 0.0  # -1 outer corners droop .. 1 rise
    roundness: float = 0.5
    lid: float = 1.0  # thickness of the upper lid's line
    lashes: int = 2
    iris: float = 0.68  # iris width relative to the eye's
    style: str = "gem"
    slit: bool = False
    y: float = 0.02  # height of the eyes' line, down
    brow: float = 0.0  # brows lower (> 0) or higher
    lower: float = 0.6  # strength of the lower lid's line, 0 .. 1


@dataclass(frozen=True)
class Face:
    """Face: shape factors around 1 or 0, skin colour; heights in head units below the origin."""

    skin: Colour = (1.0, 0.89, 0.82)
    chin: float = 1.16  # height of the chin below the eyes
    jaw: float = 0.0  # -1 pointed .. 1 round
    cheek: float = 0.0  # -1 slim .. 1 full
    nose: str = "tick"  # tick | dot | shade | line
    mouth_width: float = 0.17  # half width
    mouth_height: float = 0.645  # as a fraction of the chin's height
    nose_height: float = 0.385  # likewise
    fang: bool = False
    pointed_ears: bool = False
    mole: int = 0  # 0 none, 1 under the left eye, 2 under the right eye, 3 by the mouth
    brow_thickness: float = 1.0
    neck: float = 0.30  # half width


@dataclass(frozen=True)
class Outfit:
    """Clothes on neck and shoulders."""

    style: str = "sailor"
    main: Colour = (0.95, 0.95, 0.97)
    trim: Colour = (0.22, 0.28, 0.5)
    accent: Colour = (0.8, 0.2, 0.25)


@dataclass(frozen=True)
class Accessory:
    """One thing worn; `side` -1 picture-left or 1 picture-right where that matters."""

    kind: str
    colour: Colour
    side: int = 1


@dataclass(frozen=True)
class Identity:
    """A character."""

    hair: Hair = field(default_factory=Hair)
    eyes: Eyes = field(default_factory=Eyes)
    face: Face = field(default_factory=Face)
    outfit: Outfit = field(default_factory=Outfit)
    accessories: tuple[Accessory, ...] = ()


# Hair colours as colourists choose them, with a weight: natural ones are commoner.
_HAIR_COLOURS: tuple[tuple[str, float], ...] = (
    ("#3a3440", 2.2), ("#463a3c", 2.0), ("#5c453e", 2.2), ("#7a5648", 2.0), ("#96694c", 1.6),
    ("#b98658", 1.2), ("#dcbc7a", 1.6), ("#ecd9a4", 1.1), ("#d08a55", 1.0), ("#b5563f", 0.9),
    ("#98353f", 0.8), ("#e3a0b2", 1.0), ("#c9728f", 0.8), ("#a287c0", 1.0), ("#6a5a94", 1.1),
    ("#8797cc", 1.1), ("#5f85c0", 0.9), ("#3f5488", 1.1), ("#8fc2d8", 0.8), ("#76ae9f", 0.6),
    ("#86a872", 0.5), ("#d3d7e2", 1.2), ("#b4b9c8", 0.9), ("#ece6e0", 0.8), ("#565d68", 0.8),
)  # fmt: skip

_SKINS: tuple[tuple[str, float], ...] = (
    ("#fdeade", 2.4), ("#fbe1d0", 3.0), ("#f8d9c4", 2.6), ("#f2cbb0", 1.4), ("#e3b08e", 0.7),
    ("#cf9b78", 0.5), ("#b98260", 0.35), ("#98694f", 0.22), ("#7a5140", 0.12),
)  # fmt: skip


def _weighted(rng: np.random.Generator, table: tuple[tuple[str, float], ...]) -> Colour:
    weights = np.array([weight for _, weight in table])
    index = int(rng.choice(len(table), p=weights / weights.sum()))
    return from_hex(table[index][0])


def _jitter(rng: np.random.Generator, colour: Colour, amount: float = 0.03) -> Colour:
    red, green, blue = (
        min(1.0, max(0.0, channel + float(rng.uniform(-amount, amount)))) for channel in colour
    )
    return (red, green, blue)


def _choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _random_hair(rng: np.random.Generator) -> Hair:
    colour = _jitter(rng, _weighted(rng, _HAIR_COLOURS), 0.025)
    tip: Colour | None = None
    if rng.random() < 0.10:
        hue_shift = float(rng.uniform(-0.12, 0.12))
        tip = mix(shade(colour, 0.15), from_hsv(0.62 + hue_shift, 0.55, 0.85), 0.6)
    elif rng.random() < 0.08:
        tip = lighten(colour, 0.55)
    back = _choose(rng, BACK_HAIR)
    # Loose long hair may fall over the shoulders in front as well.
    longest = 2.3 if back in ("long", "wavy") else 1.4
    return Hair(
        colour=colour,
        tip_colour=tip,
        fringe=_choose(rng, FRINGES),
        fringe_length=float(rng.uniform(-0.12, 0.10)),
        part=float(rng.uniform(-0.4, 0.4)),
        back=back,
        side_length=float(rng.uniform(0.6, longest)),
        volume=float(rng.uniform(0.95, 1.10)),
        curl=float(rng.random() ** 2),
        ahoge=float(rng.uniform(0.5, 1.0)) if rng.random() < 0.2 else 0.0,
        gloss=_choose(rng, ("ring", "ring", "streaks", "streaks", "soft", "none")),
        mirrored=bool(rng.random() < 0.5),
        seed=int(rng.integers(2**31)),
    )


def _random_eyes(rng: np.random.Generator, hair: Colour, age: float) -> Eyes:
    """Eyes of a character `age` old: 0 a child's, high and wide, 1 an adult's, narrow."""

    def iris() -> Colour:
        if rng.random() < 0.18:
            return shade(hair, 0.1)
        # Saturated and mid-bright: pale irises look blind beside white highlights.
        return from_hsv(
            float(rng.random()), float(rng.uniform(0.35, 0.8)), float(rng.uniform(0.5, 0.85))
        )

    width = 0.305 - 0.035 * age + float(rng.uniform(-0.018, 0.018))
    height = 0.295 - 0.105 * age + float(rng.uniform(-0.022, 0.022))
    return Eyes(
        colour=iris(),
        second_colour=iris() if rng.random() < 0.04 else None,
        width=width,
        height=height,
        spacing=0.555 - 0.02 * age + float(rng.uniform(-0.02, 0.025)),
        tilt=float(rng.uniform(-1.0, 0.8)),
        roundness=float(rng.random()),
        lid=float(rng.uniform(0.75, 1.25)),
        lashes=int(rng.integers(0, 4)),
        iris=float(rng.uniform(0.62, 0.72)),
        style=_choose(rng, IRIS_STYLES),
        slit=bool(rng.random() < 0.05),
        y=0.075 - 0.08 * age + float(rng.uniform(-0.02, 0.02)),
        brow=float(rng.uniform(-0.03, 0.06)),
        lower=float(rng.uniform(0.3, 1.0)),
    )


def _random_face(rng: np.random.Generator, age: float) -> Face:
    return Face(
        skin=_jitter(rng, _weighted(rng, _SKINS), 0.01),
        chin=1.03 + 0.30 * age + float(rng.uniform(-0.04, 0.05)),
        jaw=float(rng.uniform(-0.9, 0.7)) + 0.25 * (0.5 - age),
        cheek=float(rng.uniform(-0.9, 0.6)) - 0.5 * age,
        nose=_choose(rng, ("tick", "tick", "dot", "shade", "line") if age > 0.45
                     else ("tick", "dot", "dot", "shade")),
        mouth_width=0.15 + 0.035 * age + float(rng.uniform(-0.02, 0.025)),
        mouth_height=0.665 - 0.03 * age + float(rng.uniform(-0.012, 0.012)),
        nose_height=0.42 - 0.05 * age + float(rng.uniform(-0.012, 0.012)),
        fang=bool(rng.random() < 0.1),
        pointed_ears=bool(rng.random() < 0.06),
        mole=int(rng.integers(1, 4)) if rng.random() < 0.1 else 0,
        brow_thickness=float(rng.uniform(0.6, 1.25)),
        neck=0.27 + 0.07 * age + float(rng.uniform(-0.02, 0.04)),
    )  # fmt: skip


def _random_outfit(rng: np.random.Generator) -> Outfit:
    hue = float(rng.random())
    light = from_hsv(hue, float(rng.uniform(0.0, 0.12)), float(rng.uniform(0.9, 1.0)))
    dark = from_hsv(
        hue + float(rng.uniform(-0.1, 0.1)),
        float(rng.uniform(0.15, 0.6)),
        float(rng.uniform(0.2, 0.5)),
    )
    vivid = from_hsv(
        hue + float(rng.uniform(0.3, 0.7)),
        float(rng.uniform(0.3, 0.75)),
        float(rng.uniform(0.5, 0.88)),
    )
    main, trim, accent = (light, dark, vivid) if rng.random() < 0.55 else (dark, light, vivid)
    if rng.random() < 0.2:
        main, accent = vivid, main
    return Outfit(style=_choose(rng, OUTFITS), main=main, trim=trim, accent=accent)


def _random_accessories(rng: np.random.Generator, hair: Hair) -> tuple[Accessory, ...]:
    count = int(rng.choice([0, 1, 2], p=[0.45, 0.40, 0.15]))
    kinds = rng.choice(len(ACCESSORIES), size=count, replace=False)
    chosen: list[Accessory] = []
    on_top = hair.back == "buns"  # one thing on the crown is enough
    for index in sorted(int(kind) for kind in kinds):
        kind = ACCESSORIES[index]
        colour = from_hsv(
            float(rng.random()), float(rng.uniform(0.45, 0.85)), float(rng.uniform(0.55, 0.95))
        )
        side = -1 if rng.random() < 0.5 else 1
        if chosen:  # two things never sit on the same spot
            side = -chosen[-1].side
        if kind in ("horns", "cat_ears", "beret", "headband"):
            if on_top:
                continue
            on_top = True
        if kind == "cat_ears":
            colour = hair.colour
        elif kind == "horns":
            colour = from_hsv(float(rng.random()), 0.35, float(rng.uniform(0.2, 0.5)))
        chosen.append(Accessory(kind, colour, side))
    return tuple(chosen)


def random_identity(rng: np.random.Generator) -> Identity:
    """A new character drawn from `rng`."""
    hair = _random_hair(rng)
    # One number ties eyes, chin, nose and mouth together, so that proportions are coherent.
    age = float(rng.beta(1.6, 1.5))
    return Identity(
        hair=hair,
        eyes=_random_eyes(rng, hair.colour, age),
        face=_random_face(rng, age),
        outfit=_random_outfit(rng),
        accessories=_random_accessories(rng, hair),
    )
