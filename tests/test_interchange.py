"""Import of network pickles: official ones exactly; what computes otherwise, or harms, refused."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.errors import ModelError
from pipeline.models import checkpoint, stylegan2, stylegan3
from pipeline.models.config import ImportConfig
from pipeline.models.interchange import file_name, import_networks, parse_file_name
from pipeline.models.nvidia_pkl import ModuleRecord, NetworkPickle, read
from pipeline.models.nvidia_records import describe
from pipeline.models.stage import check, run
from tests import quick_python
from torch_utils.ops.bias_act import ACTIVATIONS, bias_act
from torch_utils.ops.conv2d import conv2d_resample

PICKLES = (
    "sg2ada_c_aug.pkl",
    "sg2ada_u.pkl",
    "sg2ada_u-oldstyle.pkl",
    "sg2ada_u-protocol3.pkl",
    "sg3_stylegan2_u_aug.pkl",
    "sg3_stylegan3t_u.pkl",
    "sg3_stylegan3t_u-protocol3.pkl",
)
Golden = Callable[[str], tuple[dict[str, np.ndarray], dict[str, Any]]]


@pytest.fixture(scope="module")
def pickles(golden_dir: Path) -> Callable[[str], NetworkPickle]:
    """A golden pickle by file name; each is read once."""
    cache: dict[str, NetworkPickle] = {}

    def get(name: str) -> NetworkPickle:
        if name not in cache:
            cache[name] = read(golden_dir / "pkl_nosource" / name)
        return cache[name]

    return get


# ---------------------------------------------------------------------------------------------
# What is right comes in exactly.


@pytest.mark.parametrize("name", PICKLES)
def test_tensors_images_and_logits_are_the_official_ones(
    name: str, golden: Golden, pickles: Callable[[str], NetworkPickle]
) -> None:
    expected, description = golden(f"pkl_nosource/{name.split('.')[0].split('-')[0]}")
    imported = import_networks(pickles(name))
    assert list(imported.networks) == ["G", "D", "G_ema"]
    for key, network in imported.networks.items():
        state = network.state_dict()
        names = {full for full in expected if full.startswith(f"{key}/")}
        assert {f"{key}/{tensor}" for tensor in state} == names
        for tensor, value in state.items():
            np.testing.assert_array_equal(value.numpy(), expected[f"{key}/{tensor}"])
        assert not network.training

    generator, discriminator = imported.networks["G_ema"], imported.networks["D"]
    z, c = torch.tensor(expected["z"]), torch.tensor(expected["c"])
    with torch.no_grad():
        img = generator(z, c, truncation_psi=0.7, noise_mode="const")
        logits = discriminator(torch.tensor(expected["img_G_ema_psi07"]), c)
    np.testing.assert_allclose(img.numpy(), expected["img_G_ema_psi07"], atol=1e-5, rtol=0)
    # stylegan2-ada-pytorch ran its discriminator in half precision, as it does on a CPU too (see
    # test_adas_logits_are_ours_in_half_precision).
    is_ada = "stylegan2-ada" in description["made_with"]
    assert imported.dialect == ("stylegan2-ada" if is_ada else "stylegan3")
    tolerance = 3e-3 if is_ada else 1e-5
    np.testing.assert_allclose(logits.numpy(), expected["logits_D"], atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", ["sg2ada_u", "sg2ada_c_aug"])
def test_adas_logits_are_ours_in_half_precision(
    name: str, golden: Golden, pickles: Callable[[str], NetworkPickle]
) -> None:
    """What parts us from stylegan2-ada-pytorch's logits is its half precision, to the last digit.

    Its highest resolutions run in float16 on a CPU too: every layer of the paper (weights with
    their gain, convolution, bias, activation, gain, clamp) computed with float16 in and out.
    """
    expected, description = golden(f"pkl_nosource/{name}")
    network = import_networks(pickles(f"{name}.pkl")).networks["D"]
    assert isinstance(network, stylegan2.Discriminator)
    assert description["D_kwargs"]["num_fp16_res"] == 4

    def layer(module: stylegan2.Conv2dLayer, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        weight = (module.weight * module.weight_gain).half()
        y = conv2d_resample(
            x, weight, module.resample_filter, down=module.down, padding=module.padding
        )
        gain *= ACTIVATIONS[module.activation].gain
        clamp = (
            None
            if module.conv_clamp is None
            else module.conv_clamp * gain / (ACTIVATIONS[module.activation].gain)
        )
        return bias_act(y, module.bias, act=module.activation, gain=gain, clamp=clamp)

    x = None
    with torch.no_grad():
        image, c = torch.tensor(expected["img_G_ema_psi07"]), torch.tensor(expected["c"])
        for resolution in network.layer_names:
            block = network.get_submodule(resolution)
            assert isinstance(block, stylegan2.DiscriminatorBlock)
            x = layer(block.fromrgb, image.half()) if x is None else x
            shortcut = layer(block.skip, x, math.sqrt(0.5))
            x = shortcut + layer(block.conv1, layer(block.conv0, x), math.sqrt(0.5))
        label = None if network.mapping is None else network.mapping(None, c)
        logits = network.b4(x, None, label)
    # Without half precision they are 1.7e-3 apart. A processor that convolves in float16 itself
    # (AVX-512) rounds differently from one that does so in float32: 2.9e-4, else 1.2e-7.
    np.testing.assert_allclose(logits.numpy(), expected["logits_D"], atol=5e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "beta"), [("sg2ada_c_aug.pkl", 0.995), ("sg3_stylegan2_u_aug.pkl", 0.998)]
)
def test_defaults_are_those_of_the_program_that_wrote_the_file(
    name: str, beta: float, pickles: Callable[[str], NetworkPickle]
) -> None:
    content = pickles(name)
    network = import_networks(content).networks["G"]
    assert isinstance(network, stylegan2.Generator)
    mapping = network.mapping
    before = mapping.w_avg.clone()
    z, c = torch.ones([1, 32]), torch.eye(3)[:1]
    with torch.no_grad():
        w = mapping(z, c, update_emas=True)[0, 0]
    torch.testing.assert_close(mapping.w_avg, w + beta * (before - w))
    given = content.networks["G"].init_kwargs
    assert "conv_clamp" not in given or "synthesis_kwargs" not in given


def test_settings_not_given_are_assumed_as_the_writer_did(
    pickles: Callable[[str], NetworkPickle],
) -> None:
    # Without the attributes that say it, the two programs' defaults decide.
    for name, clamp, halves in (("sg2ada_u.pkl", None, 0), ("sg3_stylegan2_u_aug.pkl", 256, 4)):
        record = copy.deepcopy(pickles(name).networks["D"])
        for part in record.walk().values():
            part.state.pop("conv_clamp", None)
            for key in ("conv_clamp", "num_fp16_res"):
                part.state["_init_kwargs"].pop(key, None)
        content = NetworkPickle({"G": pickles(name).networks["G"], "D": record})
        network = import_networks(content).networks["D"]
        assert isinstance(network, stylegan2.Discriminator)
        assert network.init_kwargs["conv_clamp"] == clamp
        assert network.init_kwargs["num_fp16_res"] == halves


def test_pti_file_makes_a_generator(
    golden_dir: Path, pickles: Callable[[str], NetworkPickle]
) -> None:
    imported = import_networks(pickles("pti_model.pt"))
    assert list(imported.networks) == ["G_ema"]
    with torch.no_grad():
        img = imported.networks["G_ema"](torch.ones([1, 32]), None, noise_mode="const")
    assert img.shape == (1, 3, 32, 32)
    assert img.isfinite().all()


def wrapped(record: ModuleRecord, key: str = "G_ema") -> NetworkPickle:
    return NetworkPickle({key: record})


def tiny(kind: str) -> nn.Module:
    torch.manual_seed(3)
    common: dict[str, Any] = {"c_dim": 2, "img_resolution": 16, "img_channels": 3}
    shape: dict[str, Any] = {"z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 12}
    if kind == "stylegan3-r":
        return stylegan3.Generator(
            **common, **shape, num_layers=4, conv_kernel=1, use_radial_filters=True,
            margin_size=4, filter_size=4, conv_clamp=None, mapping_kwargs={"w_avg_beta": 0.99},
        )  # fmt: skip
    if kind == "discriminator":
        return stylegan2.Discriminator(
            **common, channel_base=64, architecture="skip", cmap_dim=4, conv_clamp=None,
            block_kwargs={"freeze_layers": 2}, epilogue_kwargs={"mbstd_num_channels": 0},
        )  # fmt: skip
    if kind == "human discriminator":
        return stylegan2.Discriminator(**common, channel_base=64, square=False)
    options: dict[str, Any] = {
        "resnet": {"architecture": "resnet", "use_noise": False, "conv_clamp": None},
        "orig": {"architecture": "orig", "activation": "relu", "num_fp16_res": 0},
        "stylegan-human": {"square": False, "resample_filter": [1, 2, 1]},
    }[kind]
    return stylegan2.Generator(
        **common, **shape, **options, mapping_kwargs={"num_layers": 3, "layer_features": 6}
    )


KINDS = (
    "stylegan3-r",
    "resnet",
    "orig",
    "stylegan-human",
    "discriminator",
    "human discriminator",
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_comes_back_from_its_record(kind: str) -> None:
    network = tiny(kind).eval()
    key = "D" if "discriminator" in kind else "G_ema"
    content = wrapped(describe(network), key)
    if key == "D":
        content.networks["G"] = describe(tiny("orig"))
    back = import_networks(content).networks[key]
    assert type(back) is type(network)
    assert back.state_dict().keys() == network.state_dict().keys()
    c = torch.eye(2)
    given = torch.linspace(-1, 1, 2 * 8).reshape(2, 8)
    if isinstance(network, stylegan2.Discriminator):
        given = torch.linspace(-1, 1, 2 * 3 * 16 * network.img_size[1])
        given = given.reshape(2, 3, 16, network.img_size[1])
        assert torch.equal(network(given, c), back(given, c))
    else:
        assert torch.equal(
            network(given, c, truncation_psi=0.5, noise_mode="const"),
            back(given, c, truncation_psi=0.5, noise_mode="const"),
        )


# ---------------------------------------------------------------------------------------------
# What is wrong is refused, at once.


def refusal(content: NetworkPickle) -> str:
    """The sentence of the refusal, which must come quickly."""
    start = time.process_time()
    with pytest.raises(ModelError) as caught:
        import_networks(content)
    assert time.process_time() - start < 5
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def changed(record: ModuleRecord, path: str, where: str, key: str, value: Any) -> NetworkPickle:
    """The network with one attribute, or one argument of a constructor, of one part changed."""
    record = copy.deepcopy(record)
    state = record.walk()[path].state
    (state if where == "attribute" else state["_init_kwargs"])[key] = value
    return wrapped(record)


@pytest.mark.parametrize(
    ("pickle", "path", "where", "key", "value", "reason"),
    [
        ("sg2ada_u.pkl", "", "argument", "wibble", 3, "wibble"),
        ("sg3_stylegan2_u_aug.pkl", "synthesis", "argument", "kernel_size", 5, "kernel_size"),
        ("sg2ada_u.pkl", "", "argument", "mapping_kwargs", {"depth": 3}, "depth"),
        ("sg2ada_u.pkl", "", "argument", "mapping_kwargs", [1], "not a table"),
        ("sg2ada_u.pkl", "synthesis", "argument", "channel_base", 2**40, "channel_base"),
        ("sg2ada_u.pkl", "synthesis", "argument", "channel_max", 2**15, "settings ask for"),
        ("sg2ada_u.pkl", "", "attribute", "w_dim", 2**19, "settings ask for"),
        ("sg2ada_u.pkl", "", "attribute", "z_dim", "many", "z_dim"),
        ("sg2ada_u.pkl", "", "attribute", "z_dim", True, "z_dim"),
        ("sg2ada_u.pkl", "", "attribute", "c_dim", 10**9, "c_dim"),
        ("sg2ada_u.pkl", "", "attribute", "img_channels", -3, "settings"),
        ("sg2ada_u.pkl", "mapping", "attribute", "num_layers", 10**7, "num_layers"),
        ("sg2ada_u.pkl", "synthesis", "argument", "resample_filter", [1] * 999, "resample_filter"),
        ("sg2ada_u.pkl", "synthesis", "argument", "resample_filter", "1331", "resample_filter"),
        ("sg2ada_u.pkl", "synthesis", "argument", "activation", "mish", "settings"),
        ("sg2ada_u.pkl", "synthesis.b8.conv0", "attribute", "activation", "relu", "relu"),
        ("sg2ada_u.pkl", "synthesis.b8.conv0", "attribute", "conv_clamp", 64, "conv_clamp"),
        ("sg2ada_u.pkl", "mapping.fc0", "attribute", "weight_gain", 0.5, "weight_gain"),
        ("sg2ada_u.pkl", "synthesis.b8.conv0", "attribute", "up", 4, "up=4"),
        ("sg3_stylegan3t_u.pkl", "", "attribute", "img_resolution", 2**13, "maps"),
        ("sg3_stylegan3t_u.pkl", "", "attribute", "img_resolution", 2**60, "img_resolution"),
        ("sg3_stylegan3t_u.pkl", "", "attribute", "img_resolution", 48, "power of two"),
        ("sg3_stylegan3t_u.pkl", "synthesis", "attribute", "margin_size", 10**5, "margin_size"),
        ("sg3_stylegan3t_u.pkl", "synthesis", "argument", "first_stopband", 1e-300, "sample"),
        ("sg3_stylegan3t_u.pkl", "synthesis", "argument", "first_stopband", 0.5, "match"),
        ("sg3_stylegan3t_u.pkl", "synthesis", "argument", "first_cutoff", 0, "settings"),
        ("sg3_stylegan3t_u.pkl", "synthesis", "argument", "first_cutoff", float("nan"), "nan"),
        ("sg3_stylegan3t_u.pkl", "synthesis", "argument", "filter_size", 10**6, "filter_size"),
        ("sg3_stylegan3t_u.pkl", "synthesis", "argument", "filter_size", 64, "shape"),
        ("sg3_stylegan3t_u.pkl", "synthesis", "argument", "filter_size", "six", "filter_size"),
        ("sg3_stylegan3t_u.pkl", "synthesis", "attribute", "num_layers", 60, "match"),
        ("sg3_stylegan3t_u.pkl", "synthesis", "attribute", "output_scale", [1], "output_scale"),
        ("sg3_stylegan3t_u.pkl", "synthesis.L3_36_12", "attribute", "padding", [0] * 4, "padding"),
        ("sg3_stylegan3t_u.pkl", "synthesis.L3_36_12", "attribute", "in_cutoff", 3.0, "in_cutoff"),
    ],
)
def test_hostile_or_foreign_settings_are_refused(
    pickle: str,
    path: str,
    where: str,
    key: str,
    value: Any,
    reason: str,
    pickles: Callable[[str], NetworkPickle],
) -> None:
    record = pickles(pickle).networks["G_ema"]
    message = refusal(changed(record, path, where, key, value))
    assert message.startswith("network G_ema was refused")
    if reason != "shape":
        assert reason in message


def test_hostile_discriminators_are_refused(pickles: Callable[[str], NetworkPickle]) -> None:
    record = pickles("sg2ada_c_aug.pkl").networks["D"]
    for path, key, value in (
        ("", "cmap_dim", 2**30),
        ("", "block_kwargs", {"freeze_layers": 3, "wibble": 1}),
        ("", "epilogue_kwargs", {"mbstd_num_channels": 2**18}),
        ("", "architecture", "resnext"),
    ):
        content = changed(record, path, "argument", key, value)
        if key == "architecture":
            content.networks["G_ema"].walk()["b4"].state["architecture"] = value
        refusal(content)


def test_damaged_networks_are_refused(pickles: Callable[[str], NetworkPickle]) -> None:
    def damaged(edit: Callable[[dict[str, ModuleRecord]], object]) -> str:
        record = copy.deepcopy(pickles("sg3_stylegan2_u_aug.pkl").networks["G_ema"])
        edit(record.walk())
        return refusal(wrapped(record))

    def parameters(parts: dict[str, ModuleRecord], path: str) -> dict[str, torch.Tensor]:
        table = parts[path].state["_parameters"]
        assert isinstance(table, dict)
        return table

    fc, conv = "mapping.fc0", "synthesis.b8.conv0"
    assert "lacks the tensor mapping.fc0.bias" in damaged(lambda p: parameters(p, fc).pop("bias"))
    assert "wibble" in damaged(lambda p: parameters(p, fc).update(wibble=torch.ones([1])))
    assert "[16, 16, 3, 3]" in damaged(
        lambda p: parameters(p, conv).update(weight=torch.ones([16, 16, 1, 1]))
    )
    assert "finite" in damaged(lambda p: parameters(p, fc)["bias"].mul_(float("nan")))
    assert "finite" in damaged(
        lambda p: parameters(p, fc).update(bias=torch.zeros([32], dtype=torch.int32))
    )
    assert "no part mapping" in damaged(lambda p: p[""].state["_modules"].pop("mapping"))
    assert "no part synthesis.b4" in damaged(lambda p: p["synthesis"].state["_modules"].clear())
    assert "mapping.extra" in damaged(
        lambda p: p["mapping"].state["_modules"].update(extra=ModuleRecord("Blur", {}))
    )
    assert "neither Generator" in damaged(lambda p: setattr(p[""], "class_name", "Encoder"))
    assert "Encoder" in damaged(lambda p: setattr(p["mapping"], "class_name", "Encoder"))


def test_a_module_that_is_part_of_itself_is_refused() -> None:
    record = describe(tiny("orig"))
    record.state["_modules"]["again"] = record
    assert "itself" in refusal(wrapped(record))


def test_doubling_modules_are_refused() -> None:
    record = ModuleRecord("Leaf", {})
    for _ in range(25):
        record = ModuleRecord("Twice", {"_modules": {"a": record, "b": record}})
    assert "shared" in refusal(wrapped(record))


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_changed_files_are_imported_or_refused(
    data: st.DataObject,
    tmp_path: Path,
    golden_dir: Path,
    pickles: Callable[[str], NetworkPickle],
) -> None:
    name = data.draw(st.sampled_from(["sg3_stylegan3t_u.pkl", "sg2ada_c_aug.pkl"]))
    content = bytearray((golden_dir / "pkl_nosource" / name).read_bytes())
    # Numbers and names of settings: any place that is no weight.
    start = data.draw(st.sampled_from([b"_init_kwargs", b"img_resolution", b"weight_gain", b"up"]))
    places = [found.start() for found in re.finditer(re.escape(start), content)]
    position = data.draw(st.sampled_from(places)) + data.draw(st.integers(0, 60))
    content[position % len(content)] ^= data.draw(st.integers(1, 255))
    path = tmp_path / name
    path.write_bytes(content)
    try:
        networks = import_networks(read(path)).networks
        message = ""
    except ModelError as error:
        networks, message = {}, str(error)
    assert "\n" not in message
    for network in networks.values():
        assert all(value.isfinite().all() for value in network.state_dict().values())


# ---------------------------------------------------------------------------------------------
# The stage.


def test_stage_makes_a_model_and_says_where_from(golden_dir: Path, tmp_path: Path) -> None:
    source = golden_dir / "pkl_nosource" / "sg2ada_c_aug.pkl"
    metrics = run(ImportConfig("ganyu", str(source)), {"pkl": source}, tmp_path)
    assert metrics["dialect"] == "stylegan2-ada"
    loaded = checkpoint.load(tmp_path, ("G", "D", "G_ema"))
    for key, network in import_networks(read(source)).networks.items():
        state = loaded[key].state_dict()
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    record = json.loads((tmp_path / "import.json").read_text())
    assert record["file"] == "sg2ada_c_aug.pkl"
    assert record["keys"] == ["D", "G", "G_ema", "augment_pipe", "training_set_kwargs"]
    assert record["file_name"] == "stylegan2-ganyu-32x32.pkl"
    assert len(record["sha256"]) == 64


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return quick_python.run([sys.executable, "-m", *arguments])


def test_command_line_imports_a_generator_alone(golden_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "tuned (1).pt"
    source.write_bytes((golden_dir / "pkl_nosource" / "pti_model.pt").read_bytes())
    store = f"store={tmp_path / 'store'}"
    done = command(
        "scripts.run", "stage=import", "character=tuned", f"import.pkl={source}", store
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "model/tuned:v1" in done.stdout + done.stderr
    folder = tmp_path / "store" / "model" / "tuned" / "v1"
    with pytest.raises(ModelError, match="no network D"):
        checkpoint.load(folder, ("D",))


def test_command_line_refuses_in_one_sentence(tmp_path: Path) -> None:
    source = tmp_path / "old.pkl"
    source.write_bytes(b"\x80\x02cdnnlib.tflib.network\nNetwork\n)\x81.")
    store = f"store={tmp_path / 'store'}"
    done = command("scripts.run", "stage=import", f"import.pkl={source}", store)
    assert done.returncode == 2
    assert "TensorFlow" in done.stderr
    assert "legacy.py" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""  # refused before it is begun
    assert not list((tmp_path / "store").glob(".drafts/*"))


# ---------------------------------------------------------------------------------------------
# Names of files.


def test_a_name_that_claims_another_network_is_refused(golden_dir: Path, tmp_path: Path) -> None:
    """A name in the format must be true of what is in the file; other names claim nothing."""
    source = golden_dir / "pkl_nosource" / "sg2ada_u.pkl"

    def imported(name: str) -> str:
        path = tmp_path / name
        path.write_bytes(source.read_bytes())
        try:
            check(ImportConfig("ganyu", str(path)), {"pkl": path})
        except ModelError as error:
            return str(error)
        return "taken"

    for name in ("stylegan2-ffhq-32x32.pkl", "network-snapshot-000300.pkl", "ganyu-512x512.pkl"):
        assert imported(name) == "taken"
    for name in ("stylegan3-ffhq-32x32.pkl", "stylegan2-ffhq-64x64.pkl"):
        assert "rename it to stylegan2-ffhq-32x32.pkl" in imported(name)
    for name in ("stylegan4-ffhq-32x32.pkl", "StyleGAN2-ffhq-32x32.pkl", "stylegan2-a b-32x32.pkl"):
        assert "<model_type>-<name>-<WxH>.pkl" in imported(name)


@settings(deadline=None)
@given(
    kind=st.sampled_from(["stylegan2", "stylegan-human", "stylegan3"]),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    width=st.integers(1, 9999),
    height=st.integers(1, 9999),
)
def test_file_names_read_back(kind: str, name: str, width: int, height: int) -> None:
    text = file_name(kind, name, width, height)
    parsed = parse_file_name(text)
    assert (parsed.model_type, parsed.name, parsed.width, parsed.height) == (
        kind,
        name,
        width,
        height,
    )
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    [
        "ganyu.pkl",
        "stylegan-ganyu-512x512.pkl",
        "stylegan4-ganyu-512x512.pkl",
        "StyleGAN2-ganyu-512x512.pkl",
        "stylegan_human-ganyu-512x1024.pkl",
        "stylegan2-ganyu-512.pkl",
        "stylegan2-ganyu-0x512.pkl",
        "stylegan2-ganyu-512x512.pt",
        "stylegan2--512x512.pkl",
        "stylegan2-512x512.pkl",
        "stylegan2-gan yu-512x512.pkl",
        "stylegan2-../x-512x512.pkl",
        "stylegan2-ganyu-512x512.pkl\n",
        "stylegan2-ganyu-٣x512.pkl",
        "",
    ],
)
def test_other_file_names_are_refused_with_the_format(text: str) -> None:
    with pytest.raises(ModelError, match=r"<model_type>-<name>-<WxH>\.pkl.*stylegan-human"):
        parse_file_name(text)


@pytest.mark.parametrize(
    ("kind", "name", "size"), [("gan", "x", 8), ("stylegan2", "", 8), ("stylegan2", "a/b", 8),
                               ("stylegan2", "x", 0), ("stylegan2", "x", -8)]
)  # fmt: skip
def test_impossible_file_names_are_not_made(kind: str, name: str, size: int) -> None:
    with pytest.raises(ModelError, match="<model_type>-<name>-<WxH>"):
        file_name(kind, name, size, size)
