"""Which numbers the networks compute with while they are trained, block by block.

The highest resolutions hold most of the work and lose least by coarse numbers (Karras et al. 2020b,
appendix D.1). On a GPU they run in half precision, fp16 or bf16, kernels and activations alike; on
a CPU the factors of convolutions can be bf16 (torch_utils.ops.mixed_conv2d). Weights, sums of the
optimiser and images are always float32. A network read from a file starts as that file says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torch_utils.ops import mixed_conv2d

HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def half_format(
    block: Any, device: torch.device, force_fp32: bool
) -> tuple[torch.dtype, torch.memory_format]:
    """(number format, layout) in which a block or layer that can run in half precision does so.

    block: has `use_fp16`, `half_type` and `fp16_channels_last`.
    """
    if not block.use_fp16 or device.type != "cuda" or force_fp32:
        return torch.float32, torch.preserve_format
    last = torch.channels_last if block.fp16_channels_last else torch.preserve_format
    return block.half_type, last


def choose_precision(wanted: str, device: torch.device) -> str:
    """What "auto" means on this device; and what else cannot be had there.

    wanted: auto, fp32, fp16 or bf16. Raises ValueError with the reason, as the end of a sentence.
    """
    if wanted == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    if wanted == "fp16" and device.type != "cuda":
        raise ValueError("fp16 runs on a GPU only; use bf16 or fp32")
    if wanted == "bf16" and device.type == "cpu" and not mixed_conv2d.has_instructions():
        raise ValueError("this processor has no instructions for bf16, it would be slow; use fp32")
    if wanted == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise ValueError("this GPU has no instructions for bf16; use fp16")
    return wanted


def set_precision(
    network: nn.Module, precision: str, channels_last: bool, device: torch.device
) -> None:
    """Make a network compute on a device as the settings say.

    Args:
        network: a generator or discriminator.
        precision: fp32: full everywhere. fp16, bf16: on a GPU the blocks that the network's
            `num_fp16_res` names; bf16 on a CPU: every convolution's factors.
        channels_last: layout of what runs in half precision on a GPU.
    """
    module: Any
    factors = torch.bfloat16 if precision == "bf16" and device.type == "cpu" else None
    for module in network.modules():
        if hasattr(module, "use_fp16"):
            module.use_fp16 = module.use_fp16 and precision != "fp32"
            module.half_type = HALVES.get(precision, torch.float16)
            module.fp16_channels_last = channels_last
        if hasattr(module, "factors"):
            module.factors = factors
