"""Devices by name, and what is said of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError
from torch_utils import native
from torch_utils.device import choose_device, describe


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no GPU here"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


def test_denormals_are_rounded_to_zero_on_every_thread(root: Path) -> None:
    """In a process of its own: torch's threads take over how their starter rounds."""
    code = (
        "import torch\n"
        "from torch_utils.device import choose_device\n"
        "if {ready}: choose_device('cpu')\n"
        "tiny = torch.full([1 << 22], 2e-38)\n"
        "print(int((tiny * 0.1).count_nonzero()), bool((torch.full([8], 2e-38) * 0.9 > 0).all()))\n"
    )
    said = {}
    for ready in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", code.format(ready=ready)],
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        said[ready] = done.stdout.split()
    assert said == {False: [str(1 << 22), "True"], True: ["0", "True"]}


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_slow_operators_are_named_with_the_reason(
    loaded: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = native.Status(not loaded, "the other device")
    this = native.Status(loaded, "because")
    monkeypatch.setattr(native, "status", lambda: this if device == "cpu" else other)
    monkeypatch.setattr(native, "cuda_status", lambda: this if device == "cuda" else other)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    said = describe(torch.device(device))
    assert "because" in said
    assert ("a GPU" in said) is (device == "cuda")
    assert ("compiled" in said) is loaded
    assert ("slower" in said) is not loaded
