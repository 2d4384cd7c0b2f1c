"""Devices by name, and what is said of them."""

from __future__ import annotations

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
