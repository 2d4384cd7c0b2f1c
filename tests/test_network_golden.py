"""Networks that the original's values do not cover make what they made when recorded."""

from __future__ import annotations

import json

import pytest

from tests.record_network_golden import CASES, FILE, output, summary


@pytest.mark.parametrize("name", list(CASES))
def test_output_is_as_recorded(name: str) -> None:
    expected = json.loads(FILE.read_text())[name]
    found = summary(output(name))
    scale = expected["std"]
    assert found["shape"] == expected["shape"]
    for key in ("mean", "std", "values"):
        assert found[key] == pytest.approx(expected[key], abs=2e-5 * scale, rel=0), key
