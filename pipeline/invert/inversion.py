"""The inversion on disk: latents, noise, changed weights, and the way back into the picture.

    inversion.json        format, names, figures, the crop transform, the digest of the model
    latents.safetensors   ws (1 x num_ws x w_dim) and noise.<name> (StyleGAN2's noise maps), float32
    delta.safetensors     <parameter>: tuned minus untuned, changed tensors only
    source.png            the uploaded picture, upright, whole
    aligned.png           the crop that was inverted, at the model's resolution
    pivot.png, tuned.png  the model's picture of it before and after tuning
    trace.jsonl           one line a step

Differences are small against the weights, so half precision keeps them to a part in two thousand
of the *change*: `write` measures what that does to the picture and falls back to float32 where it
could be seen. Knows the format only; how an inversion is found is in `pti` and `stage`.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.data.align import CropTransform
from pipeline.errors import ArtifactError, DataError, ModelError
from pipeline.invert import pti
from pipeline.models import checkpoint

FORMAT = 1
# A quarter of the step between two 8-bit levels, in [-1, 1]: rounding hides anything below.
INVISIBLE_CHANGE = 0.25 * 2 / 255


@dataclass
class Inversion:
    """An uploaded picture as the tuned model sees it."""

    generator: Any  # tuned, its noise maps set; eval mode, no gradients
    ws: Tensor  # 1 x num_ws x w_dim
    transform: CropTransform  # where the crop lies in the source
    aligned: np.ndarray  # the crop that was inverted, uint8
    source: np.ndarray  # the uploaded picture, H x W x 3 uint8
    info: dict[str, Any]  # inversion.json

    @classmethod
    def load(
        cls,
        folder: Path,
        model_folder: Path,
        device: torch.device | str = "cpu",
    ) -> Inversion:
        """Read an inversion and the model that it was made with.

        ArtifactError, one sentence, where a file is missing or damaged or the model is another.
        """
        info = read_info(folder, model_folder)
        generator = checkpoint.load(model_folder, names=("G_ema",), device=device)["G_ema"]
        generator.eval().requires_grad_(False)
        latents = _read_tensors(folder / "latents.safetensors", device)
        delta = _read_tensors(folder / "delta.safetensors", device)
        ws = latents.pop("ws", None)
        if ws is None or ws.shape != (1, generator.num_ws, generator.w_dim):
            raise ArtifactError(
                f"{folder / 'latents.safetensors'} holds no ws of {generator.num_ws} x "
                f"{generator.w_dim} as this model needs; invert the picture again."
            )
        noise = {name.removeprefix("noise."): value for name, value in latents.items()}
        try:
            pti.set_noise(generator, noise)
        except ModelError as error:
            raise ArtifactError(f"{folder / 'latents.safetensors'}: {error}") from error
        apply_delta(generator, delta, folder / "delta.safetensors")
        return cls(
            generator=generator,
            ws=ws,
            transform=transform_of(info, folder),
            aligned=read_png(folder / "aligned.png"),
            source=read_png(folder / "source.png"),
            info=info,
        )


def read_info(folder: Path, model_folder: Path) -> dict[str, Any]:
    """inversion.json; ArtifactError where it is missing, damaged, newer, or of another model."""
    path = folder / "inversion.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version, _ = info["format"], info["model"]["digest"]
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is no inversion: it has no inversion.json.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); invert the picture again.") from error
    if version != FORMAT:
        raise ArtifactError(
            f"{path} is of format {version}, and this animedrag reads {FORMAT}; update animedrag "
            "or invert the picture again."
        )
    digest = model_digest(model_folder)
    if digest != info["model"]["digest"]:
        raise ArtifactError(
            f"The inversion {folder} was made with another model (digest "
            f"{str(info['model']['digest'])[:12]}) than {model_folder} (digest {digest[:12]}); "
            "give it its own model (python -m scripts.artifacts lineage names it), or invert "
            "the picture again."
        )
    return info


def transform_of(info: Mapping[str, Any], folder: Path) -> CropTransform:
    """Where the crop lies in the uploaded picture; ArtifactError where `info` does not say."""
    try:
        return CropTransform.from_json(info["alignment"]["transform"])
    except (KeyError, TypeError, DataError) as error:
        raise ArtifactError(
            f"{folder / 'inversion.json'} does not say where the crop lies in the picture "
            f"({error}); invert the picture again."
        ) from error


def model_digest(model_folder: Path) -> str:
    """sha256 over what decides the untuned generator: its architecture and its weights."""
    total = hashlib.sha256()
    for name in ("architecture.json", "G_ema.safetensors"):
        try:
            with (model_folder / name).open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise ArtifactError(
                f"{model_folder} is no model folder: {name} cannot be read ({error.strerror})."
            ) from error
    return total.hexdigest()


def write_delta(path: Path, tuned: Any, untuned: Any, ws: Tensor) -> dict[str, Any]:
    """Write what tuning changed; returns how, for inversion.json.

    Half precision where the picture of `ws` cannot tell, float32 else.
    """
    before = dict(untuned.named_parameters())
    difference = {
        name: (value.detach() - before[name].detach()).cpu().contiguous()
        for name, value in tuned.named_parameters()
        if not torch.equal(value, before[name])
    }
    half = {name: value.half() for name, value in difference.items()}
    restored = copy.deepcopy(untuned)
    apply_delta(restored, half, path)
    with torch.no_grad():
        wanted = pti.picture_of(tuned, ws)
        change = float((pti.picture_of(restored, ws) - wanted).abs().max())
    is_half = change <= INVISIBLE_CHANGE  # False for NaN, too
    save_file(half if is_half else difference, path)
    return {
        "stored": "tuned - untuned",
        "dtype": "float16" if is_half else "float32",
        "tensors": len(difference),
        "values": sum(value.numel() for value in difference.values()),
        "largest_picture_change": change if is_half else 0.0,
    }


def apply_delta(generator: Any, delta: Mapping[str, Tensor], where: Path) -> None:
    """Add a delta's differences to the generator's parameters, in place."""
    parameters = dict(generator.named_parameters())
    for name, difference in delta.items():
        if name not in parameters or parameters[name].shape != difference.shape:
            raise ArtifactError(
                f"{where} changes {name} of {tuple(difference.shape)}, which this model does not "
                "have; invert the picture again."
            )
    with torch.no_grad():
        for name, difference in delta.items():
            parameters[name] += difference.to(parameters[name])


def write_latents(path: Path, ws: Tensor, noise: Mapping[str, Tensor]) -> None:
    """Write the pivot and the noise maps that belong to it."""
    tensors = {"ws": ws} | {f"noise.{name}": value for name, value in noise.items()}
    save_file(
        {key: value.detach().float().cpu().contiguous() for key, value in tensors.items()}, path
    )


def read_png(path: Path) -> np.ndarray:
    """H x W x 3 uint8; ArtifactError where the picture is missing or damaged."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}).") from error


def _read_tensors(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    try:
        return load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}).") from error
