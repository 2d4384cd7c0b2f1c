"""Network pickles of other programs to our networks, and ours to theirs.

Three dialects come in, all as records of `nvidia_pkl.py`; they differ in what their constructors
take and what they assume where a setting was not given:

    stylegan2-ada    synthesis options nested in synthesis_kwargs
    stylegan3        the stylegan3 program's StyleGAN2 and StyleGAN3: flat options, other defaults
    stylegan-human   like stylegan2-ada, with images twice as high as wide

PTI's `.pt` holds one generator of any of them. Settings are taken from the layers' own attributes
where these have them, then from the constructors' arguments, then from the dialect. The network is
then built without weights, and every tensor and every attribute of the file is held against it:
what this program would compute otherwise than the file's author is refused, by name.

Our networks go out under the file name `<model_type>-<name>-<WxH>.pkl`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline import files
from pipeline.errors import AnimedragError, ModelError
from pipeline.models import nvidia_pkl_writer, stylegan2, stylegan3
from pipeline.models.checkpoint import CLASSES, WithoutWeights, check_numbers
from pipeline.models.nvidia_pkl import ModuleRecord, NetworkPickle
from pipeline.models.nvidia_records import (
    STYLEGAN2,
    STYLEGAN3,
    STYLEGAN_HUMAN,
    describe,
    model_type,
)

ADA = "stylegan2-ada"

# The networks that are taken from a file, in this order.
NETWORKS = ("G", "D", "G_ema")

# Far above any real StyleGAN3, far below what would take noticeable time or memory to set up.
MAX_SIDE = 16384
MAX_MARGIN = 256
MAX_TAPS = 1024
MAX_CHANNELS = 2**15

_DIMS = frozenset(("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"))
_MAPPING = frozenset(
    "num_layers embed_features layer_features activation lr_multiplier w_avg_beta".split()
)
_SYNTHESIS2 = frozenset(
    "channel_base channel_max num_fp16_res fused_modconv_default architecture resample_filter "
    "conv_clamp fp16_channels_last use_noise activation".split()
)
_SYNTHESIS3 = frozenset(
    "channel_base channel_max num_layers num_critical first_cutoff first_stopband "
    "last_stopband_rel margin_size output_scale num_fp16_res conv_kernel filter_size "
    "lrelu_upsampling use_radial_filters conv_clamp magnitude_ema_beta".split()
)
_DISCRIMINATOR = frozenset(
    "c_dim img_resolution img_channels architecture channel_base channel_max num_fp16_res "
    "conv_clamp cmap_dim square block_kwargs mapping_kwargs epilogue_kwargs".split()
)
_BLOCK = frozenset("activation resample_filter fp16_channels_last freeze_layers".split())
_EPILOGUE = frozenset("mbstd_group_size mbstd_num_channels activation".split())

# Kinds of values: what is not listed is a whole number.
_NUMBERS = frozenset(
    "conv_clamp output_scale first_cutoff first_stopband last_stopband_rel magnitude_ema_beta "
    "w_avg_beta lr_multiplier".split()
)
_SWITCHES = frozenset("use_radial_filters use_noise fp16_channels_last square".split())
_WORDS = frozenset(("architecture", "activation"))
_MAY_BE_NONE = frozenset(
    "conv_clamp cmap_dim w_avg_beta embed_features layer_features mbstd_group_size "
    "fused_modconv_default".split()
)

# What the two programs assume where nothing was given.
_ASSUMED: dict[str, dict[str, Any]] = {
    ADA: {"num_fp16_res": 0, "conv_clamp": None, "w_avg_beta": 0.995},
    STYLEGAN3: {"num_fp16_res": 4, "conv_clamp": 256, "w_avg_beta": 0.998},
}

# Attributes that may differ: they change speed, not values, or the weights' names say them.
_FREE = frozenset(
    "use_fp16 num_fp16_res channels_last fused_modconv_default resolution img_resolution_log2 "
    "block_resolutions img_resolution layer_names square".split()
)


# ----------------------------------------------------------------------------------------------
# In
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Imported:
    """Networks by key, in evaluation mode, float32, and the dialect they came in."""

    networks: dict[str, nn.Module]
    dialect: str


def import_networks(content: NetworkPickle) -> Imported:
    """Our networks for those of a file: G, D and G_ema, as far as it has them.

    Raises:
        ModelError: if one of them is of an unknown kind, has settings unknown here, or would not
            compute here what it computes there. Nothing large is allocated before that is known.
    """
    dialects = {}
    built = {}
    generator = "G_ema" if "G_ema" in content.networks else "G"
    if generator not in content.networks:
        raise ModelError("it holds no generator.")
    for key in NETWORKS:
        if key in content.networks:
            record = content.networks[key]
            try:
                parts = record.walk()
                dialects[key] = _dialect(parts)
                built[key] = _build(parts, dialects[key])
            except AnimedragError as error:
                raise ModelError(f"network {key} was refused: {error}") from None
    for key, record in content.networks.items():
        if key in built:
            _load(built[key], record)
    return Imported(built, dialects[generator])


def _dialect(parts: Mapping[str, ModuleRecord]) -> str:
    """Which program wrote a network, told from the attributes that only its layers have."""
    if parts[""].class_name == "Generator":
        synthesis = _part(parts, "synthesis")
        if _is_stylegan3(parts):
            return STYLEGAN3
        const = _part(parts, "synthesis.b4").state.get("_parameters", {}).get("const")
        if not isinstance(const, torch.Tensor) or const.ndim != 3:
            raise ModelError("it has no learned constant at 4x4 pixels.")
        if const.shape[1] != const.shape[2]:
            return STYLEGAN_HUMAN
        return STYLEGAN3 if "num_fp16_res" in synthesis.state else ADA
    if parts[""].class_name == "Discriminator":
        return STYLEGAN3 if "in_channels" in _part(parts, "b4.conv").state else ADA
    raise ModelError(f"it is a {parts[''].class_name[:60]}, neither Generator nor Discriminator.")


def _is_stylegan3(parts: Mapping[str, ModuleRecord]) -> bool:
    return "synthesis.input" in parts or "layer_names" in _part(parts, "synthesis").state


def _part(parts: Mapping[str, ModuleRecord], path: str) -> ModuleRecord:
    if path not in parts:
        raise ModelError(f"it has no part {path}, as every network of its kind has.")
    return parts[path]


def _build(parts: Mapping[str, ModuleRecord], dialect: str) -> nn.Module:
    """The network, its weights still without values, after everything was compared."""
    if parts[""].class_name == "Discriminator":
        class_name, arguments = "stylegan2.Discriminator", _discriminator(parts, dialect)
    elif _is_stylegan3(parts):
        class_name, arguments = "stylegan3.Generator", _generator3(parts)
    else:
        class_name, arguments = "stylegan2.Generator", _generator2(parts, dialect)
    _check_kinds(arguments)
    check_numbers("it", arguments)
    for key in ("channel_base", "channel_max", "z_dim", "w_dim", "c_dim", "cmap_dim"):
        if not 0 <= (arguments.get(key) or 0) <= 32 * MAX_CHANNELS:
            raise ModelError(f"{key}={arguments[key]} is beyond any network.")
    try:
        if class_name == "stylegan3.Generator":
            _check_signals(parts, arguments)
        with WithoutWeights():
            network = CLASSES[class_name](**arguments)
        description = describe(network).walk()
    except AnimedragError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError, LookupError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"its settings do not make a {class_name} ({reason}).") from None
    _compare_tensors(network, parts[""])
    _compare_attributes(description, parts)
    return network


def _known(where: str, kwargs: object, names: Collection[str]) -> dict[str, Any]:
    """Keywords given to a constructor; ModelError for one that this program does not know."""
    if not isinstance(kwargs, dict):
        raise ModelError(f"its {where} are not a table of settings.")
    for name in kwargs:
        if name not in names:
            raise ModelError(f"{where} has the setting {name[:60]}, which is not known here.")
    return dict(kwargs)


def _check_kinds(arguments: Mapping[str, Any]) -> None:
    """Refuse a setting that is no number, switch or word where one must be."""
    for name, value in arguments.items():
        if name.endswith("_kwargs"):
            _check_kinds(value)
        elif not _is_right_kind(name, value):
            kind = type(value).__name__
            raise ModelError(f"its setting {name} is of a wrong kind ({kind}).")


def _is_right_kind(name: str, value: object) -> bool:
    if value is None:
        return name in _MAY_BE_NONE
    if name == "resample_filter":
        return isinstance(value, list) and all(_is_number(tap) for tap in value)
    if name == "fused_modconv_default":
        return isinstance(value, bool) or value == "inference_only"
    if name in _SWITCHES:
        return isinstance(value, bool)
    if name in _WORDS:
        return isinstance(value, str)
    return _is_number(value) and (name in _NUMBERS or isinstance(value, int))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _dims(record: ModuleRecord, *names: str) -> dict[str, Any]:
    """Widths and counts of a whole network: its attributes, else what it was made with."""
    given = record.init_kwargs | record.attributes()
    for name in names:
        if not isinstance(given.get(name), int) or isinstance(given[name], bool):
            raise ModelError(f"its {name} is not a whole number.")
    return {name: given[name] for name in names}


def _resolution(parts: Mapping[str, ModuleRecord], prefix: str) -> int:
    """Height of the images: the largest number among the blocks' names b4, b8, ..."""
    pattern = re.compile(re.escape(prefix) + r"b(\d{1,5})")
    return max((int(found[1]) for path in parts if (found := pattern.fullmatch(path))), default=0)


def _mapping(
    parts: Mapping[str, ModuleRecord], given: object, beta: float | None
) -> dict[str, Any]:
    """Arguments of the mapping network: as passed, depth and beta from its attributes."""
    record = _part(parts, "mapping")
    kwargs = _known("mapping_kwargs", given, _MAPPING)
    own = {"w_avg_beta": beta, **record.attributes()}
    kwargs["num_layers"] = own.get("num_layers")
    if record.attributes().get("num_ws") is not None:
        kwargs["w_avg_beta"] = own["w_avg_beta"]
    return kwargs


def _generator2(parts: Mapping[str, ModuleRecord], dialect: str) -> dict[str, Any]:
    record, synthesis = parts[""], _part(parts, "synthesis")
    options = _SYNTHESIS2 | {"square"}
    tables = {"mapping_kwargs", "synthesis_kwargs"}
    given = _known("the generator", record.init_kwargs, _DIMS | options | tables)
    nested = _known("synthesis_kwargs", given.pop("synthesis_kwargs", {}), options)
    mapping_kwargs = given.pop("mapping_kwargs", {})
    # The synthesis network's own arguments are flat in every dialect.
    own = _known("the synthesis network", synthesis.init_kwargs, _DIMS | options)
    passed = {**given, **nested, **own}
    assumed = _ASSUMED[STYLEGAN3 if dialect == STYLEGAN3 else ADA]
    kwargs = {key: passed[key] for key in sorted(_SYNTHESIS2 & passed.keys())}
    first = _part(parts, "synthesis.b4.conv1").attributes()
    stated = passed | synthesis.attributes()
    kwargs["num_fp16_res"] = stated.get("num_fp16_res", assumed["num_fp16_res"])
    kwargs["conv_clamp"] = (assumed | passed | first)["conv_clamp"]
    resolution = _resolution(parts, "synthesis.")
    channels = {
        int(path.removeprefix("synthesis.b").removesuffix(".conv1")): _out_channels(part)
        for path, part in parts.items()
        if re.fullmatch(r"synthesis\.b\d{1,5}\.conv1", path)
    }
    kwargs |= _channels(kwargs, channels)
    if dialect == STYLEGAN_HUMAN:
        kwargs["square"] = False
    return {
        **_dims(record, "z_dim", "c_dim", "w_dim", "img_channels"),
        "img_resolution": resolution,
        "mapping_kwargs": _mapping(parts, mapping_kwargs, assumed["w_avg_beta"]),
        **kwargs,
    }


def _out_channels(record: ModuleRecord) -> int:
    for name, tensor in record.tensors().items():
        if name == "weight" and tensor.ndim == 4:
            return int(tensor.shape[0])
    raise ModelError("a convolution has no kernel.")


def _channels(options: Mapping[str, Any], found: Mapping[int, int]) -> dict[str, Any]:
    """channel_base and channel_max: as given or usual where they fit, else from the weights."""
    base, most = options.get("channel_base", 32768), options.get("channel_max", 512)
    if not isinstance(base, int) or not isinstance(most, int):
        raise ModelError("its channel_base or channel_max is not a whole number.")
    fits = all(stylegan2.channels_at(size, base, most) == n for size, n in found.items() if size)
    if not fits and "channel_base" not in options and found:
        most = max(found.values())
        base = max(size * n for size, n in found.items())
    return {"channel_base": base, "channel_max": most}


def _discriminator(parts: Mapping[str, ModuleRecord], dialect: str) -> dict[str, Any]:
    record = parts[""]
    given = _known("the discriminator", record.init_kwargs, _DISCRIMINATOR)
    assumed = _ASSUMED[dialect]
    conv, epilogue = _part(parts, "b4.conv"), _part(parts, "b4")
    dims = _dims(record, "c_dim", "img_channels")
    resolution = _resolution(parts, "")
    channels = {4: _out_channels(conv)}
    for size in (2**power for power in range(3, 15)):
        if f"b{size}.conv0" in parts:
            channels[size] = _out_channels(parts[f"b{size}.conv0"])
    options = _channels(given, channels)
    options["num_fp16_res"] = given.get("num_fp16_res", assumed["num_fp16_res"])
    options["conv_clamp"] = (assumed | given | conv.attributes())["conv_clamp"]
    usual = {"architecture": "resnet"}
    options["architecture"] = (usual | given | epilogue.attributes())["architecture"]
    options["cmap_dim"] = given.get("cmap_dim")
    inputs = _part(parts, "b4.fc").tensors().get("weight")
    if inputs is None or inputs.ndim != 2:
        raise ModelError("its dense layer b4.fc has no weights.")
    options["square"] = bool(inputs.shape[1] != 8 * channels[4])
    arguments = {
        **dims,
        "img_resolution": resolution,
        **options,
        "block_kwargs": _known("block_kwargs", given.get("block_kwargs", {}), _BLOCK),
        "mapping_kwargs": {},
        "epilogue_kwargs": _known("epilogue_kwargs", given.get("epilogue_kwargs", {}), _EPILOGUE),
    }
    kwargs = _known("mapping_kwargs", given.get("mapping_kwargs", {}), _MAPPING)
    arguments["mapping_kwargs"] = _mapping(parts, kwargs, None) if dims["c_dim"] else kwargs
    return arguments


def _generator3(parts: Mapping[str, ModuleRecord]) -> dict[str, Any]:
    record, synthesis = parts[""], _part(parts, "synthesis")
    given = _known("the generator", record.init_kwargs, _DIMS | _SYNTHESIS3 | {"mapping_kwargs"})
    mapping_kwargs = given.pop("mapping_kwargs", {})
    passed = given | _known("the synthesis network", synthesis.init_kwargs, _DIMS | _SYNTHESIS3)
    options = {key: passed[key] for key in sorted(_SYNTHESIS3 & passed.keys())}
    first = next((part for path, part in parts.items()
                  if re.fullmatch(r"synthesis\.L0_\w+", path)), None)  # fmt: skip
    if first is None:
        raise ModelError("it has no first layer L0.")
    for source, names in (
        (synthesis, ("num_layers", "num_critical", "margin_size", "output_scale", "num_fp16_res")),
        (first, ("conv_clamp", "conv_kernel", "magnitude_ema_beta")),
    ):
        attributes = source.attributes()
        options |= {name: attributes[name] for name in names if name in attributes}
    return {
        **_dims(record, *sorted(_DIMS)),
        "mapping_kwargs": _mapping(parts, mapping_kwargs, _ASSUMED[STYLEGAN3]["w_avg_beta"]),
        **options,
    }


def _check_signals(parts: Mapping[str, ModuleRecord], arguments: Mapping[str, Any]) -> None:
    """Refuse StyleGAN3 settings whose filters or maps would be huge, and layers named otherwise."""
    names = ("channel_base", "channel_max", "num_layers", "num_critical", "first_cutoff",
             "first_stopband", "last_stopband_rel", "margin_size")  # fmt: skip
    plan = stylegan3.SignalPlan(
        arguments["img_resolution"],
        arguments["img_channels"],
        **{name: arguments[name] for name in names if name in arguments},
    )
    if not 0 <= plan.margin_size <= MAX_MARGIN:
        raise ModelError(f"margin_size={plan.margin_size} is beyond any network.")
    signals = plan.signals()
    taps = arguments.get("filter_size", 6) * arguments.get("lrelu_upsampling", 2)
    for before, after in zip([signals[0], *signals], signals, strict=False):
        rates = (before.sampling_rate, after.sampling_rate)
        if not all(isinstance(rate, int) and rate >= 1 for rate in rates):
            raise ModelError("its cutoffs give a layer less than one sample.")
        if max(rates) // min(rates) * taps > MAX_TAPS:
            raise ModelError("its filters have more taps than any network's.")
        if not 1 <= after.size <= MAX_SIDE or not 1 <= after.channels <= MAX_CHANNELS:
            raise ModelError("its maps are larger than any network's.")
    expected = {
        f"synthesis.L{index}_{signal.size}_{signal.channels}"
        for index, signal in enumerate(signals)
    }
    found = {path for path in parts if re.fullmatch(r"synthesis\.L[^.]*", path)}
    if expected != found:
        odd = sorted(expected ^ found)[0]
        raise ModelError(f"its settings and its layers do not match ({odd[:60]}).")


def _compare_tensors(network: nn.Module, record: ModuleRecord) -> None:
    expected, found = network.state_dict(), record.tensors()
    for name in sorted(expected.keys() - found.keys()):
        raise ModelError(f"it lacks the tensor {name} that its settings ask for.")
    for name in sorted(found.keys() - expected.keys()):
        raise ModelError(f"it has a tensor {name[:80]} that its settings do not ask for.")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"its tensor {name} is {list(tensor.shape)}, but its settings ask for "
                f"{list(expected[name].shape)}."
            )
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ModelError(f"its tensor {name} holds values that are not finite numbers.")


def _compare_attributes(
    ours: Mapping[str, ModuleRecord], theirs: Mapping[str, ModuleRecord]
) -> None:
    """Refuse a file whose layers are set up otherwise than ours are."""
    for path in sorted(ours.keys() ^ theirs.keys()):
        side = "lacks" if path in ours else "has"
        raise ModelError(f"it {side} a part {path[:80]}, otherwise than its settings say.")
    for path, record in ours.items():
        other = theirs[path]
        if record.class_name != other.class_name:
            raise ModelError(
                f"its part {path or 'at the top'} is a {other.class_name[:60]}, but its settings "
                f"ask for a {record.class_name}."
            )
        found = other.attributes()
        for name, value in record.attributes().items():
            if name in found and name not in _FREE and not _same(value, found[name]):
                raise ModelError(
                    f"its part {path or 'at the top'} has {name}={str(found[name])[:60]}, but "
                    f"this program would compute with {value}; it comes from another program."
                )


def _same(ours: Any, theirs: Any) -> bool:
    """Equal, numbers to within rounding; arrays and lists element by element."""
    if isinstance(ours, str | None) or isinstance(theirs, str | None):
        return type(ours) is type(theirs) and bool(ours == theirs)
    if isinstance(ours, bool) != isinstance(theirs, bool):
        return False
    try:
        a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-6, atol=1e-9))


def _load(network: nn.Module, record: ModuleRecord) -> None:
    state = {
        # clone: a pickle's tensors lie in its buffers, one may be a view of another.
        name: tensor.to(torch.float32).contiguous().clone()
        for name, tensor in record.tensors().items()
    }
    network.load_state_dict(state, strict=True, assign=True)
    network.eval().requires_grad_(True)


# ----------------------------------------------------------------------------------------------
# Out
# ----------------------------------------------------------------------------------------------

# The line in place of the module source: run by their loader, it gives it their own classes.
_SOURCE_LINES = {
    STYLEGAN2: "from training.networks_stylegan2 import *\n",
    STYLEGAN3: "from training.networks_stylegan3 import *\n",
    STYLEGAN_HUMAN: "from stylegan_human.training_scripts.sg2.training.networks import *\n",
}
_FORMAT = (
    "<model_type>-<name>-<WxH>.pkl, with model type stylegan2, stylegan-human or stylegan3, "
    "for example stylegan3-ganyu-512x512.pkl"
)
_FILE_NAME = re.compile(
    r"(stylegan2|stylegan-human|stylegan3)-([A-Za-z0-9][A-Za-z0-9._-]{0,99})"
    r"-([1-9]\d{0,4})x([1-9]\d{0,4})\.pkl"
)
_CLAIM = re.compile(r"(?i)stylegan[^-]*-.*-\d+x\d+\.pkl")


@dataclass(frozen=True)
class ModelFileName:
    """What the name of a network pickle says; width and height of its images in pixels."""

    model_type: str
    name: str
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.model_type}-{self.name}-{self.width}x{self.height}.pkl"


def parse_file_name(text: str) -> ModelFileName:
    """Read `<model_type>-<name>-<WxH>.pkl`; ModelError spells the format out for any other text."""
    found = _FILE_NAME.fullmatch(text)
    if found is None:
        raise ModelError(f"{text!r} is not the name of a network pickle; it must be {_FORMAT}.")
    return ModelFileName(found[1], found[2], int(found[3]), int(found[4]))


def file_name(kind: str, name: str, width: int, height: int) -> str:
    """The file name for a model; ModelError, with the format, if one of the parts is impossible."""
    text = f"{kind}-{name}-{width}x{height}.pkl"
    parsed = parse_file_name(text)
    if parsed != ModelFileName(kind, name, width, height):
        raise ModelError(f"{text!r} would be read otherwise; the name must be {_FORMAT}.")
    return text


def file_name_of(generator: nn.Module, name: str) -> str:
    """The file name for a generator of ours, by its model type and the size of its images."""
    assert isinstance(generator, stylegan2.Generator | stylegan3.Generator)
    height, width = generator.synthesis.img_size
    return file_name(model_type(generator), name, width, height)


def check_claim(text: str, generator: nn.Module) -> None:
    """Refuse a file whose name says, in the format, that it holds another network than it does.

    Names that do not begin and end as the format's (network-snapshot-000300.pkl) claim nothing.
    """
    if not _CLAIM.fullmatch(text):
        return
    given = parse_file_name(text)
    right = file_name_of(generator, given.name)
    if text != right:
        raise ModelError(f"{text} does not say what is in it; rename it to {right}.")


def new_discriminator(generator: nn.Module) -> stylegan2.Discriminator:
    """An untrained discriminator for a generator's images; always the same weights."""
    assert isinstance(generator, stylegan2.Generator | stylegan3.Generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return stylegan2.Discriminator(
            c_dim=generator.c_dim,
            img_resolution=generator.img_resolution,
            img_channels=generator.img_channels,
            square=model_type(generator) != STYLEGAN_HUMAN,
        )


def export_networks(path: Path, networks: Mapping[str, nn.Module]) -> None:
    """Write networks as a pickle that the stylegan3 and DragGAN programs load.

    Args:
        path: file to write; replaced if it exists, never left half written.
        networks: G, D and G_ema; the programs refuse a file that lacks one of them.

    Raises:
        ModelError: if one is missing or of another kind.
    """
    for key in NETWORKS:
        if key not in networks:
            raise ModelError(
                f"network {key} is missing, and the official programs load no file without it."
            )
    kind = model_type(networks["G_ema"])
    records = {key: describe(networks[key]) for key in NETWORKS}

    def source_line(record: ModuleRecord) -> str:
        # StyleGAN3's discriminator is StyleGAN2's.
        is_plain = record.class_name == "Discriminator" and kind == STYLEGAN3
        return _SOURCE_LINES[STYLEGAN2 if is_plain else kind]

    extra = {"training_set_kwargs": None, "augment_pipe": None}
    with files.put(path) as aside, aside.open("wb") as stream:
        nvidia_pkl_writer.write(stream, records, source_line, extra)
