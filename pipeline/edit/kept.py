"""What can be taken home of the studio: the word in the address -> the file of the artifact.

A closed table, so that nothing a client says becomes a path. Knows names only.
"""

from __future__ import annotations

from pathlib import Path

# Of a saved edit.
KEPT = {
    "picture.png": "full.png",
    "face.png": "result.png",
    "before-after.png": "before_after.png",
    "film.mp4": "frames.mp4",
    "film.gif": "frames.gif",
    "film.webp": "frames.webp",
    "recipe.json": "recipe.json",
}
# Of an emotion sheet.
SHEET = {"sheet.png": "sheet.png", "loop.webp": "loop.webp", "loop.gif": "loop.gif"}


def there(folder: Path, table: dict[str, str]) -> list[str]:
    """The words of those files that the artifact has."""
    return [word for word, name in table.items() if (folder / name).is_file()]
