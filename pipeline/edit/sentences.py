"""What the studio says when something cannot be done: an English sentence, and a code with values.

Whoever has other languages (the page) says the sentence of that code in its own words; everybody
else has the English one. None of them shows where files of the server lie (see `pathless`).
"""

from __future__ import annotations

import re

from pipeline.errors import DataError

SENTENCES = {
    "no_face_yet": "There is no face to edit yet; pick a sample or drop a picture.",
    "no_picture": "There is no picture yet; drop one first.",
    "bad_picture": "This picture cannot be used: {why}. Give a PNG, JPEG or WebP file.",
    "no_picture_file": "This file is no picture; give a PNG, JPEG or WebP file.",
    "many_pixels": "This picture has more than {most} megapixels; make it smaller first.",
    "slow_picture": "The picture takes too long to read; save it as a plain PNG.",
    "unread": "No face can be read in this picture, so it can be given no emotion; drag points.",
    "no_emotion": "There is no emotion yet; choose one first.",
    "sheet_of_drawing": "A sheet is made of a drawing; bring one.",
    "busy": "Something is being saved already; wait until it is.",
    "no_points": "There is no point to drag yet: click a point, then where it is to go.",
    "many_points": "There are {most} points already; take one away first.",
    "full": "This session can hold no more pictures; save it and begin another one.",
    "no_undo": "There is nothing to undo.",
    "no_redo": "There is nothing to redo.",
    "no_frame": "There is no picture {number} in this session.",
    "no_node": "There is nothing with the number {number} in this session.",
    "bad_recipe": "This recipe cannot be used: {why}.",
    "bad_session": "This is no session file of the studio: {why}.",
    "slow_session": "The session file takes too long to read.",
    "other_model": "This session was made with the model {name}, which is not here; import that "
    "model first.",
    "bad_model": "This model cannot be used: {why}",
    "no_model": "There is no model {name} here; choose one listed.",
    "gone": "There is no such session any more.",
    "places": "All {most} places are taken; try again in a few minutes.",
    "empty_file": "This file is empty; choose another one.",
    "disk_full": "The studio's disk is full; ask whoever runs it to make room.",
    "in_part": "The file came only in part; send it again.",
    "too_large": "{name} is larger than {mb} MB.",
    "model_name": "A model's name has letters, digits, dots, dashes; at most 64.",
    "not_saved": "Nothing has been saved yet.",
    "no_file": "There is no such file.",
    "unforeseen": "Something unforeseen happened ({why}).",
}
# An absolute path: at least two names after slashes.
_PATH = re.compile(r"(?<![\w.])(?:/[^\s/'\"(),;:]+){2,}/?")


class Told(DataError):
    """The sentence of `code`, with `values` in its holes."""

    def __init__(self, code: str, **values: object) -> None:
        self.code = code
        self.values = {name: pathless(str(value)) for name, value in values.items()}
        super().__init__(SENTENCES[code].format(**self.values))


def said(error: BaseException) -> dict[str, object]:
    """What a page is told of an error: its message, and code and values where it has them."""
    if isinstance(error, Told):
        return {"message": str(error), "code": error.code, "values": error.values}
    return {"message": pathless(str(error))}


def pathless(text: str) -> str:
    """The text with the last names of absolute paths instead of the paths."""
    return _PATH.sub(lambda found: found.group().rstrip("/").rsplit("/", 1)[-1], text)
