"""The table of operators, types, layouts and derivatives on every device that is here.

On a machine with a GPU the same lines run the CUDA kernels, in another stream and in a graph too.
"""

from __future__ import annotations

import pytest
import torch

from scripts.gpu_checks import correctness
from torch_utils import native

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("layout", correctness.LAYOUTS)
@pytest.mark.parametrize("case", correctness.cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("device", DEVICES)
def test_operators_equal_plain_torch_in_float64(
    device: str, case: correctness.Case, layout: str
) -> None:
    place = torch.device(device)
    status = native.status_on(place)
    if not status.loaded:
        pytest.skip(f"compiled operators on {device}: {status.reason}")
    for dtype in correctness.dtypes(place):
        outcome = correctness.run(place, case, dtype, layout)
        assert outcome.passed, outcome
