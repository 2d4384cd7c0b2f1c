"""Which character a picture shows, as its source says: by sub-folder, or by a zip's own labels.

Knows nothing about faces.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pipeline.data.image_zip import LABELS_FILE, read_class_numbers
from pipeline.errors import DataError

# The StyleGAN tools' own folders, a thousand images each, say nothing.
_COUNTING = re.compile(r"\d{5}")


def characters_of(names: Sequence[str], source: Path | None) -> list[str] | None:
    """The character of each picture; None where the source tells no two apart.

    names: of the pictures in the source, with forward slashes; source: its folder or zip.
    """
    labels = None if source is None else zip_labels(source)
    found = by_folder(names) if labels is None else by_label(names, labels)
    return found if found is not None and len(set(found)) > 1 else None


def by_folder(names: Sequence[str]) -> list[str] | None:
    """The sub-folder each lies in, below what all have in common; None if one lies in none."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    while folders and all(folder and folder[0] == folders[0][0] for folder in folders):
        folders = [folder[1:] for folder in folders]
    if not folders or not all(folders):
        return None
    found = [folder[0] for folder in folders]
    return None if all(_COUNTING.fullmatch(name) for name in found) else found


def by_label(names: Sequence[str], labels: dict[str, int]) -> list[str] | None:
    """The class number of each, as text that sorts as the numbers do; None if one has none."""
    if not all(name in labels for name in names):
        return None
    digits = len(str(max(labels.values())))
    return [f"{labels[name]:0{digits}d}" for name in names]


def zip_labels(source: Path) -> dict[str, int] | None:
    """Class numbers by member in a zip of the StyleGAN tools; None if it has none."""
    if not source.is_file() or not zipfile.is_zipfile(source):
        return None
    try:
        with zipfile.ZipFile(source) as archive:
            if LABELS_FILE not in archive.namelist():
                return None
            return read_class_numbers(archive, source)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{source} cannot be read as a zip ({error}); copy it again.") from error
