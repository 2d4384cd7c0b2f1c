"""Export: the format of NVIDIA's pickles, an exact round trip, a command line that is careful."""

from __future__ import annotations

import io
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from torch import nn

from pipeline.artifacts.store import Store
from pipeline.errors import ModelError
from pipeline.models import checkpoint, nvidia_pkl_writer, stylegan2, stylegan3
from pipeline.models.config import ImportConfig
from pipeline.models.interchange import (
    export_networks,
    file_name_of,
    import_networks,
    new_discriminator,
)
from pipeline.models.nvidia_pkl import ModuleRecord, read
from pipeline.models.nvidia_records import describe
from pipeline.runner import run_stage
from pipeline.stages import find_stage
from scripts.export import main
from tests import quick_python

PICKLES = ("sg3_stylegan2_u_aug", "sg3_stylegan3t_u", "sg2ada_u", "sg2ada_c_aug")


def networks(kind: str) -> dict[str, nn.Module]:
    """A small model of a model type, G and G_ema of different weights."""
    torch.manual_seed(5)
    common: dict[str, Any] = {"c_dim": 2, "img_resolution": 16, "img_channels": 3}
    shape: dict[str, Any] = {"z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 12}

    def generator() -> nn.Module:
        if kind == "stylegan3":
            return stylegan3.Generator(
                **common, **shape, num_layers=4, conv_kernel=1, use_radial_filters=True
            )
        return stylegan2.Generator(**common, **shape, square=kind == "stylegan2")

    return {
        "G": generator(),
        "D": stylegan2.Discriminator(
            **common,
            channel_base=64,
            square=kind != "stylegan-human",
            block_kwargs={"freeze_layers": 2},
        ),
        "G_ema": generator(),
    }


def same_value(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, float | np.ndarray) and not isinstance(theirs, bool):
        return bool(np.array_equal(np.shape(ours), np.shape(theirs))) and bool(
            np.allclose(ours, theirs, rtol=1e-12, atol=0)
        )
    return bool(ours == theirs)


def covers(ours: Any, theirs: Any) -> bool:
    """Whether a table of arguments says all that theirs says; ours spells defaults out as well."""
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and all(
            name in ours and covers(ours[name], value) for name, value in theirs.items()
        )
    return same_value(ours, theirs)


@pytest.mark.parametrize("name", PICKLES)
def test_an_official_pickle_goes_out_as_it_came_in(
    name: str, golden_dir: Path, tmp_path: Path
) -> None:
    official = read(golden_dir / "pkl_nosource" / f"{name}.pkl")
    imported = import_networks(official).networks
    path = tmp_path / file_name_of(imported["G_ema"], name)
    export_networks(path, imported)
    exported = read(path)
    assert list(exported.networks) == ["G", "D", "G_ema"]
    assert exported.extra == {"training_set_kwargs": None, "augment_pipe": None}
    is_flat = "sg3" in name
    for key, network in exported.networks.items():
        ours, theirs = network.walk(), official.networks[key].walk()
        assert len(ours) > 5
        assert ours.keys() == theirs.keys()
        for place, part in theirs.items():
            compare_parts(f"{key}.{place}", ours[place], part, is_flat)


def compare_parts(place: str, ours: ModuleRecord, theirs: ModuleRecord, is_flat: bool) -> None:
    assert ours.class_name == theirs.class_name, place
    mine, attributes = ours.attributes(), theirs.attributes()
    # stylegan2-ada-pytorch's classes keep fewer attributes than the stylegan3 program's.
    assert mine.keys() >= attributes.keys(), place
    if is_flat:
        assert mine.keys() == attributes.keys(), place
        assert list(ours.state)[:17] == list(theirs.state)[:17], place
        assert ours.state.keys() == theirs.state.keys(), place
        assert covers(ours.init_kwargs, theirs.init_kwargs), place
        assert list(ours.state["_init_args"]) == list(theirs.state["_init_args"]), place
    for attribute, value in attributes.items():
        assert same_value(mine[attribute], value), f"{place}.{attribute}"
    for table in ("_parameters", "_buffers"):
        tensors, expected = ours.state[table], theirs.state[table]
        assert tensors.keys() == expected.keys(), f"{place}.{table}"
        for tensor_name, tensor in expected.items():
            assert (tensor is None) == (tensors[tensor_name] is None)
            assert tensor is None or torch.equal(tensors[tensor_name], tensor)


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3", "stylegan-human"])
def test_the_round_trip_is_exact(kind: str, tmp_path: Path) -> None:
    before = networks(kind)
    path = tmp_path / file_name_of(before["G_ema"], "x")
    assert path.name == f"{kind}-x-{'8' if kind == 'stylegan-human' else '16'}x16.pkl"
    export_networks(path, before)
    back = import_networks(read(path))
    # Out goes the stylegan3 program's dialect, whatever came in.
    assert back.dialect == ("stylegan-human" if kind == "stylegan-human" else "stylegan3")
    for key, network in before.items():
        state = back.networks[key].state_dict()
        assert state.keys() == network.state_dict().keys()
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        for module, twin in zip(network.modules(), back.networks[key].modules(), strict=True):
            assert type(module) is type(twin)
        again = describe(back.networks[key]).walk()
        for place, part in describe(network).walk().items():
            compare_parts(place, again[place], part, is_flat=True)
    assert not list(tmp_path.glob(".*"))


def test_the_file_carries_one_line_of_source_a_module(tmp_path: Path) -> None:
    for kind, lines in {
        "stylegan2": {"from training.networks_stylegan2 import *\n"},
        "stylegan3": {
            "from training.networks_stylegan2 import *\n",
            "from training.networks_stylegan3 import *\n",
        },
        "stylegan-human": {"from stylegan_human.training_scripts.sg2.training.networks import *\n"},
    }.items():
        path = tmp_path / f"{kind}.pkl"
        export_networks(path, networks(kind))
        texts = [
            argument
            for opcode, argument, _ in pickletools.genops(path.read_bytes())
            if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE") and "\n" in str(argument)
        ]
        assert set(texts) == lines
        assert len(texts) == len(lines)  # written once, then fetched


# What the programs' loader does with a module, in our words: run the source, take the class, set
# the state. The classes are bare; theirs have a forward.
PERSISTENCE = """
import types
def _reconstruct_persistent_obj(meta):
    assert meta["type"] == "class" and meta["version"] == 6
    module = types.ModuleType("imported")
    exec(meta["module_src"], module.__dict__)
    made = module.__dict__[meta["class_name"]]
    network = made.__new__(made)
    network.__setstate__(meta["state"])
    return network
"""
LOADER = """
import pickle, sys, numpy, torch
def load(path, out):
    with open(path, "rb") as stream:
        content = pickle.load(stream)
    arrays = {}
    for key in ("G", "D", "G_ema"):
        network = content[key]
        assert isinstance(network, torch.nn.Module) and not network.training
        assert not any(p.requires_grad for p in network.parameters())
        network.register_forward_hook(lambda *_: None)
        network.to(torch.float64).float().train().requires_grad_(True).eval()
        for name, tensor in network.state_dict().items():
            arrays[f"{key}/{name}"] = tensor.numpy()
        arrays[f"{key} class"] = numpy.array(type(network).__module__)
    assert content["augment_pipe"] is None and content["training_set_kwargs"] is None
    layer = getattr(content["G_ema"].synthesis, "L1_36_12", None)
    if layer is not None:
        assert int(layer.in_size[1]) == 36 and type(layer.in_size).__name__ == "ndarray"
    numpy.savez(out, **arrays)

for path in sys.argv[1:]:
    load(path, path.replace(".pkl", ".npz"))
"""


def test_an_ordinary_unpickler_beside_their_classes_loads_it(
    golden_dir: Path, tmp_path: Path
) -> None:
    models = {
        family: import_networks(read(golden_dir / "pkl_nosource" / f"{name}.pkl")).networks
        for family, name in (
            ("stylegan2", "sg3_stylegan2_u_aug"),
            ("stylegan3", "sg3_stylegan3t_u"),
        )
    }
    for family, imported in models.items():
        export_networks(tmp_path / f"{family}.pkl", imported)
    program = tmp_path / "program"
    (program / "torch_utils").mkdir(parents=True)
    (program / "training").mkdir()
    (program / "torch_utils" / "persistence.py").write_text(PERSISTENCE)
    records = [
        record
        for imported in models.values()
        for network in imported.values()
        for record in describe(network).walk().values()
    ]
    classes = "".join(
        f"class {name}(torch.nn.Module): pass\n" for name in {r.class_name for r in records}
    )
    for module in ("networks_stylegan2", "networks_stylegan3"):
        (program / "training" / f"{module}.py").write_text("import torch\n" + classes)
    (program / "load.py").write_text(LOADER)
    done = subprocess.run(
        [sys.executable, "load.py", *(str(tmp_path / f"{family}.pkl") for family in models)],
        cwd=program, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for family, imported in models.items():
        with np.load(tmp_path / f"{family}.npz") as arrays:
            for key, network in imported.items():
                for tensor, value in network.state_dict().items():
                    np.testing.assert_array_equal(arrays[f"{key}/{tensor}"], value.numpy())
            assert str(arrays["G_ema class"]) == f"training.networks_{family}"
            assert str(arrays["D class"]) == "training.networks_stylegan2"


def test_the_writer_matches_pickle_on_plain_values() -> None:
    values: dict[str, Any] = {
        "numbers": [0, 255, 256, -1, 2**31 - 1, -(2**31), 2**31, -(2**70), 0.1, -0.0, True, False],
        "texts": ["", "é", "x" * 300, "again", "again", *(f"text {i}" for i in range(300))],
        "nested": {"a": {"b": [(), (1,), (1, (2, None))]}, "empty": {}, "set": set(), "list": []},
        "scalars": (np.float64(1.5), np.int64(7), np.True_),
    }
    stream = io.BytesIO()
    nvidia_pkl_writer.write(stream, {}, lambda record: "", values)
    back = pickle.loads(stream.getvalue())
    assert back == values
    assert repr(back["numbers"]) == repr(values["numbers"])
    assert [type(item) for item in back["scalars"]] == [float, int, bool]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6, dtype=torch.float32).reshape(2, 3).t(),
        torch.tensor(2.5),
        torch.zeros([0, 3]),
        torch.arange(5, dtype=torch.int64),
        torch.tensor([1.5, -2], dtype=torch.float16),
    ],
)
def test_the_writer_writes_tensors_that_torch_reads(tensor: torch.Tensor) -> None:
    stream = io.BytesIO()
    array = np.array([[1, 2]], dtype=np.int64)
    nvidia_pkl_writer.write(stream, {}, lambda record: "", {"x": tensor, "y": array})
    back = pickle.loads(stream.getvalue())
    assert torch.equal(back["x"], tensor)
    assert back["x"].dtype == tensor.dtype
    np.testing.assert_array_equal(back["y"], array)
    assert back["y"].dtype == np.int64


def test_the_writer_refuses_other_values() -> None:
    with pytest.raises(ModelError, match="object"):
        nvidia_pkl_writer.write(io.BytesIO(), {}, lambda record: "", {"x": object()})


# ---------------------------------------------------------------------------------------------
# The command line.


@pytest.fixture
def model(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "ganyu", networks("stylegan3"))
    return tmp_path / "ganyu"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_exports_a_pickle_and_safetensors(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = quick_python.run([sys.executable, "-m", "scripts.export", str(model), str(out)])
    assert done.returncode == 0, done.stderr
    assert "stylegan3-ganyu-16x16.pkl" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "stylegan3-ganyu-16x16",
        "stylegan3-ganyu-16x16.pkl",
    ]
    wanted = load_file(model / "G_ema.safetensors")
    tensors = load_file(out / "stylegan3-ganyu-16x16" / "G_ema.safetensors")
    pickled = read(out / "stylegan3-ganyu-16x16.pkl").networks["G_ema"].tensors()
    for found in (tensors, pickled):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(value, found[name]) for name, value in wanted.items())


def test_nothing_is_overwritten_unasked(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    target = out / "stylegan3-ganyu-16x16.pkl"
    target.write_text("mine")
    done = invoke(model, out)
    assert done.exit_code == 2
    assert "--force" in done.output
    assert target.read_text() == "mine"
    assert list(out.iterdir()) == [target]
    assert invoke(model, out, "--force").exit_code == 0
    assert read(target).networks.keys() == {"G", "D", "G_ema"}


def test_a_file_name_must_say_what_the_model_is(model: Path, tmp_path: Path) -> None:
    wrong = invoke(model, tmp_path / "out" / "stylegan2-ganyu-16x16.pkl")
    assert wrong.exit_code == 2
    assert "stylegan3-ganyu-16x16.pkl" in wrong.output
    unreadable = invoke(model, tmp_path / "out" / "ganyu.pkl")
    assert unreadable.exit_code == 2
    assert "<model_type>-<name>-<WxH>.pkl" in unreadable.output
    assert not (tmp_path / "out").exists()
    right = invoke(model, tmp_path / "out" / "stylegan3-keqing-16x16.pkl", "--format", "pkl")
    assert right.exit_code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["stylegan3-keqing-16x16.pkl"]


def test_a_model_without_discriminator_says_what_to_do(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "tuned", {"G_ema": networks("stylegan2")["G_ema"]})
    refused = invoke(tmp_path / "tuned", tmp_path / "out")
    assert refused.exit_code == 2
    assert "--new-discriminator" in refused.output
    assert not (tmp_path / "out").exists()
    assert invoke(tmp_path / "tuned", tmp_path / "out", "--format", "safetensors").exit_code == 0
    done = invoke(tmp_path / "tuned", tmp_path / "new", "--new-discriminator", "--format", "pkl")
    assert done.exit_code == 0
    content = import_networks(read(tmp_path / "new" / "stylegan2-tuned-16x16.pkl")).networks
    generator = content["G"].state_dict()
    assert all(torch.equal(v, generator[k]) for k, v in content["G_ema"].state_dict().items())
    expected = new_discriminator(content["G_ema"]).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in content["D"].state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["model/absent", "out"], "There is no model/absent"),
        (["dataset/x", "out"], "There is no dataset/x"),
        (["nonsense", "out"], "no artifact reference"),
    ],
)
def test_wrong_references_end_in_a_sentence(
    arguments: list[str], reason: str, tmp_path: Path
) -> None:
    done = invoke(*arguments, "--store", tmp_path / "store")
    assert done.exit_code == 2
    assert reason in done.output
    assert done.output.count("\n") == 1


def test_an_imported_model_is_exported_by_its_reference(golden_dir: Path, tmp_path: Path) -> None:
    source = golden_dir / "pkl_nosource" / "sg3_stylegan3t_u.pkl"
    store = tmp_path / "store"
    run_stage(find_stage("import"), ImportConfig("furina", str(source)), Store(store))
    assert invoke("model/furina", tmp_path / "out", "--store", store).exit_code == 0
    back = read(tmp_path / "out" / "stylegan3-furina-32x32.pkl")
    for key, network in read(source).networks.items():
        tensors = back.networks[key].tensors()
        assert all(torch.equal(value, tensors[name]) for name, value in network.tensors().items())
