"""Our networks as the records that a network pickle of the stylegan3 programs holds.

Says for every layer which class of theirs it is, and under which names their classes keep their
settings; names and values follow what their own pickles hold. Three model types:

    stylegan2, stylegan3   the classes of the stylegan3 and DragGAN programs
    stylegan-human         StyleGAN2 with images twice as high as wide (Fu et al. 2022)

Knows nothing about pickles or files: `nvidia_pkl_writer.py` writes records, `nvidia_pkl.py` reads
them, `interchange.py` makes networks of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.errors import ModelError
from pipeline.models import stylegan2, stylegan3
from pipeline.models.layers import FullyConnectedLayer, MappingNetwork
from pipeline.models.module_record import ModuleRecord
from torch_utils.ops.bias_act import ACTIVATIONS

STYLEGAN2 = "stylegan2"
STYLEGAN3 = "stylegan3"
STYLEGAN_HUMAN = "stylegan-human"

# torch.nn.Module's own attributes beside parameters, buffers and sub-modules.
_HOOKS = (
    "_backward_pre_hooks",
    "_backward_hooks",
    "_is_full_backward_hook",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)

# Arguments of StyleGAN3's synthesis network that go on to its layers.
_LAYER3_KWARGS = (
    "conv_kernel",
    "filter_size",
    "lrelu_upsampling",
    "use_radial_filters",
    "conv_clamp",
    "magnitude_ema_beta",
)

# Their constructors' defaults where ours differ, or which are better said than left to them.
_SYNTHESIS2 = {"channel_base": 32768, "channel_max": 512, "num_fp16_res": 4, "conv_clamp": 256}


def model_type(generator: nn.Module) -> str:
    """The model type of a generator: "stylegan2", "stylegan3" or "stylegan-human"."""
    if isinstance(generator, stylegan3.Generator):
        return STYLEGAN3
    if isinstance(generator, stylegan2.Generator):
        return STYLEGAN2 if generator.init_kwargs.get("square", True) else STYLEGAN_HUMAN
    raise ModelError(f"{type(generator).__name__} is no generator of StyleGAN2 or StyleGAN3.")


def describe(network: nn.Module) -> ModuleRecord:
    """The record of a generator or discriminator and all its layers; tensors are not copied.

    Raises:
        ModelError: if it is another kind of network.
    """
    if isinstance(network, stylegan3.Generator):
        return _generator3(network)
    if isinstance(network, stylegan2.Generator):
        if network.init_kwargs.get("modulation", "demodulate") != "demodulate":
            raise ModelError(
                "a generator with AdaIN (network.modulation=adain) has no counterpart in the "
                "official programs; export it with --format safetensors."
            )
        return _generator2(network)
    if isinstance(network, stylegan2.Discriminator):
        return _discriminator(network)
    raise ModelError(f"{type(network).__name__} is no network of StyleGAN2 or StyleGAN3.")


def _record(
    class_name: str,
    module: nn.Module,
    attributes: Mapping[str, Any],
    children: Mapping[str, ModuleRecord] | None = None,
    init_args: tuple[int, ...] = (),
    init_kwargs: Mapping[str, Any] | None = None,
) -> ModuleRecord:
    """A record with `module`'s own tensors and the given rest, in torch's order."""
    # state_dict would leave out filters that are None; theirs are kept.
    buffers: dict[str, torch.Tensor | None] = dict(module.named_buffers(recurse=False))
    for name in ("up_filter", "down_filter"):
        if name in module._buffers:
            buffers.setdefault(name, None)
    state: dict[str, Any] = {
        "training": False,
        "_parameters": dict(module.named_parameters(recurse=False)),
        "_buffers": buffers,
        "_non_persistent_buffers_set": set(),
    }
    state |= {name: OrderedDict() for name in _HOOKS}
    state["_is_full_backward_hook"] = None
    state["_modules"] = dict(children or {})
    state |= attributes
    state["_init_args"] = init_args
    state["_init_kwargs"] = dict(init_kwargs or {})
    return ModuleRecord(class_name, state)


# ----------------------------------------------------------------------------------------------
# Layers that all networks share
# ----------------------------------------------------------------------------------------------


def _dense(layer: FullyConnectedLayer, **init_kwargs: Any) -> ModuleRecord:
    out_features, in_features = layer.weight.shape
    attributes: dict[str, Any] = {
        "in_features": in_features,
        "out_features": out_features,
        "activation": layer.activation,
        "weight_gain": layer.weight_gain,
        "bias_gain": layer.bias_gain,
    }
    if layer.bias is None:
        attributes["bias"] = None
    return _record(
        "FullyConnectedLayer",
        layer,
        attributes,
        init_args=(in_features, out_features),
        init_kwargs=init_kwargs,
    )


def _mapping(network: MappingNetwork, family: str, is_discriminators: bool) -> ModuleRecord:
    beta = None if is_discriminators else network.w_avg_beta
    children = {}
    attributes: dict[str, Any] = {
        "z_dim": network.z_dim,
        "c_dim": network.c_dim,
        "w_dim": network.w_dim,
        "num_ws": network.num_ws,
        "num_layers": network.num_layers,
        "w_avg_beta": beta,
    }
    if network.c_dim > 0:
        children["embed"] = _dense(network.embed)
    elif family == STYLEGAN3:
        attributes["embed"] = None
    for index in range(network.num_layers):
        layer = network.get_submodule(f"fc{index}")
        assert isinstance(layer, FullyConnectedLayer)
        children[f"fc{index}"] = _dense(
            layer, activation=layer.activation, lr_multiplier=layer.bias_gain
        )
    init_kwargs = {key: attributes[key] for key in ("z_dim", "c_dim", "w_dim", "num_ws")}
    init_kwargs |= {"num_layers": network.num_layers, "w_avg_beta": beta}
    return _record("MappingNetwork", network, attributes, children, init_kwargs=init_kwargs)


def _convolution(layer: stylegan2.Conv2dLayer, **init_kwargs: Any) -> ModuleRecord:
    out_channels, in_channels, kernel_size, _ = layer.weight.shape
    attributes: dict[str, Any] = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "activation": layer.activation,
        "up": layer.up,
        "down": layer.down,
        "conv_clamp": layer.conv_clamp,
        "padding": layer.padding,
        "weight_gain": layer.weight_gain,
        "act_gain": ACTIVATIONS[layer.activation].gain,
    }
    init_kwargs = {"kernel_size": kernel_size, **init_kwargs}
    if layer.activation != "linear":
        init_kwargs |= {"activation": layer.activation, "conv_clamp": layer.conv_clamp}
    if layer.bias is None:
        attributes["bias"] = None
        init_kwargs["bias"] = False
    return _record(
        "Conv2dLayer",
        layer,
        attributes,
        init_args=(in_channels, out_channels),
        init_kwargs=init_kwargs,
    )


# ----------------------------------------------------------------------------------------------
# StyleGAN2
# ----------------------------------------------------------------------------------------------


def _generator2(network: stylegan2.Generator) -> ModuleRecord:
    human = model_type(network) == STYLEGAN_HUMAN
    given = dict(network.init_kwargs)
    square = {"square": False} if human else {}
    dims = _pop(given, "z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    mapping = {
        "num_layers": network.mapping.num_layers,
        "w_avg_beta": network.mapping.w_avg_beta,
        **given.pop("mapping_kwargs"),
    }
    given.pop("square", None)
    synthesis = {**_SYNTHESIS2, **given}
    if synthesis.get("fused_modconv_default", 0) is None:
        del synthesis["fused_modconv_default"]
    nested = {"synthesis_kwargs": synthesis} if human else synthesis
    attributes = {**dims, "num_ws": network.num_ws, **square}
    children = {
        "synthesis": _synthesis2(network.synthesis, dims["w_dim"], synthesis, square),
        "mapping": _mapping(network.mapping, STYLEGAN2, is_discriminators=False),
    }
    init_kwargs = {**dims, **square, "mapping_kwargs": mapping, **nested}
    return _record("Generator", network, attributes, children, init_kwargs=init_kwargs)


def _synthesis2(
    network: stylegan2.SynthesisNetwork,
    w_dim: int,
    synthesis: Mapping[str, Any],
    square: Mapping[str, bool],
) -> ModuleRecord:
    dims = {
        "w_dim": w_dim,
        "img_resolution": network.img_resolution,
        "img_channels": network.img_channels,
    }
    blocks = network.blocks
    attributes = {
        **dims,
        "img_resolution_log2": network.img_resolution.bit_length() - 1,
        "num_fp16_res": synthesis["num_fp16_res"],
        "block_resolutions": [block.size[0] for block in blocks],
        "num_ws": network.num_ws,
        **square,
    }
    children = {}
    in_channels = 0
    for block in blocks:
        children[f"b{block.size[0]}"] = _block(block, in_channels, dims, synthesis, square)
        in_channels = block.out_channels
    init_kwargs = {**dims, **square, **synthesis}
    return _record("SynthesisNetwork", network, attributes, children, init_kwargs=init_kwargs)


def _block(
    block: stylegan2.SynthesisBlock,
    in_channels: int,
    dims: Mapping[str, int],
    synthesis: Mapping[str, Any],
    square: Mapping[str, bool],
) -> ModuleRecord:
    resolution = block.size[0]
    channels_last = bool(block.use_fp16 and block.fp16_channels_last)
    common = {"w_dim": dims["w_dim"], "resolution": resolution, **square}
    shared = {
        **common,
        "img_channels": dims["img_channels"],
        "is_last": resolution == dims["img_resolution"],
        "use_fp16": block.use_fp16,
    }
    attributes = {
        "in_channels": in_channels,
        **shared,
        "architecture": block.architecture,
        "channels_last": channels_last,
        "fused_modconv_default": synthesis.get("fused_modconv_default", True),
        "num_conv": block.num_conv,
        "num_torgb": block.num_torgb,
    }
    taps = list(synthesis.get("resample_filter", stylegan2.BINOMIAL_FILTER))
    children = {}
    for name, layer in block.named_children():
        if isinstance(layer, stylegan2.SynthesisLayer):
            children[name] = _synthesis_layer(layer, common, channels_last, taps)
        elif isinstance(layer, stylegan2.ToRGBLayer):
            children[name] = _to_rgb(layer, dims["w_dim"], channels_last)
        elif isinstance(layer, stylegan2.Conv2dLayer):
            children[name] = _convolution(
                layer, up=layer.up, resample_filter=taps, channels_last=channels_last
            )
    own = ("channel_base", "channel_max", "num_fp16_res")
    init_kwargs = shared | {key: value for key, value in synthesis.items() if key not in own}
    init_args = (in_channels, block.out_channels)
    return _record("SynthesisBlock", block, attributes, children, init_args, init_kwargs)


def _synthesis_layer(
    layer: stylegan2.SynthesisLayer,
    common: Mapping[str, Any],
    channels_last: bool,
    taps: list[float],
) -> ModuleRecord:
    out_channels, in_channels, _, _ = layer.weight.shape
    attributes = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        **common,
        "up": layer.up,
        "use_noise": layer.use_noise,
        "activation": layer.activation,
        "conv_clamp": layer.conv_clamp,
        "padding": layer.padding,
        "act_gain": ACTIVATIONS[layer.activation].gain,
    }
    init_kwargs: dict[str, Any] = {
        **common,
        "conv_clamp": layer.conv_clamp,
        "channels_last": channels_last,
    }
    if layer.up > 1:
        init_kwargs |= {"up": layer.up, "resample_filter": taps}
    children = {"affine": _dense(layer.affine, bias_init=1)}
    init_args = (in_channels, out_channels)
    return _record("SynthesisLayer", layer, attributes, children, init_args, init_kwargs)


def _to_rgb(layer: stylegan2.ToRGBLayer, w_dim: int, channels_last: bool) -> ModuleRecord:
    out_channels, in_channels, _, _ = layer.weight.shape
    attributes = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "w_dim": w_dim,
        "conv_clamp": layer.conv_clamp,
        "weight_gain": layer.weight_gain,
    }
    init_kwargs = {
        "w_dim": w_dim,
        "conv_clamp": layer.conv_clamp,
        "channels_last": channels_last,
    }
    children = {"affine": _dense(layer.affine, bias_init=1)}
    init_args = (in_channels, out_channels)
    return _record("ToRGBLayer", layer, attributes, children, init_args, init_kwargs)


# ----------------------------------------------------------------------------------------------
# Discriminator
# ----------------------------------------------------------------------------------------------


def _discriminator(network: stylegan2.Discriminator) -> ModuleRecord:
    given: dict[str, Any] = dict(network.init_kwargs)
    square: dict[str, Any] = {} if given.pop("square") else {"square": False}
    if given["cmap_dim"] is None:
        del given["cmap_dim"]
    resolution, img_channels = network.img_resolution, network.img_channels
    sizes = [resolution >> index for index in range(len(network.layer_names))]
    attributes = {
        "c_dim": network.c_dim,
        "img_resolution": resolution,
        "img_resolution_log2": resolution.bit_length() - 1,
        "img_channels": img_channels,
        "block_resolutions": sizes,
        **square,
    }
    common = {
        "img_channels": img_channels,
        "architecture": given["architecture"],
        "conv_clamp": given["conv_clamp"],
    }
    children = {}
    first_layer = 0
    for size in sizes:
        block = network.get_submodule(f"b{size}")
        assert isinstance(block, stylegan2.DiscriminatorBlock)
        is_first = size == resolution
        children[f"b{size}"] = _discriminator_block(
            block, size, first_layer, is_first, common, {**given["block_kwargs"], **square}
        )
        first_layer += block.num_layers
    if network.mapping is not None:
        children["mapping"] = _mapping(network.mapping, STYLEGAN2, is_discriminators=True)
    children["b4"] = _epilogue(network.b4, common, given["epilogue_kwargs"], square)
    return _record("Discriminator", network, attributes, children, init_kwargs=given | square)


def _discriminator_block(
    block: stylegan2.DiscriminatorBlock,
    resolution: int,
    first_layer: int,
    is_first: bool,
    common: Mapping[str, Any],
    block_kwargs: Mapping[str, Any],
) -> ModuleRecord:
    tmp_channels, out_channels = block.conv0.weight.shape[1], block.conv1.weight.shape[0]
    in_channels = 0 if is_first else tmp_channels
    channels_last = bool(block.use_fp16 and block.fp16_channels_last)
    attributes = {
        "in_channels": in_channels,
        "resolution": resolution,
        "img_channels": common["img_channels"],
        "first_layer_idx": first_layer,
        "architecture": block.architecture,
        "use_fp16": block.use_fp16,
        "channels_last": channels_last,
        "num_layers": block.num_layers,
    }
    if "square" in block_kwargs:
        attributes["square"] = block_kwargs["square"]
    taps = list(block_kwargs.get("resample_filter", stylegan2.BINOMIAL_FILTER))
    children = {}
    for name, layer in block.named_children():
        assert isinstance(layer, stylegan2.Conv2dLayer)
        kwargs: dict[str, Any] = {
            "trainable": isinstance(layer.weight, nn.Parameter),
            "channels_last": channels_last,
        }
        if layer.down > 1:
            kwargs |= {"down": layer.down, "resample_filter": taps}
        children[name] = _convolution(layer, **kwargs)
    init_kwargs = {
        "resolution": resolution,
        "first_layer_idx": first_layer,
        "use_fp16": block.use_fp16,
        **block_kwargs,
        **common,
    }
    init_args = (in_channels, tmp_channels, out_channels)
    return _record("DiscriminatorBlock", block, attributes, children, init_args, init_kwargs)


def _epilogue(
    epilogue: stylegan2.DiscriminatorEpilogue,
    common: Mapping[str, Any],
    epilogue_kwargs: Mapping[str, Any],
    square: Mapping[str, bool],
) -> ModuleRecord:
    in_channels = epilogue.conv.weight.shape[0]
    attributes = {
        "in_channels": in_channels,
        "cmap_dim": epilogue.cmap_dim,
        "resolution": 4,
        "img_channels": common["img_channels"],
        "architecture": common["architecture"],
        **square,
    }
    children = {}
    if epilogue.fromrgb is not None:
        children["fromrgb"] = _convolution(epilogue.fromrgb)
    if epilogue.mbstd is None:
        attributes["mbstd"] = None
    else:
        numbers = {
            "group_size": epilogue.mbstd.group_size,
            "num_channels": epilogue.mbstd.num_channels,
        }
        children["mbstd"] = _record(
            "MinibatchStdLayer", epilogue.mbstd, numbers, init_kwargs=numbers
        )
    children["conv"] = _convolution(epilogue.conv)
    children["fc"] = _dense(epilogue.fc, activation=epilogue.fc.activation)
    children["out"] = _dense(epilogue.out)
    init_kwargs = {
        "cmap_dim": epilogue.cmap_dim,
        "resolution": 4,
        **epilogue_kwargs,
        **common,
        **square,
    }
    return _record(
        "DiscriminatorEpilogue", epilogue, attributes, children, (in_channels,), init_kwargs
    )


# ----------------------------------------------------------------------------------------------
# StyleGAN3
# ----------------------------------------------------------------------------------------------


def _generator3(network: stylegan3.Generator) -> ModuleRecord:
    given = dict(network.init_kwargs)
    dims = _pop(given, "z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    mapping = {"w_avg_beta": network.mapping.w_avg_beta, **given.pop("mapping_kwargs")}
    children = {
        "synthesis": _synthesis3(network.synthesis, given),
        "mapping": _mapping(network.mapping, STYLEGAN3, is_discriminators=False),
    }
    attributes = {**dims, "num_ws": network.num_ws}
    init_kwargs = {**dims, "mapping_kwargs": mapping, **given}
    return _record("Generator", network, attributes, children, init_kwargs=init_kwargs)


def _synthesis3(network: stylegan3.SynthesisNetwork, synthesis: Mapping[str, Any]) -> ModuleRecord:
    dims = {
        "w_dim": network.w_dim,
        "img_resolution": network.img_resolution,
        "img_channels": network.img_channels,
    }
    num_layers = network.num_ws - 2
    num_critical = synthesis.get("num_critical", 2)
    attributes = {
        **dims,
        "num_ws": network.num_ws,
        "num_layers": num_layers,
        "num_critical": num_critical,
        "margin_size": synthesis.get("margin_size", 10),
        "output_scale": network.output_scale,
        "num_fp16_res": synthesis.get("num_fp16_res", 4),
        "layer_names": list(network.layer_names),
    }
    children = {"input": _input(network.input, network.w_dim)}
    signals = network.signals
    for index, name in enumerate(network.layer_names):
        layer = network.get_submodule(name)
        assert isinstance(layer, stylegan3.SynthesisLayer)
        children[name] = _layer3(
            layer,
            network.w_dim,
            before=signals[max(index - 1, 0)],
            is_critical=index >= num_layers - num_critical,
            synthesis=synthesis,
        )
    init_kwargs = {**dims, **synthesis}
    return _record("SynthesisNetwork", network, attributes, children, init_kwargs=init_kwargs)


def _input(layer: stylegan3.SynthesisInput, w_dim: int) -> ModuleRecord:
    numbers = {
        "w_dim": w_dim,
        "channels": layer.channels,
        "size": layer.size,
        "sampling_rate": float(layer.sampling_rate),
        "bandwidth": float(layer.bandwidth),
    }
    children = {"affine": _dense(layer.affine, weight_init=0, bias_init=[1, 0, 0, 0])}
    attributes = numbers | {"size": _both(layer.size)}
    return _record("SynthesisInput", layer, attributes, children, init_kwargs=numbers)


def _layer3(
    layer: stylegan3.SynthesisLayer,
    w_dim: int,
    before: stylegan3.Signal,
    is_critical: bool,
    synthesis: Mapping[str, Any],
) -> ModuleRecord:
    after = layer.after
    filter_size = synthesis.get("filter_size", 6)
    numbers = {
        "w_dim": w_dim,
        "is_torgb": layer.is_torgb,
        "is_critically_sampled": is_critical,
        "use_fp16": bool(layer.use_fp16),
        "in_channels": before.channels,
        "out_channels": after.channels,
        "in_size": before.size,
        "out_size": after.size,
        "in_sampling_rate": int(before.sampling_rate),
        "out_sampling_rate": int(after.sampling_rate),
        "in_cutoff": before.cutoff,
        "out_cutoff": after.cutoff,
        "in_half_width": before.half_width,
        "out_half_width": after.half_width,
    }
    up, down = layer.up_factor, layer.down_factor
    attributes = {
        **numbers,
        "in_size": _both(before.size),
        "out_size": _both(after.size),
        "tmp_sampling_rate": int(before.sampling_rate) * up,
        "conv_kernel": layer.weight.shape[2],
        "conv_clamp": layer.conv_clamp,
        "magnitude_ema_beta": layer.magnitude_ema_beta,
        "up_factor": up,
        "up_taps": filter_size * up if up > 1 and not layer.is_torgb else 1,
        "down_factor": down,
        "down_taps": filter_size * down if down > 1 and not layer.is_torgb else 1,
        "down_radial": bool(synthesis.get("use_radial_filters", False) and not is_critical),
        "padding": list(layer.padding),
    }
    children = {"affine": _dense(layer.affine, bias_init=1)}
    init_kwargs = numbers | {key: synthesis[key] for key in _LAYER3_KWARGS if key in synthesis}
    return _record("SynthesisLayer", layer, attributes, children, init_kwargs=init_kwargs)


def _both(size: int) -> np.ndarray:
    """(width, height) as theirs keep it."""
    return np.array([size, size], dtype=np.int64)


def _pop(table: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: table.pop(key) for key in keys}
