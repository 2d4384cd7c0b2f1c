"""How to fine-tune on so many images: a table, and what it rests on. Pure; knows no settings.

Few images are learned by heart: the discriminator soon knows them all, and the generator copies
them. Every column of the table holds that back, and is a heuristic rather than a law:

    augmentation    Karras et al. 2020b (ADA): the smaller the set, the stronger the augmentation
                    that its discriminator needs. A short run has no time to find that strength
                    from 0 at the pace of a long one, so it starts above 0 and moves five times as
                    fast (100 thousand images from 0 to 1).
    freeze_d        Mo et al. 2020 (FreezeD): the discriminator's layers next to the image know
                    edges and colours of any drawing, so they are kept; half of all layers for the
                    smallest sets.
    freeze_mapping  As Back 2021 (FreezeSG) keeps the style vectors: latents keep what they mean (a
                    smile stays a smile), and a handful of images cannot draw them all together.
    rates, gamma    Lower rates and a larger R1 take the same way in smaller steps, so that more
                    snapshots lie between the base and the copies. The factors are our own.
    kimg            Each image is then seen some hundreds of times or more. The best snapshot is
                    what is published, so a run may be too long, but not too short.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """What is taken where the settings say nothing.

    kimg: length in thousand images; lr_factor, gamma_factor: of the architecture's usual values;
    augment_p, augment_speed_kimg: strength at the start, thousand images from 0 to 1;
    freeze_d_share: of the discriminator's convolutions, from the image on; ema_share: the averaged
    generator's half-life is at most this share of the whole run; snapshots: over the whole run.
    """

    kimg: float
    lr_factor: float = 1.0
    gamma_factor: float = 1.0
    augment_p: float = 0.0
    augment_speed_kimg: float = 500.0
    freeze_d_share: float = 0.0
    freeze_mapping: bool = False
    ema_share: float = 1.0
    snapshots: int = 50


# Training from scratch: everything as usual for the architecture.
NO_ADVICE = Advice(kimg=1000.0)

# Up to so many training images -> advice.
TABLE: tuple[tuple[float, Advice], ...] = (
    (50, Advice(40, 0.5, 4.0, 0.4, 100.0, 0.5, True, 0.05, 20)),
    (200, Advice(100, 0.5, 2.0, 0.4, 100.0, 0.5, True, 0.05, 20)),
    (2000, Advice(300, 0.75, 2.0, 0.3, 100.0, 0.5, False, 0.05, 30)),
    (10_000, Advice(1000, 1.0, 1.0, 0.1, 100.0, 0.25, False, 0.05, 50)),
    (float("inf"), Advice(3000, 1.0, 1.0, 0.0, 100.0, 0.0, False, 0.05, 100)),
)


def advise(images: int) -> Advice:
    """Advice for fine-tuning on `images` training images (1 or more)."""
    return next(advice for most, advice in TABLE if images <= most)
