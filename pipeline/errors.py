"""Errors whose message is one clear sentence for the user: what was wrong, where, what to do.

Everything raised on purpose for bad input derives from `AnimedragError`; the command lines print
the message without a traceback and exit with `exit_code`. Anything else that escapes is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AnimedragError(Exception):
    """Base of every error that is about the user's input, files or machine."""

    exit_code = 2
    # Whether the user has read the message already.
    told = False


class ConfigError(AnimedragError):
    """A setting is misspelt, missing or impossible."""


class DataError(AnimedragError):
    """Drawings or a dataset that cannot be used."""


class ArtifactError(AnimedragError):
    """An artifact is missing, damaged, or referred to wrongly."""


class ModelError(AnimedragError):
    """A network file or architecture that cannot be used."""


class TrainingError(AnimedragError):
    """Training cannot go on (for example: the loss is not finite)."""


class MachineError(AnimedragError):
    """This machine lacks what was asked of it."""


class Interrupted(AnimedragError):
    """The user asked to stop; everything needed to go on is saved."""

    exit_code = 130


def nearest(value: object, valid: Iterable[object]) -> str:
    """The valid value closest in spelling to `value`, as text (the first one if none is close)."""
    names = [str(item) for item in valid]
    close = difflib.get_close_matches(str(value), names, n=1, cutoff=0.0)
    return close[0] if close else ""


def check_choice(name: str, value: object, valid: Iterable[object]) -> None:
    """Raise ConfigError unless `value` is one of `valid`; the message names the nearest one."""
    choices = list(valid)
    if value not in choices:
        listed = ", ".join(str(item) for item in choices)
        raise ConfigError(
            f"{name}={value} is not possible; the nearest valid value is "
            f"{nearest(value, choices)} (valid: {listed})."
        )


def check_range(
    name: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    *,
    low_open: bool = False,
) -> None:
    """Raise ConfigError unless low <= value <= high (low < value if `low_open`).

    `None` leaves a side unbounded. The message names the nearest valid value.
    """
    too_low = low is not None and (value <= low if low_open else value < low)
    too_high = high is not None and value > high
    # `not (value == value)` is the NaN test.
    if too_low or too_high or value != value:
        lower = "-inf" if low is None else f"{low:g}"
        upper = "inf" if high is None else f"{high:g}"
        bound = high if too_high else low
        hint = (
            f"above {bound:g}"
            if (too_low and low_open)
            else f"{bound:g}"
            if bound is not None
            else "a number"
        )
        raise ConfigError(
            f"{name}={value} is out of range; use {hint} "
            f"(valid: {'(' if low_open else '['}{lower}, {upper}])."
        )
