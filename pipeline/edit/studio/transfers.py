"""Sessions and models that leave and enter the studio as files.

What came lies in the session's folder under a name of the server's; what a page called it is used
for nothing but the name of a model.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts.reference import check_name
from pipeline.edit import recipe as recipes
from pipeline.edit import session_archive
from pipeline.edit.sentences import Told
from pipeline.edit.session_file import SessionFile
from pipeline.edit.studio import drawings, home, reading
from pipeline.edit.studio.makers import Header, Makers, Wanted
from pipeline.errors import AnimedragError, DataError, ModelError
from pipeline.invert.inversion import model_digest

if TYPE_CHECKING:
    from pipeline.edit.studio.desk import Desk

# Names of what lies in a session's folder for the server to give, and as it was given to it.
PACKED = f"session{session_archive.SUFFIX}"
BROUGHT = f"brought{session_archive.SUFFIX}"
BROUGHT_MODELS = "brought"


def pack(desk: Desk) -> None:
    """Write the session as one file, and say so."""
    session, engine = desk.ready()
    assert desk.subject is not None
    desk.save_session()
    model = desk.makers.model(desk.model_reference)
    kept = {key: value for key, value in desk.subject.about.items() if key != "inversion"}
    about = {
        "model": {"name": desk.model_reference, "digest": model_digest(model)},
        "subject": kept,
    }
    recipe = recipes.to_json(home.recipe_of(session, engine))
    path = desk.folder / PACKED
    session_archive.pack(desk.folder, about, recipe, desk.subject.inversion, path)
    desk.say({"type": "packed", "bytes": path.stat().st_size}, b"")


def reopen(desk: Desk) -> None:
    """Go on with the session of a file that was brought, in place of the present one."""
    with _Unpacked(desk) as folder:
        about = folder.about
        reference = _model_of(about, desk.makers)
        kept = about["subject"]
        # Refused here rather than half-way: what is edited stays then, with its own model.
        seed = None
        if kept["kind"] == "drawing":
            _check_drawing(folder.path)
        else:
            seed = reading.whole({"type": "session file", "seed": kept.get("seed")}, "seed")
        before = desk.model_reference
        desk.load_model(reference)
        try:
            _check_session(desk, folder.path)
            if kept["kind"] == "drawing":
                drawings.of_inversion(desk, folder.path / session_archive.INVERSION)
        except AnimedragError:
            desk.load_model(before)
            raise
        desk.leave()
        subject: Header = {"kind": "seed", "seed": seed}
        if kept["kind"] == "drawing":
            home_of_it = desk.folder / session_archive.INVERSION
            shutil.rmtree(home_of_it, ignore_errors=True)
            shutil.move(folder.path / session_archive.INVERSION, home_of_it)
            shutil.move(folder.path / "upload.png", desk.folder / "upload.png")
            subject = {"kind": "drawing", "inversion": str(home_of_it)}
        for name in ("nodes", "frames"):
            shutil.rmtree(desk.folder / name, ignore_errors=True)
            shutil.move(folder.path / name, desk.folder / name)
        shutil.move(folder.path / "session.json", desk.folder / "session.json")
    desk.file = SessionFile(desk.folder)
    desk.reopen({"model": reference, "subject": subject})
    desk.write_about()


def replay(desk: Desk) -> None:
    """Take the points and the mask of a session file that was brought."""
    with _Unpacked(desk) as folder:
        try:
            recipe = json.loads((folder.path / session_archive.RECIPE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise DataError("This session file holds no points; save it again.") from None
    desk.use_recipe(recipe)


def import_model(desk: Desk, name: str, wanted: Wanted) -> None:
    """Make a model of a network pickle that was brought, and change to it."""
    check_name(name)
    path = desk.folder / BROUGHT_MODELS / f"{name}.pkl"
    if not path.is_file():
        raise DataError("There is no model file yet; choose one.")
    desk.say({"type": "phase", "phase": "importing"}, b"")
    try:
        reference = desk.makers.import_model(path, name, wanted)
    except ModelError as error:
        raise Told("bad_model", why=error) from None
    finally:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another one is just coming in
            path.parent.rmdir()
    desk.say({"type": "imported", "reference": reference}, b"")
    desk.change_model(reference)


def _model_of(about: Header, makers: Makers) -> str:
    reference = makers.model_of_digest(about["model"]["digest"])
    if reference is None:
        raise Told("other_model", name=str(about["model"]["name"])[:80])
    return reference


def _check_drawing(folder: Path) -> None:
    """DataError unless an unpacked session of a drawing has its inversion and the drawing."""
    there = (folder / session_archive.INVERSION / "inversion.json", folder / "upload.png")
    if not all(path.is_file() for path in there):
        raise DataError("This session file lacks the drawing that it is of.")


def _check_session(desk: Desk, folder: Path) -> None:
    """DataError unless an unpacked session is whole and fits the desk's model."""
    wanted = (1, desk.generator.num_ws, desk.generator.w_dim)
    session = SessionFile(folder).read(str(desk.device))
    if session is None or any(frame.ws.shape != wanted for frame in session.frames):
        raise DataError("This session file is of another kind of model than it says.")


class _Unpacked:
    """What was brought, unpacked into a folder that goes afterwards."""

    def __init__(self, desk: Desk) -> None:
        self.path = desk.folder / "unpacked"
        self._archive = desk.folder / BROUGHT

    def __enter__(self) -> _Unpacked:
        if not self._archive.is_file():
            raise DataError("There is no session file yet; choose one.")
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        try:
            self.about = session_archive.unpack(self._archive, self.path)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._archive.unlink(missing_ok=True)
