"""The pages in docs/ name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.stages import STAGES, Stage

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))

# Stages whose verb has another name.
VERBS = {"drag_bench": "bench-drag", "emotion_bench": "bench-emotions"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_road_names_every_stage_and_its_code(root: Path, stage: Stage) -> None:
    road = (root / "docs" / "road.md").read_text(encoding="utf-8")
    code = stage.run.split(":")[0].replace(".", "/") + ".py"
    (row,) = [line for line in road.splitlines() if line.startswith(f"| {stage.name} |")]
    assert code in row
    assert f"`make {VERBS.get(stage.name, stage.name)} " in row
    assert f"`{stage.produces}/ganyu`" in row
