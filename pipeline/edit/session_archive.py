"""A session as one file: saved, opened again in any studio that has its model, or replayed.

A zip, called *.animedrag:

    about.json            format, the model's name and digest, what is edited
    recipe.json           the points and the mask, see `recipe`
    session.json, nodes/, frames/     see `session_file`
    upload.png            the drawing, where one is edited
    inversion/            the files of its inversion, manifest and all

`pack` writes it, `unpack` reads it. A file from elsewhere is unpacked by a process that is bounded
(see `sandbox`); names are of a closed pattern and every file is what its name says before anything
else opens it.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from pipeline import files
from pipeline.edit import sandbox
from pipeline.edit.sandbox import TooSlow
from pipeline.edit.sentences import Told
from pipeline.errors import DataError

FORMAT = 1
SUFFIX = ".animedrag"
ABOUT, RECIPE = "about.json", "recipe.json"
INVERSION = "inversion"
# A session of 5000 frames has three files for each.
MOST_FILES = 20_000
MOST_BYTES = 2 * 2**30
# Of one file, by its kind: latents have some 40 KB, a state holds feature maps and a mask.
# A picture of as many megapixels as may be uploaded has up to 120 MB as a PNG.
MOST_OF = {".npy": 2**21, ".json": 2**26, ".jsonl": 2**26, ".png": 2**27, ".safetensors": 2**29}
# Of a frame: that of a model, the largest of which draw 1024 pixels.
MOST_SIDE = 2048
SECONDS = 90
_NAME = re.compile(
    r"(about|recipe|session)\.json|upload\.png|nodes/\d{5,9}\.safetensors"
    r"|frames/\d{6,9}\.(npy|png)|inversion/[A-Za-z0-9_-]{1,40}\.(json|jsonl|safetensors|png)",
    re.ASCII,
)


def pack(
    folder: Path,
    about: Mapping[str, Any],
    recipe: Mapping[str, Any],
    inversion: Path | None,
    archive: Path,
) -> None:
    """Write the session in `folder` (and the inversion that it is of) as one file."""
    texts = {ABOUT: {"format": FORMAT, **about}, RECIPE: recipe}
    members = {"session.json": folder / "session.json"}
    for name in ("nodes", "frames"):
        members |= {f"{name}/{path.name}": path for path in sorted((folder / name).iterdir())}
    if inversion is not None:
        members["upload.png"] = folder / "upload.png"
        members |= {f"{INVERSION}/{path.name}": path for path in sorted(inversion.iterdir())}
    with files.put(archive) as aside, zipfile.ZipFile(aside, "w") as target:
        for name, content in texts.items():
            target.writestr(name, json.dumps(content), zipfile.ZIP_DEFLATED)
        for name, path in members.items():
            if _NAME.fullmatch(name):  # nothing that was written half
                packed = path.suffix == ".png"
                target.write(path, name, zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED)


def unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """Unpack a session file into an empty folder, in a bounded process; its about.json."""
    try:
        sandbox.run(__name__, str(archive), str(folder), seconds=SECONDS)
    except TooSlow:
        raise Told("slow_session") from None
    except DataError as error:
        raise Told("bad_session", why=error) from None
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return about


def _unpack(archive: Path, folder: Path) -> None:
    """The work itself; DataError, a phrase, for whatever is not as it should be."""
    try:
        with zipfile.ZipFile(archive) as source:
            members = source.infolist()
            if len(members) > MOST_FILES:
                raise DataError("it holds too many files")
            left = MOST_BYTES
            for member in members:
                if not _NAME.fullmatch(member.filename):
                    raise DataError(f"it holds {member.filename[:60]!r}, which no session has")
                left = _extract(source, member, folder, left)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"it is damaged ({error})") from error
    for path in sorted(folder.rglob("*.*")):
        _check(path)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        whole = about["format"] == FORMAT and (folder / "session.json").is_file()
        kind, _ = about["subject"]["kind"], about["model"]["digest"] + about["model"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"it does not say what it is of ({error})") from error
    if not whole or kind not in ("seed", "drawing"):
        raise DataError("it is not whole, or of a newer studio")


def _extract(source: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, left: int) -> int:
    """Write one member; bytes that are left for the others."""
    path = folder / member.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    with source.open(member) as stream, path.open("xb") as target:
        own = MOST_OF[path.suffix]
        while chunk := stream.read(2**20):
            left, own = left - len(chunk), own - len(chunk)
            if min(left, own) < 0:
                raise DataError(f"{path.name} in it is too large")
            target.write(chunk)
    return left


def _check(path: Path) -> None:
    """That the file is what its name says."""
    try:
        if path.suffix == ".png":
            with Image.open(path, formats=("PNG",)) as image:
                if path.parent.name == "frames" and max(image.size) > MOST_SIDE:
                    raise DataError(f"{path.name} is larger than {MOST_SIDE} pixels")
                if image.width * image.height > sandbox.MAX_MEGAPIXELS * 1e6:
                    raise DataError(f"{path.name} has too many pixels")
                image.load()
        elif path.suffix == ".npy":
            np.load(path, allow_pickle=False)
        elif path.suffix == ".safetensors":
            with safe_open(path, "np") as tensors:
                tensors.keys()
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, SafetensorError, Image.DecompressionBombError) as e:
        raise DataError(f"{path.name} is damaged ({e})") from e


def _main() -> None:
    archive, folder = map(Path, sys.argv[1:3])
    Image.init()
    sandbox.bind(SECONDS, written=MOST_BYTES)
    try:
        _unpack(archive, folder)
    except DataError as reason:
        print(str(reason).replace("\n", " "), file=sys.stderr)
        sys.exit(sandbox.REFUSED)


if __name__ == "__main__":
    _main()
