"""Networks on disk: architecture.json and one .safetensors file a network. Never a pickle.

    architecture.json   {"format": "animedrag-model", "version": 1,
                         "networks": {"G_ema": {"class": "stylegan2.Generator",
                                                "arguments": {"z_dim": 512, ...}}, ...}}
    G_ema.safetensors   the network's state dict, official names

A class is looked up in a closed table; nothing in the files is executed. The architecture is
written last, so its presence means that all tensors are there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from pipeline import files
from pipeline.errors import AnimedragError, ModelError, nearest
from pipeline.models import face_reader, picture_encoder, stylegan2, stylegan3

FORMAT = "animedrag-model"
VERSION = 1
ARCHITECTURE_FILE = "architecture.json"

CLASSES: dict[str, type[nn.Module]] = {
    "stylegan2.Generator": stylegan2.Generator,
    "stylegan2.Discriminator": stylegan2.Discriminator,
    "stylegan3.Generator": stylegan3.Generator,
    "face_reader.FaceReaderNetwork": face_reader.FaceReaderNetwork,
    "picture_encoder.PictureEncoder": picture_encoder.PictureEncoder,
}

# Far above anything real, far below what a damaged or hostile file needs to eat all memory.
MAX_ARCHITECTURE_BYTES = 1_000_000
MAX_NUMBER = 2**20
MAX_LIST = 64
MAX_NUMBERS = {
    "img_resolution": 8192,
    "num_layers": 64,
    "filter_size": 64,
    "lrelu_upsampling": 8,
    "num_fp16_res": 64,
}
NETWORK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class WithoutWeights(TorchFunctionMode):
    """While active, random weights take neither memory nor time nor random numbers.

    A network built so serves for its shapes, or to be given tensors by assignment. (torch's meta
    device would do the same, but importing what it needs takes seconds.)
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.randn, torch.rand, torch.normal):
            size = (kwargs or {}).get("size", args[0] if args else ())
            return torch.zeros([]).expand(size)
        if func in (nn.init.kaiming_uniform_, nn.init.uniform_):  # torch's own layers
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class NetworkDescription:
    """A network's class, by its name in CLASSES, and constructor arguments."""

    class_name: str
    arguments: dict[str, Any]


def save(folder: Path, networks: Mapping[str, nn.Module], half: bool = False) -> None:
    """Write networks into a folder, replacing those of the same files.

    Args:
        folder: made if missing.
        networks: by name, e.g. {"G": ..., "D": ..., "G_ema": ...}; of the classes in CLASSES.
        half: store matrices and kernels in half precision (half the size); loading gives float32.

    Raises:
        ModelError: if a network is of another class, or a name cannot be a file's.
    """
    names = {cls: name for name, cls in CLASSES.items()}
    entries: dict[str, dict[str, Any]] = {}
    for name, network in networks.items():
        if type(network) not in names or not NETWORK_NAME.fullmatch(name):
            raise ModelError(
                f"network {name!r} of class {type(network).__name__} cannot be saved; "
                f"the format holds {', '.join(CLASSES)} under plain names such as G_ema."
            )
        entries[name] = {"class": names[type(network)], "arguments": network.init_kwargs}
    architecture = {"format": FORMAT, "version": VERSION, "networks": entries}
    text = json.dumps(architecture, indent=1, allow_nan=False)

    folder.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        state = {key: _stored(value, half) for key, value in network.state_dict().items()}
        with files.put(folder / f"{name}.safetensors") as aside:
            save_file(state, aside)
    files.put_text(folder / ARCHITECTURE_FILE, text + "\n")


def load(
    folder: Path, names: Sequence[str] = ("G_ema",), device: torch.device | str = "cpu"
) -> dict[str, nn.Module]:
    """Networks of a folder that `save` wrote, in evaluation mode, float32.

    The global random numbers are not touched.

    Raises:
        ModelError: if anything is missing, damaged, or not of this format.
    """
    described = read_architecture(folder)
    loaded = {}
    for name in names:
        network = _construct(folder, name, _named(folder, name, described))
        state = _read_tensors(folder / f"{name}.safetensors", device)
        _check_tensors(folder / f"{name}.safetensors", network, state)
        network.load_state_dict(state, strict=True, assign=True)
        loaded[name] = network.eval().requires_grad_(True)
    return loaded


def blank(folder: Path, name: str = "G_ema") -> nn.Module:
    """A network of a folder without its weights, for its shapes alone; ModelError as `load`."""
    described = read_architecture(folder)
    return _construct(folder, name, _named(folder, name, described)).eval()


def _named(
    folder: Path, name: str, described: Mapping[str, NetworkDescription]
) -> NetworkDescription:
    if name not in described:
        raise ModelError(
            f"the model in {folder} has no network {name}; it has {', '.join(described)}."
        )
    return described[name]


def read_architecture(folder: Path) -> dict[str, NetworkDescription]:
    """What networks a folder holds, without reading their tensors.

    Raises:
        ModelError: if architecture.json is missing, damaged, or of another format or version.
    """
    path = folder / ARCHITECTURE_FILE
    try:
        if path.stat().st_size > MAX_ARCHITECTURE_BYTES:
            raise ModelError(f"{path} is too large to be a network's architecture.")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder} holds no model: {ARCHITECTURE_FILE} is missing; give the folder of a model."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ModelError(f"{path} is not of the format {FORMAT}; give the folder of a model.")
    if data.get("version") != VERSION:
        raise ModelError(
            f"{path} has format version {data.get('version')!r}, but this program reads version "
            f"{VERSION}; use the program that wrote it, or a newer one."
        )
    networks = data.get("networks")
    if not isinstance(networks, dict) or not networks:
        raise ModelError(f"{path} names no networks.")
    return {name: _description(path, name, entry) for name, entry in networks.items()}


def _description(path: Path, name: str, entry: Any) -> NetworkDescription:
    class_name = entry.get("class") if isinstance(entry, dict) else None
    arguments = entry.get("arguments") if isinstance(entry, dict) else None
    if not NETWORK_NAME.fullmatch(name) or not isinstance(arguments, dict):
        raise ModelError(f"{path} describes network {name!r} in a way that is not of its format.")
    if not isinstance(class_name, str) or class_name not in CLASSES:
        raise ModelError(
            f"{path} names class {class_name!r} for network {name}, which is not known; "
            f"the nearest is {nearest(class_name, CLASSES)} (known: {', '.join(CLASSES)})."
        )
    check_numbers(path, arguments)
    return NetworkDescription(class_name, arguments)


def check_numbers(path: Path | str, value: Any, key: str = "") -> None:
    """Refuse numbers that no network has, before they size a loop or a tensor.

    `path` names the file in the ModelError.
    """
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            check_numbers(path, inner, inner_key)
    elif isinstance(value, list):
        if len(value) > MAX_LIST:
            raise ModelError(f"{path} has {key} with more than {MAX_LIST} entries.")
        for inner in value:
            check_numbers(path, inner, key)
    elif isinstance(value, int | float):
        limit = MAX_NUMBERS.get(key, MAX_NUMBER)
        if not math.isfinite(value) or not 0 <= abs(value) <= limit:
            raise ModelError(f"{path} has {key}={value}, beyond the limit of {limit}.")


def _construct(folder: Path, name: str, description: NetworkDescription) -> nn.Module:
    """The network, its weights still without values."""
    try:
        with WithoutWeights():
            return CLASSES[description.class_name](**description.arguments)
    except AnimedragError as error:
        raise ModelError(f"{folder / ARCHITECTURE_FILE}, network {name}: {error}") from None
    except (TypeError, ValueError, ArithmeticError, RuntimeError, IndexError) as error:
        # Arguments of a wrong name or type: whatever the constructor makes of them.
        raise ModelError(
            f"{folder / ARCHITECTURE_FILE} describes network {name} with arguments that do not "
            f"make a {description.class_name}: {error}."
        ) from None


def _read_tensors(path: Path, device: torch.device | str) -> dict[str, torch.Tensor]:
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; the model is incomplete.") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged or not a safetensors file: {error}.") from None
    return {
        key: value.to(torch.float32) if value.is_floating_point() else value
        for key, value in tensors.items()
    }


def _check_tensors(path: Path, network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Raise ModelError for the first tensor that is missing, too many, misshapen or not finite."""
    expected = network.state_dict()
    for key in sorted(expected.keys() - state.keys()):
        raise ModelError(f"{path} lacks the tensor {key} that its architecture asks for.")
    for key in sorted(state.keys() - expected.keys()):
        raise ModelError(f"{path} has a tensor {key} that its architecture does not know.")
    for key, value in state.items():
        if value.shape != expected[key].shape or value.dtype != expected[key].dtype:
            raise ModelError(
                f"{path} has the tensor {key} as {value.dtype} {list(value.shape)}, but its "
                f"architecture asks for {expected[key].dtype} {list(expected[key].shape)}."
            )
        if not value.isfinite().all():
            raise ModelError(f"{path} holds values in {key} that are not finite numbers.")


def _stored(value: torch.Tensor, half: bool) -> torch.Tensor:
    value = value.detach().cpu()
    if half and value.ndim >= 2 and value.is_floating_point():
        value = value.to(torch.float16)
    return value.contiguous().clone()
