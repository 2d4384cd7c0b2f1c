"""How a dataset's crops were framed, so that an upload can be framed alike.

Preprocess writes the rule, train copies it into the model, invert reads it there. Knows nothing
about how faces are found.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import ModelError

FILE = "crop_rule.json"
FORMAT = 1


@dataclass(frozen=True)
class CropRule:
    """face_widths: side of the crop in face widths; eye_height: the eyes' place in it, as a share
    from its top; background: colour behind transparent pixels, "#rrggbb" or a name."""

    face_widths: float
    eye_height: float
    background: str

    def face_box(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of a height x width crop that hold the inner face, from the brows to the
        chin: a square of one face width, as far as it lies within the crop."""
        side = round(width / self.face_widths)
        top = round(self.eye_height * height - side / 3)
        left = round((width - side) / 2)
        return (
            slice(max(top, 0), min(top + side, height)),
            slice(max(left, 0), min(left + side, width)),
        )

    def write(self, folder: Path) -> None:
        """Write the rule into a dataset or model folder."""
        content = {"format": FORMAT, **asdict(self)}
        (folder / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_crop_rule(folder: Path) -> CropRule | None:
    """The rule in a dataset or model folder; None where it has none (an imported model, say)."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ModelError(
                f"{path} is of format {content['format']}, but this program reads format {FORMAT}; "
                "use the program that wrote it, or a newer one."
            )
        return CropRule(
            float(content["face_widths"]), float(content["eye_height"]), str(content["background"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged ({error}); make the artifact again.") from error
