"""The inversion on disk: latents, noise, changed weights, and the way back into the picture.

    inversion.json        format, names, figures, the crop transform, the digest of the model
    latents.safetensors   ws (1 x num_ws x w_dim) and noise.<name> (buffers of the synthesis
                          network: StyleGAN2's noise maps, StyleGAN3's input.transform), float32
    delta.safetensors     <parameter>: tuned minus untuned, changed tensors only; or its two factors
                          <parameter>.lora_b and .lora_a, whose product that is (see `weight_forms`)
    source.png            the uploaded picture, upright, whole
    aligned.png           the crop that was inverted, at the model's resolution
    pivot.png, tuned.png  the model's picture of it before and after tuning
    trace.jsonl           one line a step

Differences are small against the weights, so half precision keeps them to a part in two thousand
of the *change*: `write_delta` measures what that does to the picture and falls back to float32
where it could be seen. An inversion of a folder has the same files of its first picture, and beside
them `pictures/<name>/` for each (see `folder`). Format 1 is the same without factors, placements
and folders, and is read. Knows the format only; how an inversion is found is in `pti` and `phases`.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
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
from pipeline.errors import ArtifactError, DataError, ModelError, nearest
from pipeline.invert import pti, weight_forms
from pipeline.models import checkpoint

FORMAT = 2
READ_FORMATS = (1, 2)
# Where the inversions of a folder's pictures lie.
PICTURES = "pictures"
# Where a delta may lie, seen from inversion.json: beside it, or above all pictures that share it.
DELTA_FILES = ("delta.safetensors", "../../delta.safetensors")
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
        picture: str | None = None,
    ) -> Inversion:
        """Read an inversion and the model that it was made with.

        `picture`: which one of a folder's, by name; None: the first, or the only one.
        ArtifactError, one sentence, where a file is missing or damaged or the model is another.
        """
        folder = picture_folder(folder, picture)
        info = read_info(folder, model_folder)
        generator = checkpoint.load(model_folder, names=("G_ema",), device=device)["G_ema"]
        generator.eval().requires_grad_(False)
        latents = _read_tensors(folder / "latents.safetensors", device)
        delta_file = _delta_file(info, folder)
        delta = _read_tensors(delta_file, device)
        ws = latents.pop("ws", None)
        if ws is None or ws.shape != (1, generator.num_ws, generator.w_dim):
            raise ArtifactError(
                f"{folder / 'latents.safetensors'} holds no ws of {generator.num_ws} x "
                f"{generator.w_dim} as this model needs; invert the picture again."
            )
        noise = {name.removeprefix("noise."): value for name, value in latents.items()}
        try:
            pti.set_buffers(generator, noise)
        except ModelError as error:
            raise ArtifactError(f"{folder / 'latents.safetensors'}: {error}") from error
        apply_delta(generator, delta, delta_file)
        return cls(
            generator=generator,
            ws=ws,
            transform=transform_of(info, folder),
            aligned=read_png(folder / "aligned.png"),
            source=read_png(folder / "source.png"),
            info=info,
        )


def names_of_pictures(folder: Path) -> list[str]:
    """Names of the pictures in an inversion of a folder; none in that of one picture."""
    try:
        info = json.loads((folder / "inversion.json").read_text(encoding="utf-8"))
        return [str(name) for name in info.get("pictures", [])]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


def picture_folder(folder: Path, picture: str | None) -> Path:
    """Where the inversion of that picture lies; None: of the first, or the only one.

    ArtifactError, naming the nearest, where there is no such picture.
    """
    if picture is None:
        return folder
    names = names_of_pictures(folder)
    if picture not in names:
        known = f"it has {', '.join(names)}" if names else "it is of one picture"
        near = f"; the nearest is {nearest(picture, names)}" if names else ""
        raise ArtifactError(f"The inversion {folder} has no picture {picture} ({known}){near}.")
    return folder / PICTURES / picture


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
    if version not in READ_FORMATS:
        raise ArtifactError(
            f"{path} is of format {version}, and this animedrag reads up to {FORMAT}; update "
            "animedrag or invert the picture again."
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


def write_delta(
    path: Path,
    stored: Mapping[str, Tensor],
    untuned: Any,
    shown: Sequence[tuple[Tensor, Mapping[str, Tensor]]],
) -> dict[str, Any]:
    """Write what tuning changed; returns how, for inversion.json.

    Half precision where the pictures cannot tell, float32 else.

    Args:
        stored: differences or their factors, see `weight_forms`.
        shown: latents and buffers of the pictures that must look the same.
    """
    kept = {name: value.detach().cpu().contiguous() for name, value in stored.items()}
    half = {name: value.half() for name, value in kept.items()}
    exact, rounded = (_with_delta(untuned, delta, path) for delta in (kept, half))
    changes = []
    for ws, buffers in shown:
        with torch.no_grad():
            for generator in (exact, rounded):
                pti.set_buffers(generator, buffers)
            wanted, found = (pti.picture_of(generator, ws) for generator in (exact, rounded))
            changes.append(float((found - wanted).abs().max()))
    change = max(changes)
    is_half = all(value <= INVISIBLE_CHANGE for value in changes)  # False for NaN, too
    save_file(half if is_half else kept, path)
    return {
        "stored": "tuned - untuned",
        "dtype": "float16" if is_half else "float32",
        "tensors": len(kept),
        "values": sum(value.numel() for value in kept.values()),
        "bytes": path.stat().st_size,
        "largest_picture_change": change if is_half else 0.0,
    }


def _with_delta(untuned: Any, delta: Mapping[str, Tensor], where: Path) -> Any:
    generator = copy.deepcopy(untuned)
    apply_delta(generator, delta, where)
    return generator


def generator_bytes(generator: Any) -> int:
    """What the generator takes in float32: what a delta's size is compared with."""
    return 4 * sum(value.numel() for value in generator.parameters())


def apply_delta(generator: Any, delta: Mapping[str, Tensor], where: Path) -> None:
    """Add a delta's differences to the generator's parameters, in place."""
    parameters = dict(generator.named_parameters())
    try:
        differences = weight_forms.restore(delta, parameters)
    except ModelError as error:
        raise ArtifactError(
            f"{where} changes {error}, which this model does not have; invert the picture again."
        ) from error
    with torch.no_grad():
        for name, difference in differences.items():
            parameters[name] += difference.to(parameters[name])


def _delta_file(info: Mapping[str, Any], folder: Path) -> Path:
    """Where the delta lies; ArtifactError for a place that no inversion of ours names."""
    name = info.get("delta", {}).get("file", DELTA_FILES[0])
    if name not in DELTA_FILES:
        raise ArtifactError(
            f"{folder / 'inversion.json'} says that its delta is {name}, which lies elsewhere; "
            "invert the picture again."
        )
    return folder / name


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
