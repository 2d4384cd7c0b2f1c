"""The inversion on disk: what is read back is what was found, and nothing else is accepted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.data.align import CropTransform
from pipeline.errors import ArtifactError
from pipeline.invert import inversion, pti
from pipeline.invert.inversion import Inversion
from pipeline.models import checkpoint
from pipeline.models.stylegan2 import Generator


def generator(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    network = Generator(
        z_dim=16, c_dim=0, w_dim=16, img_resolution=16, img_channels=3, channel_base=256,
        channel_max=8, mapping_kwargs={"num_layers": 2},
    )  # fmt: skip
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.2)
    return network.eval().requires_grad_(False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    checkpoint.save(folder, {"G_ema": generator()})
    return folder


def tuned_by(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Any:
    network = generator()
    for name, parameter in network.synthesis.named_parameters():
        parameter.data = change(name, parameter.data)
    return network


def differences(tuned: Any, base: Any) -> dict[str, torch.Tensor]:
    """Changed parameters: tuned minus untuned."""
    before = dict(base.named_parameters())
    return {
        name: value.detach() - before[name]
        for name, value in tuned.named_parameters()
        if not torch.equal(value, before[name])
    }


def write(folder: Path, model: Path, tuned: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """An inversion whose tuned generator is `tuned`; returns ws and noise."""
    folder.mkdir()
    draws = torch.Generator().manual_seed(1)
    ws = torch.randn(1, tuned.num_ws, 16, generator=draws)
    noise = {
        name: torch.randn(value.shape, generator=draws)
        for name, value in pti.noise_maps(tuned).items()
    }
    pti.set_buffers(tuned, noise)
    base = generator()
    pti.set_buffers(base, noise)
    inversion.write_latents(folder / "latents.safetensors", ws, noise)
    info = {
        "format": 1,
        "model": {"digest": inversion.model_digest(model)},
        "alignment": {"transform": CropTransform(10.5, 12.25, 8, 8, 3.5).to_json()},
        "delta": inversion.write_delta(
            folder / "delta.safetensors", differences(tuned, base), base, [(ws, noise)]
        ),
    }
    (folder / "inversion.json").write_text(json.dumps(info))
    Image.new("RGB", (40, 30), (200, 10, 30)).save(folder / "source.png")
    Image.new("RGB", (16, 16), (1, 2, 3)).save(folder / "aligned.png")
    return ws, noise


@pytest.fixture
def small_change() -> Any:
    draws = torch.Generator().manual_seed(2)
    return tuned_by(
        lambda name, value: (
            value if "torgb" in name else value + 0.01 * torch.randn(value.shape, generator=draws)
        )
    )


def test_what_is_read_back_draws_the_same_picture(
    tmp_path: Path, model: Path, small_change: Any
) -> None:
    ws, noise = write(tmp_path / "inversion", model, small_change)
    loaded = Inversion.load(tmp_path / "inversion", model)
    assert torch.equal(loaded.ws, ws)
    for name, value in pti.noise_maps(loaded.generator).items():
        assert torch.equal(value, noise[name])
    wanted, found = (pti.picture_of(g, ws) for g in (small_change, loaded.generator))
    assert (wanted - found).abs().max() <= inversion.INVISIBLE_CHANGE
    assert not torch.equal(wanted, pti.picture_of(generator(), ws))
    assert loaded.transform == CropTransform(10.5, 12.25, 8, 8, 3.5)
    assert loaded.source.shape == (30, 40, 3)
    assert loaded.aligned[0, 0].tolist() == [1, 2, 3]
    assert loaded.info["delta"]["dtype"] == "float16"


def test_the_delta_holds_changed_tensors_only(
    tmp_path: Path, model: Path, small_change: Any
) -> None:
    write(tmp_path / "inversion", model, small_change)
    names = load_file(tmp_path / "inversion" / "delta.safetensors").keys()
    assert names
    assert all(name.startswith("synthesis.") and "torgb" not in name for name in names)


def test_a_change_that_half_precision_would_show_is_kept_whole(tmp_path: Path, model: Path) -> None:
    # Between 128 and 256 half precision counts in eighths.
    tuned = tuned_by(lambda name, value: value + 200.06 if name == "b16.torgb.bias" else value)
    write(tmp_path / "inversion", model, tuned)
    loaded = Inversion.load(tmp_path / "inversion", model)
    assert loaded.info["delta"]["dtype"] == "float32"
    bias = loaded.generator.synthesis.b16.torgb.bias
    assert torch.allclose(bias, tuned.synthesis.b16.torgb.bias)


def test_no_change_is_an_empty_delta(tmp_path: Path, model: Path) -> None:
    ws, _ = write(tmp_path / "inversion", model, generator())
    loaded = Inversion.load(tmp_path / "inversion", model)
    assert loaded.info["delta"]["tensors"] == 0
    assert loaded.ws.shape == ws.shape


def _other_model(folder: Path, model: Path) -> None:
    checkpoint.save(model, {"G_ema": generator(seed=5)})


def _no_model(folder: Path, model: Path) -> None:
    shutil.rmtree(model)


def _no_json(folder: Path, model: Path) -> None:
    (folder / "inversion.json").unlink()


def _broken_json(folder: Path, model: Path) -> None:
    (folder / "inversion.json").write_text("{")


def _list_json(folder: Path, model: Path) -> None:
    (folder / "inversion.json").write_text("[]")


def _newer(folder: Path, model: Path) -> None:
    _edit(folder, lambda info: info.update(format=3))


def _no_transform(folder: Path, model: Path) -> None:
    _edit(folder, lambda info: info.update(alignment={"transform": {"center_x": 1}}))


def _no_latents(folder: Path, model: Path) -> None:
    (folder / "latents.safetensors").unlink()


def _cut_delta(folder: Path, model: Path) -> None:
    content = (folder / "delta.safetensors").read_bytes()
    (folder / "delta.safetensors").write_bytes(content[: len(content) // 2])


def _foreign_delta(folder: Path, model: Path) -> None:
    save_file({"synthesis.b999.weight": torch.zeros(3)}, folder / "delta.safetensors")


def _misshapen_delta(folder: Path, model: Path) -> None:
    save_file({"synthesis.b16.torgb.bias": torch.zeros(7)}, folder / "delta.safetensors")


def _wrong_ws(folder: Path, model: Path) -> None:
    save_file({"ws": torch.zeros(1, 3, 16)}, folder / "latents.safetensors")


def _no_noise(folder: Path, model: Path) -> None:
    ws = load_file(folder / "latents.safetensors")["ws"]
    save_file({"ws": ws}, folder / "latents.safetensors")


def _broken_picture(folder: Path, model: Path) -> None:
    (folder / "aligned.png").write_bytes(b"\x89PNG\r\n")


def _edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    info = json.loads((folder / "inversion.json").read_text())
    change(info)
    (folder / "inversion.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_other_model, "made with another model"),
        (_no_model, "is no model folder"),
        (_no_json, "is no inversion"),
        (_broken_json, "is damaged"),
        (_list_json, "is damaged"),
        (_newer, "of format 3"),
        (_no_transform, "where the crop lies"),
        (_no_latents, "cannot be read"),
        (_cut_delta, "cannot be read"),
        (_foreign_delta, "does not have"),
        (_misshapen_delta, "does not have"),
        (_wrong_ws, "holds no ws"),
        (_no_noise, "noise maps do not belong"),
        (_broken_picture, "cannot be read"),
    ],
)
def test_damage_is_named_in_one_sentence(
    tmp_path: Path,
    model: Path,
    small_change: Any,
    damage: Callable[[Path, Path], None],
    says: str,
) -> None:
    folder = tmp_path / "inversion"
    write(folder, model, small_change)
    damage(folder, model)
    with pytest.raises(ArtifactError, match=says) as caught:
        Inversion.load(folder, model)
    assert "\n" not in str(caught.value)
