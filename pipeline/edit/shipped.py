"""The model that ships with the code: what the studio opens with."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ArtifactError

# The best first.
NAMES = ("starter", "start-64")


def shipped_model(assets: Path) -> Path:
    """The folder, below `assets`, of the best model that ships with the code."""
    for name in NAMES:
        if (assets / name / "architecture.json").is_file():
            return assets / name
    raise ArtifactError(f"No model ships in {assets}; name one with --model model/NAME.")
