"""The one reader of NVIDIA-format network pickles and of PTI's `.pt` files; runs no code in them.

Knows the pickle dialects of stylegan2-ada-pytorch, stylegan3 and stylegan-human (protocols 2 to 5)
and the zip that `torch.save(G)` writes. Returns neutral records: class names, attributes, tensors.
Knows nothing of our networks; `interchange.py` turns records into them.

Safety rests on three steps, in this order:
1. every opcode is followed without executing it, and must be on a closed list, with its length,
   memo index and operands as networks have them (`nvidia_opcodes.py`);
2. `find_class` knows a closed table and returns stand-ins of ours, never the real global, so REDUCE
   can call nothing else, and each stand-in checks its arguments (`nvidia_stand_ins.py`);
3. storages are parsed by hand from their bytes (there as well): torch unpickles nothing.
"""

from __future__ import annotations

import io
import mmap
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.models.module_record import ModuleRecord
from pipeline.models.nvidia_opcodes import NETWORK_OPCODES, STORAGE_OPCODES, scan
from pipeline.models.nvidia_stand_ins import GLOBALS, STORAGE_GLOBALS, Unpickler, shown

__all__ = ["ModuleRecord", "NetworkPickle", "read"]


@dataclass
class NetworkPickle:
    """What a network file holds: its networks by key ("G", "D", "G_ema", ...).

    container: "pickle" (a snapshot) or "torch zip" (PTI's `.pt`).
    """

    networks: dict[str, ModuleRecord]
    extra: dict[str, Any] = field(default_factory=dict)
    container: str = "pickle"


def read(path: Path) -> NetworkPickle:
    """Read a network pickle or a PTI `.pt`.

    Raises ModelError, with one sentence, on anything that is not a well-formed one.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if size == 0:
        raise ModelError(f"{path} is empty, not a network pickle.")
    try:
        if zipfile.is_zipfile(path):
            return _read_torch_zip(path, size)
        return _read_pickle(path, size)
    except ModelError as error:
        reason = str(error)
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError) as error:
        reason = f"it is damaged or not a network pickle ({error})."
    except (AttributeError, OverflowError, MemoryError, RecursionError, OSError) as error:
        reason = f"it is not a well-formed network pickle ({type(error).__name__})."
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        reason = f"its zip is damaged ({error})."
    # The reason may quote the file: keep it to one line of sensible length.
    reason = " ".join(reason.split())
    raise ModelError(f"{path.name} was refused: {reason[:300]}")


def _read_pickle(path: Path, size: int) -> NetworkPickle:
    with path.open("rb") as file:
        # mmap: a read past the end is cut short instead of allocated.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            scan(view, NETWORK_OPCODES, GLOBALS, size)  # type: ignore[arg-type]
            if view.tell() != size:
                raise ModelError("something follows the pickle's end.")
        file.seek(0)
        content = Unpickler(file, size).load()
    return _networks(content, size)


def _read_torch_zip(path: Path, size: int) -> NetworkPickle:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ModelError("it is a zip, but not one that torch.save(G) wrote.")
        if sum(info.file_size for info in members.values()) > size:
            raise ModelError("its zip members are larger than the file.")
        folder = pickles[0].split("/")[0]
        data = archive.read(pickles[0])
        stream = io.BytesIO(data)
        scan(stream, STORAGE_OPCODES, GLOBALS | STORAGE_GLOBALS, len(data))
        stream.seek(0)

        def storage(key: str) -> bytes:
            name = f"{folder}/data/{key}"
            if name not in members:
                raise ModelError(f"its storage {key!r} is missing.")
            return archive.read(name)

        content = Unpickler(stream, size, storage).load()
    if isinstance(content, ModuleRecord):
        content = {"G_ema": content}
    found = _networks(content, size)
    found.container = "torch zip"
    return found


def _networks(content: object, size: int) -> NetworkPickle:
    """Sort a pickle's top-level table into networks and the rest, and bound what they hold."""
    if isinstance(content, tuple):
        raise ModelError(
            "it holds a tuple of networks, as TensorFlow's StyleGAN2 wrote; convert it with the "
            "legacy.py of stylegan2-ada-pytorch or stylegan3 and import what that writes."
        )
    if not isinstance(content, dict):
        raise ModelError("it holds no table of networks.")
    networks = {
        str(key): value for key, value in content.items() if isinstance(value, ModuleRecord)
    }
    if "G_ema" not in networks and "G" not in networks:
        keys = ", ".join(map(shown, content)) or "none"
        raise ModelError(f"it holds no generator (keys: {keys}).")
    held = sum(
        tensor.numel() * tensor.element_size()
        for network in networks.values()
        for tensor in network.tensors().values()
    )
    if held > size:
        raise ModelError("its tensors are larger than the file: they share storages.")
    extra = {str(key): value for key, value in content.items() if str(key) not in networks}
    return NetworkPickle(networks, extra)
