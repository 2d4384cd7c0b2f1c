"""Settings of the report stage. Plain values only; knows nothing of folders or of HTML."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError, check_range


@dataclass
class ReportConfig:
    """What one report shows; the defaults and their reasons are in conf/stages/report.yaml."""

    # Name of the report, and of the character in its title.
    name: str = "character"
    # References to artifacts ("model/ganyu", "model/ganyu:v3", a path) or null: left out.
    dataset: str | None = None
    model: str | None = None
    inversion: str | None = None
    edit: str | None = None
    # Sample grids shown between the first and the last one, both included.
    sample_grids: int = 6
    # Frames of the drag shown with their handles and targets, first and last included.
    key_frames: int = 6
    # Longest side in pixels of the large pictures (contact sheet, last samples, full picture).
    picture_px: int = 1600
    # Largest animation embedded, in MiB (base64 makes it a third larger in the page).
    video_mib: float = 4.0

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("name is empty; give the report a name, for example name=ganyu.")
        check_range("sample_grids", self.sample_grids, 1, 24)
        check_range("key_frames", self.key_frames, 2, 24)
        check_range("picture_px", self.picture_px, 128, 4096)
        check_range("video_mib", self.video_mib, 0, 64)
