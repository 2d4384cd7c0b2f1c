"""How artifacts are called: `model/ganyu`, `model/ganyu:v3`, `model/ganyu:latest`.

Knows the spelling only, nothing about what exists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import ArtifactError, nearest

KINDS = (
    "dataset",
    "model",
    "reader",
    "encoder",
    "inversion",
    "directions",
    "edit",
    "emotions",
    "animation",
    "batch",
    "evaluation",
    "samples",
    "drag_bench",
    "emotion_bench",
    "report",
)

# Names become folder names: no separators, nothing hidden, no leading dash that a shell tool
# would take for an option, and short enough for every file system.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_VERSION = re.compile(r"v([1-9][0-9]{0,8})", re.ASCII)


@dataclass(frozen=True, order=True)
class Reference:
    """A kind and a name, and the version if one was named (None: the latest)."""

    kind: str
    name: str
    version: int | None = None

    def __str__(self) -> str:
        version = "" if self.version is None else f":v{self.version}"
        return f"{self.kind}/{self.name}{version}"


def parse(text: str) -> Reference:
    """Read a reference; ArtifactError says what is wrong with one that cannot be read."""
    body, colon, version_text = text.partition(":")
    kind, slash, name = body.partition("/")
    if not slash or not name or not kind:
        raise ArtifactError(
            f"{text!r} is no artifact reference; write kind/name or kind/name:v3, "
            f"for example {nearest(kind or 'model', KINDS)}/ganyu."
        )
    if kind not in KINDS:
        raise ArtifactError(
            f"{text!r} names no kind of artifact; the nearest is {nearest(kind, KINDS)}/{name} "
            f"(kinds: {', '.join(KINDS)})."
        )
    head, _, tail = name.partition("/")
    if version_of(tail) is not None and not colon:
        raise ArtifactError(f"{text!r} is no artifact reference; write {kind}/{head}:{tail}.")
    check_name(name)
    if not colon or version_text == "latest":
        return Reference(kind, name)
    version = version_of(version_text)
    if version is None:
        raise ArtifactError(
            f"{text!r} names no version; write {kind}/{name}:v1 or {kind}/{name}:latest."
        )
    return Reference(kind, name, version)


def check_name(name: str) -> None:
    """Raise ArtifactError unless `name` can be the name of an artifact."""
    if not _NAME.fullmatch(name):
        raise ArtifactError(
            f"{name!r} cannot name an artifact; use letters, digits, '.', '_' and '-', at most 64, "
            f"beginning with a letter or digit, for example {_suggestion(name)!r}."
        )


def version_of(text: str) -> int | None:
    """The number in "v3", None if `text` is no version."""
    match = _VERSION.fullmatch(text)
    return int(match.group(1)) if match else None


def _suggestion(name: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name, flags=re.ASCII).strip("-._")[:64]
    return cleaned or "ganyu"
