"""A generator as the drag engine sees it: which layer is dragged, which rows of ws may change.

The only place of the drag that knows network classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.console import complain
from pipeline.edit.drag import DragModel, LatentPrior
from pipeline.edit.view import GeneratorView
from pipeline.errors import ConfigError
from pipeline.models import stylegan3
from pipeline.models.characters import one_hot
from torch_utils.recording import CannotRecordError, graphed

# Latents that the prior is estimated from: some times as many as w has dimensions (512).
PRIOR_SAMPLES = 2048
# Added to the prior's variances, as a share of their mean: few samples leave some directions out.
PRIOR_FLOOR = 1e-3


def choose_layer(generator: Any) -> str:
    """The layer to drag: the last one up to the network's own choice at a quarter of the picture.

    A quarter is what Pan et al. have at 512 px. The 6th block of a smaller network is one of its
    last, whose features are colours rather than parts of a face: they change in place, and a
    handle seems to have arrived where nothing has moved.
    """
    synthesis = generator.synthesis
    names = synthesis.layer_names[: synthesis.layer_names.index(synthesis.drag_layer) + 1]
    fitting = [name for name in names if synthesis.feature_frame(name).scale <= 0.25]
    return fitting[-1] if fitting else names[0]


def free_rows(generator: Any, layer: str, count: int, move_whole_face: bool) -> tuple[int, int]:
    """First and one past the last row of ws to optimise: leading rows that influence `layer`.

    StyleGAN3's first row turns and shifts its Fourier input, i.e. the whole face: it stays fixed
    unless `move_whole_face`.
    """
    first = 1 if isinstance(generator, stylegan3.Generator) and not move_whole_face else 0
    last = min(first + count, generator.synthesis.feature_frame(layer).ws_rows)
    return first, last


def drag_model(generator: Any, layer: str) -> DragModel:
    """The generator's features of `layer` and their place in the picture.

    The network is run only up to that layer, in full precision (half precision's gradients
    vanish); noise is the constant noise of its buffers. Modulation scales activations: scaled
    weights would each need a gradient, as long as the layer itself, on the way back to ws.
    """
    synthesis = generator.synthesis
    frame = synthesis.feature_frame(layer)

    def run(ws: Tensor) -> Tensor:
        maps: Tensor = synthesis.features(
            ws, layer, noise_mode="const", force_fp32=True, fused_modconv=False
        )
        return maps

    features: Callable[[Tensor], Tensor] = run
    device = next(generator.parameters()).device
    if device.type == "cuda":
        try:
            features = captured(run, generator.num_ws, generator.w_dim, device)
        except CannotRecordError as error:
            complain(
                f"edit: the drag step cannot be recorded as CUDA graphs ({error}); it goes on "
                "without them, which is slower."
            )
    width = round((frame.width - 2 * frame.offset) / frame.scale)
    height = round((frame.height - 2 * frame.offset) / frame.scale)
    prior = latent_prior(generator)
    view = GeneratorView(generator, layer, prior) if generator.img_channels == 3 else None
    return DragModel(features, frame, width, height, prior, view)


def check_colour(generator: Any, setting: str) -> None:
    """ConfigError, in words of the `setting` that names the model, where it draws grey pictures."""
    if generator.img_channels != 3:
        raise ConfigError(f"{setting} draws grey pictures; the face reader needs colour.")


@torch.no_grad()
def numbered_ws(
    generator: Any, number: int, truncation: float, character: int | None = None
) -> Tensor:
    """1 × num_ws × w_dim: the model's face of that number, the same wherever it is asked for.

    character: its class; None: of a model of several, each in turn.
    """
    device = next(generator.parameters()).device
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(number))
    if character is None and generator.c_dim:
        character = number % generator.c_dim
    label = one_hot(character, generator.c_dim)
    ws: Tensor = generator.mapping(z.to(device), label.to(device), truncation_psi=truncation)
    return ws


@torch.no_grad()
def latent_prior(generator: Any) -> LatentPrior:
    """Mean and spread of the generator's w, of latents and labels drawn from a fixed seed.

    Of a model of several characters the spread is that within a character, pooled: what lies
    between them makes another of one, which no drag is to do.
    """
    draws = torch.Generator().manual_seed(0)
    z = torch.randn(PRIOR_SAMPLES, generator.z_dim, generator=draws)
    classes = torch.randint(max(generator.c_dim, 1), (PRIOR_SAMPLES,), generator=draws)
    labels = torch.eye(generator.c_dim)[classes] if generator.c_dim else None
    device = next(generator.mapping.parameters()).device
    w = generator.mapping(z.to(device), None if labels is None else labels.to(device))[:, 0]
    w = w.double().cpu()
    mean = w.mean(0)
    apart, freedom = w - mean, len(w) - 1
    if generator.c_dim > 1:
        members = torch.eye(generator.c_dim, dtype=w.dtype)[classes]
        sizes = members.sum(0).clamp_min(1)
        apart = w - members @ (members.t() @ w / sizes[:, None])
        freedom = max(len(w) - int((members.sum(0) > 0).sum()), 1)
    covariance = apart.t() @ apart / freedom
    covariance.diagonal().add_(PRIOR_FLOOR * covariance.diagonal().mean().clamp_min(1e-12))
    spread = torch.linalg.cholesky(covariance)
    return LatentPrior(mean.to(device), spread.to(device))


def captured(
    features: Callable[[Tensor], Tensor], num_ws: int, w_dim: int, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """The same function of ws (1 × num_ws × w_dim, on the GPU `device`) as two CUDA graphs, one
    forward, one backward.

    A step then launches two graphs instead of hundreds of kernels, always on the same memory. The
    map is copied out of it, for the drag keeps that of its first step. CannotRecordError if that is
    not possible.
    """
    like = torch.zeros(1, num_ws, w_dim, device=device, requires_grad=True)
    replay = graphed(features, like)
    return lambda ws: replay(ws).clone()
