"""Who is drawn: everything about a character that stays the same in every picture of it.

Plain values; how they look is written in the modules that draw. `random_identity` draws one from
a numpy Generator, weighted towards combinations that sit well together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.data.painter.colours import Colour, from_hex, from_hsv, lighten, mix, shade

FRINGES = ("tufts", "swept", "parted", "blunt", "messy", "centre", "wispy")
BACK_HAIR = (
    "bob",
    "short",
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
    gloss: str = "ring"  # highlight: ring | streaks | soft
    mirrored: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Eyes:
    """Eyes: sizes in head units."""

    colour: Colour = (0.35, 0.45, 0.85)
    second_colour: Colour | None = None  # of the picture-right eye
    width: float = 0.305  # half width
    height: float = 0.275  # half height
    spacing: float = 0.56  # centre from the face's middle
    tilt: float = 0.0  # -1 outer corners droop .. 1 rise
    roundness: float = 0.5
    lid: float = 1.0  # thickness of the upper lid's line
    lashes: int = 2
    iris: float = 0.68  # iris width relative to the eye's
    style: str = "gem"
    slit: bool = False


@dataclass(frozen=True)
class Face:
    """Face: shape factors around 1 or 0, skin colour."""

    skin: Colour = (1.0, 0.89, 0.82)
    chin: float = 1.02  # height of the chin below the eyes
    jaw: float = 0.0  # -1 pointed .. 1 round
    cheek: float = 0.0  # -1 slim .. 1 full
    nose: str = "tick"  # tick | dot | shade
    mouth_width: float = 0.17  # half width
    mouth_height: float = 0.66  # below the eyes
    fang: bool = False
    pointed_ears: bool = False
    mole: int = 0  # 0 none, 1 under the left eye, 2 under the right eye, 3 by the mouth
    brow_thickness: float = 1.0


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
    ("#3b3140", 2.0), ("#4a3a3c", 1.6), ("#6b4a3e", 1.8), ("#8a5f45", 1.6), ("#a9774f", 1.2),
    ("#e8c778", 1.6), ("#f2dca0", 1.2), ("#d9985a", 1.0), ("#c65b45", 0.9), ("#b23a48", 0.9),
    ("#f0a3b8", 1.2), ("#e27fa0", 0.8), ("#b28ad0", 1.0), ("#7e66b5", 1.0), ("#8fa3e0", 1.3),
    ("#6f9fe0", 1.1), ("#4e6fb8", 0.9), ("#8fd0e6", 0.9), ("#7fc4b2", 0.8), ("#8fbf7a", 0.6),
    ("#dfe3ee", 1.3), ("#c3c8da", 0.9), ("#f4efe9", 0.8), ("#5d6470", 0.6),
)  # fmt: skip

_SKINS: tuple[tuple[str, float], ...] = (
    ("#fff0e4", 3.0), ("#ffe9da", 3.0), ("#ffe2cf", 2.0), ("#f8d5bb", 1.0), ("#e8b793", 0.5),
    ("#c68e6a", 0.35), ("#9a6a4e", 0.2),
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
    if rng.random() < 0.22:
        hue_shift = float(rng.uniform(-0.12, 0.12))
        tip = mix(shade(colour, 0.15), from_hsv(0.62 + hue_shift, 0.55, 0.85), 0.6)
    elif rng.random() < 0.15:
        tip = lighten(colour, 0.55)
    back = _choose(rng, BACK_HAIR)
    # Loose long hair may fall over the shoulders in front as well.
    longest = 2.3 if back in ("long", "wavy") else 1.4
    return Hair(
        colour=colour,
        tip_colour=tip,
        fringe=_choose(rng, FRINGES),
        fringe_length=float(rng.uniform(-0.06, 0.1)),
        part=float(rng.uniform(-0.4, 0.4)),
        back=back,
        side_length=float(rng.uniform(0.6, longest)),
        volume=float(rng.uniform(0.96, 1.08)),
        curl=float(rng.random() ** 2),
        ahoge=float(rng.uniform(0.5, 1.0)) if rng.random() < 0.35 else 0.0,
        gloss=_choose(rng, ("ring", "ring", "streaks", "soft")),
        mirrored=bool(rng.random() < 0.5),
        seed=int(rng.integers(2**31)),
    )


def _random_eyes(rng: np.random.Generator, hair: Colour) -> Eyes:
    def iris() -> Colour:
        if rng.random() < 0.18:
            return shade(hair, 0.1)
        # Saturated and mid-bright: pale irises look blind beside white highlights.
        return from_hsv(
            float(rng.random()), float(rng.uniform(0.5, 0.85)), float(rng.uniform(0.6, 0.88))
        )

    height = float(rng.uniform(0.245, 0.30))
    return Eyes(
        colour=iris(),
        second_colour=iris() if rng.random() < 0.04 else None,
        width=float(rng.uniform(0.28, 0.315)),
        height=height,
        spacing=float(rng.uniform(0.54, 0.58)),
        tilt=float(rng.uniform(-0.6, 1.0)),
        roundness=float(rng.random()),
        lid=float(rng.uniform(0.85, 1.25)),
        lashes=int(rng.integers(1, 4)),
        iris=float(rng.uniform(0.64, 0.73)),
        style=_choose(rng, IRIS_STYLES),
        slit=bool(rng.random() < 0.06),
    )


def _random_face(rng: np.random.Generator) -> Face:
    return Face(
        skin=_jitter(rng, _weighted(rng, _SKINS), 0.01),
        chin=float(rng.uniform(0.96, 1.07)),
        jaw=float(rng.uniform(-0.8, 0.9)),
        cheek=float(rng.uniform(-0.8, 0.8)),
        nose=_choose(rng, ("tick", "dot", "shade")),
        mouth_width=float(rng.uniform(0.14, 0.2)),
        mouth_height=float(rng.uniform(0.63, 0.69)),
        fang=bool(rng.random() < 0.15),
        pointed_ears=bool(rng.random() < 0.1),
        mole=int(rng.integers(1, 4)) if rng.random() < 0.12 else 0,
        brow_thickness=float(rng.uniform(0.75, 1.35)),
    )


def _random_outfit(rng: np.random.Generator) -> Outfit:
    hue = float(rng.random())
    light = from_hsv(hue, float(rng.uniform(0.0, 0.12)), float(rng.uniform(0.9, 1.0)))
    dark = from_hsv(
        hue + float(rng.uniform(-0.1, 0.1)),
        float(rng.uniform(0.3, 0.7)),
        float(rng.uniform(0.25, 0.55)),
    )
    vivid = from_hsv(
        hue + float(rng.uniform(0.3, 0.7)),
        float(rng.uniform(0.5, 0.85)),
        float(rng.uniform(0.65, 0.95)),
    )
    main, trim, accent = (light, dark, vivid) if rng.random() < 0.55 else (dark, light, vivid)
    if rng.random() < 0.2:
        main, accent = vivid, main
    return Outfit(style=_choose(rng, OUTFITS), main=main, trim=trim, accent=accent)


def _random_accessories(rng: np.random.Generator, hair: Hair) -> tuple[Accessory, ...]:
    count = int(rng.choice([0, 1, 2], p=[0.35, 0.45, 0.2]))
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
    return Identity(
        hair=hair,
        eyes=_random_eyes(rng, hair.colour),
        face=_random_face(rng),
        outfit=_random_outfit(rng),
        accessories=_random_accessories(rng, hair),
    )
