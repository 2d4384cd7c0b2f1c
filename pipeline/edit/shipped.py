"""The model that ships with the code: what the studio opens with."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts.store import Store
from pipeline.errors import ArtifactError

# The best first.
NAMES = ("starter", "start-64")


def shipped_model(assets: Path) -> Path:
    """The folder, below `assets`, of the best model that ships with the code."""
    for name in NAMES:
        if (assets / name / "architecture.json").is_file():
            return assets / name
    raise ArtifactError(f"No model ships in {assets}; name one with --model model/NAME.")


def shown_name(store: Store, model: Path) -> str:
    """What a page calls the model in that folder: its reference, else the folder's name."""
    for artifact in store.artifacts("model"):
        if artifact.folder.resolve() == model.resolve():
            return str(artifact)
    return model.name
