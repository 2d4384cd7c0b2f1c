"""The framing of a dataset's crops, on its way to the model and to uploads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.crop_rule import FILE, CropRule, read_crop_rule
from pipeline.errors import ModelError


@given(st.floats(0.8, 6), st.floats(0.1, 0.9), st.sampled_from(["#ffffff", "skyblue"]))
def test_written_rules_read_back(
    tmp_path_factory: pytest.TempPathFactory, widths: float, height: float, background: str
) -> None:
    folder = tmp_path_factory.mktemp("rule")
    rule = CropRule(widths, height, background)
    rule.write(folder)
    assert read_crop_rule(folder) == rule


def test_a_folder_without_a_rule_has_none(tmp_path: Path) -> None:
    assert read_crop_rule(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 1, "face_widths": "wide"}'])
def test_a_damaged_rule_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ModelError, match="damaged"):
        read_crop_rule(tmp_path)


def test_a_rule_of_another_format_says_so(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"format": 2}')
    with pytest.raises(ModelError, match="format 2"):
        read_crop_rule(tmp_path)
