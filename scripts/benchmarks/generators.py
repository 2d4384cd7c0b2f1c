"""Rows of whole generators, forward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.build import Generator, build
from pipeline.models.config import NetworkConfig
from scripts.benchmarks.measure import Call
from scripts.benchmarks.reference import public_formulation
from scripts.benchmarks.rows import Row, Setting, Work
from torch_utils import native

ATEN = torch.ops.aten
# What a network's convolutions end up as.
PRODUCTS = {ATEN.convolution.default, ATEN.mm.default, ATEN.addmm.default, ATEN.bmm.default}


def make_generator(
    architecture: str, resolution: int, setting: Setting, *, small: bool = False, **shape: Any
) -> Generator:
    """A generator of the published shape with random weights; `small` for trying out."""
    torch.manual_seed(0)
    if small:
        shape = {"channel_base": 16 * resolution, "channel_max": 32, "w_dim": 32, "z_dim": 32}
    rotation = architecture == "stylegan3-r"
    published = {"channel_base": 65536, "channel_max": 1024} if rotation and not small else {}
    config = NetworkConfig(
        architecture=architecture,
        mapping_layers=8 if architecture == "stylegan2" else 2,
        # The discriminator is not wanted.
        d_channel_base=4 * resolution,
        **(published | shape),
    )
    generator, _ = build(config, resolution, 3, 0)
    return generator.to(setting.device).eval().requires_grad_(False)


def random_ws(generator: Generator, setting: Setting, count: int = 1) -> Tensor:
    """ws of `count` random latents, N × num_ws × w_dim."""
    torch.manual_seed(1)
    z = torch.randn(count, generator.z_dim, device=setting.device)
    ws: Tensor = generator.mapping(z, None)
    return ws


class _Products(TorchDispatchMode):
    """Remembers every convolution and matrix product that is done."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS or func.name() == "animedrag::conv3x3":
            self.found.append((func, args))
        return func(*args, **(kwargs or {}))


def convolutions_of(call: Call) -> Call:
    """A call that does the convolutions and matrix products of `call`, and nothing else."""
    recorder = _Products()
    with torch.no_grad(), recorder:
        call()

    def again() -> None:
        with torch.no_grad():
            for function, arguments in recorder.found:
                function(*arguments)

    return again


def flops_of(call: Call) -> float:
    """Floating-point operations of a call's convolutions and matrix products."""
    counter = FlopCounterMode(display=False, custom_mapping=_own_products())
    with counter:
        call()
    return float(counter.get_total_flops())


def _own_products() -> dict[Any, Any]:
    """What torch's counter does not know: our convolution, counted as the direct form's work."""
    if not native.status().loaded:
        return {}

    def conv3x3(x: Any, w: Any, *_: Any, out_shape: Any, **__: Any) -> int:
        return 2 * math.prod(out_shape) * math.prod(w[1:])

    return {torch.ops.animedrag.conv3x3: conv3x3}


def with_reference(call: Call) -> Call:
    """The same call on the public formulation's operators."""

    def run() -> object:
        with public_formulation():
            return call()

    return run


def forward_work(architecture: str, resolution: int) -> Callable[[Setting], Work]:
    """Work of one generator's forward pass, batch 1, in float32."""

    def make(setting: Setting) -> Work:
        side = 32 if setting.quick else resolution
        generator = make_generator(architecture, side, setting, small=setting.quick)
        ws = random_ws(generator, setting)

        def forward() -> Tensor:
            with torch.no_grad():
                image: Tensor = generator.synthesis(ws, noise_mode="const", force_fp32=True)
                return image

        return Work(
            forward,
            with_reference(forward),
            flops=flops_of(forward),
            parts={"its convolutions alone": convolutions_of(forward)},
        )

    return make


ROWS = (
    Row(
        key="stylegan2-512",
        title="StyleGAN2-512 generator forward (channel base 32768)",
        target="≥ 1.4x, within 1.3x of the time its convolutions alone take",
        work=forward_work("stylegan2", 512),
        speed=1.4,
        within={"its convolutions alone": 1.3},
        wants_gib=2,
    ),
    Row(
        key="stylegan3-t-256",
        title="StyleGAN3-T-256 generator forward",
        target="≥ 4.5x, peak memory ≤ 1/3",
        work=forward_work("stylegan3-t", 256),
        speed=4.5,
        memory=3,
        wants_gib=3,
        most_repeats=3,
    ),
    Row(
        key="stylegan3-r-256",
        title="StyleGAN3-R-256 generator forward",
        target="≥ 8x, peak memory ≤ 1/3",
        work=forward_work("stylegan3-r", 256),
        speed=8,
        memory=3,
        wants_gib=5,
        most_repeats=3,
    ),
)
