"""The model format: what was saved comes back, and damaged or hostile files end in a sentence."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.errors import ModelError
from pipeline.models import checkpoint, stylegan2, stylegan3
from pipeline.models.face_reader import FaceReaderNetwork


def networks(c_dim: int = 3) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    common: dict[str, Any] = {"c_dim": c_dim, "img_resolution": 16, "img_channels": 3}
    g: dict[str, Any] = {"z_dim": 8, "w_dim": 8, "channel_base": 64, **common}
    return {
        "G": stylegan2.Generator(**g, architecture="resnet", mapping_kwargs={"num_layers": 2}),
        "D": stylegan2.Discriminator(
            **common, channel_base=64, block_kwargs={"freeze_layers": 2}, cmap_dim=4
        ),
        "G_ema": stylegan3.Generator(
            **g, num_layers=4, conv_kernel=1, use_radial_filters=True, conv_clamp=None
        ),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "model", networks())
    return tmp_path / "model"


def change(model: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = model / "architecture.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_what_was_saved_comes_back(model: Path) -> None:
    before = networks()
    state = torch.get_rng_state()
    after = checkpoint.load(model, ("G", "D", "G_ema"))
    assert torch.equal(torch.get_rng_state(), state), "loading draws no random numbers"
    z, c = torch.randn([2, 8]), torch.eye(3)[:2]
    img = torch.randn([2, 3, 16, 16])
    for name, network in before.items():
        assert type(after[name]) is type(network)
        assert not after[name].training
        assert after[name].state_dict().keys() == network.state_dict().keys()
        for key, value in network.state_dict().items():
            assert torch.equal(after[name].state_dict()[key], value), key
        free = {key for key, parameter in network.named_parameters()}
        assert {k for k, p in after[name].named_parameters() if p.requires_grad} == free
        inputs = (img, c) if name == "D" else (z, c)
        kwargs: dict[str, Any] = {} if name == "D" else {"noise_mode": "const"}
        assert torch.equal(network.eval()(*inputs, **kwargs), after[name](*inputs, **kwargs))
    described = checkpoint.read_architecture(model)
    assert described["D"].class_name == "stylegan2.Discriminator"
    assert described["G_ema"].arguments["use_radial_filters"] is True


def test_saving_twice_and_saving_what_was_loaded(model: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load(model, ("G", "G_ema"))
    checkpoint.save(model, loaded)
    assert set(checkpoint.read_architecture(model)) == {"G", "G_ema"}
    again = checkpoint.load(model, ("G_ema",))["G_ema"]
    for key, value in loaded["G_ema"].state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert not [path for path in model.iterdir() if path.name.endswith(".part")]


def test_half_precision_is_half_the_size_and_comes_back_as_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = stylegan2.Generator(64, 0, 64, 16, 3, channel_base=512, channel_max=32)
    sizes = []
    for half in (False, True):
        checkpoint.save(tmp_path, {"G_ema": network}, half=half)
        sizes.append((tmp_path / "G_ema.safetensors").stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    loaded = checkpoint.load(tmp_path)["G_ema"]
    for key, value in network.state_dict().items():
        assert loaded.state_dict()[key].dtype == torch.float32
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=1e-3, atol=1e-6)


def test_only_known_classes_and_plain_names_are_saved(tmp_path: Path) -> None:
    for name, network in (("G", nn.Linear(2, 2)), ("../G", networks()["G"])):
        with pytest.raises(ModelError, match="cannot be saved"):
            checkpoint.save(tmp_path / "x", {name: network})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(version=2), "format version 2"),
        (lambda d: d.update(format="other"), "not of the format"),
        (lambda d: d.pop("networks"), "names no networks"),
        (lambda d: d["networks"].pop("G_ema"), "no network G_ema"),
        (lambda d: d["networks"].update(G_ema=3), "not of its format"),
        (lambda d: d["networks"]["G_ema"].update({"class": "os.system"}), "os.system"),
        (lambda d: d["networks"]["G_ema"].update({"class": ["a"]}), "not known"),
        (lambda d: arguments(d).update(conv_kernel=3), "asks for"),
        (lambda d: arguments(d).update(nonsense=3), "nonsense"),
        (lambda d: arguments(d).pop("z_dim"), "z_dim"),
        (lambda d: arguments(d).update(w_dim="wide"), "do not make"),
        (lambda d: arguments(d).update(w_dim=-3), "do not make"),
        (lambda d: arguments(d).update(img_resolution=17), "img_resolution=17"),
        (lambda d: arguments(d).update(img_resolution=2**40), "beyond the limit"),
        (lambda d: arguments(d).update(num_layers=10**9), "beyond the limit"),
        (lambda d: arguments(d).update(channel_base=1e300), "beyond the limit"),
        (lambda d: arguments(d).update(w_dim=2**20, channel_max=2**20), "asks for"),
        (lambda d: arguments(d).update(first_cutoff=0), "do not make"),
        (lambda d: arguments(d).update(margin_size=[1] * 1000), "more than 64"),
    ],
)
def test_wrong_architectures_end_in_a_sentence(
    model: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    change(model, edit)
    with pytest.raises(ModelError, match=message) as caught:
        checkpoint.load(model)
    assert "\n" not in str(caught.value).strip()


def arguments(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["networks"]["G_ema"]["arguments"]
    return found


def test_missing_and_damaged_files(model: Path, tmp_path: Path) -> None:
    tensors = model / "G_ema.safetensors"
    whole = tensors.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        tensors.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="damaged"):
            checkpoint.load(model)
    tensors.write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="damaged"):
        checkpoint.load(model)
    tensors.unlink()
    with pytest.raises(ModelError, match="missing"):
        checkpoint.load(model)
    for content in (b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"):
        (model / "architecture.json").write_bytes(content)
        with pytest.raises(ModelError, match=r"architecture\.json"):
            checkpoint.load(model)
    with pytest.raises(ModelError, match="holds no model"):
        checkpoint.load(tmp_path / "nowhere")


def test_wrong_tensors(model: Path) -> None:
    path = model / "G_ema.safetensors"
    right = load_file(path)
    name = next(iter(right))
    wrong: dict[str, dict[str, torch.Tensor]] = {
        "lacks": {k: v for k, v in right.items() if k != name},
        "does not know": {**right, "extra": torch.zeros(2)},
        "asks for": {**right, name: torch.zeros([1, 2, 3])},
        "not finite": {**right, name: right[name] * float("nan")},
    }
    for message, tensors in wrong.items():
        save_file(tensors, path)
        with pytest.raises(ModelError, match=message):
            checkpoint.load(model)
    save_file({**right, name: right[name].to(torch.int32)}, path)
    with pytest.raises(ModelError, match="int32"):
        checkpoint.load(model)


def test_a_pickle_in_place_of_tensors_is_not_run(model: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "run"),)

    (model / "G_ema.safetensors").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ModelError, match="damaged"):
        checkpoint.load(model)
    assert not (tmp_path / "run").exists()


def test_another_process_reads_the_same(model: Path, root: Path) -> None:
    code = (
        "import sys, pathlib, torch; from pipeline.models import checkpoint;"
        "g = checkpoint.load(pathlib.Path(sys.argv[1]))['G_ema'];"
        "print(repr(float(sum(v.double().sum() for v in g.state_dict().values()))));"
        "import pipeline.edit.stage, pipeline.train.stage; print('torch._dynamo' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(model)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    state = networks()["G_ema"].state_dict()
    total, compiler = run.stdout.split()
    assert float(total) == float(sum(v.double().sum() for v in state.values()))
    # torch's compiler takes as long to import as torch, and nobody has asked for it yet.
    assert compiler == "False"


def test_a_face_reader_comes_back_and_leaves_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    network = FaceReaderNetwork(64, (8, 8, 8, 8), (1, 0, 1), ((0, 4), (4, 9)), 3).eval()
    checkpoint.save(tmp_path, {"reader": network})
    before = torch.get_rng_state()
    loaded = checkpoint.load(tmp_path, ("reader",))["reader"]
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.rand(2, 3, 64, 64)
    for mine, theirs in zip(network(images), loaded(images), strict=True):
        assert torch.equal(mine, theirs)
