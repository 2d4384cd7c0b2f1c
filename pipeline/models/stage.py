"""The import stage: a network file of another program becomes a model.

Writes the networks as `checkpoint.py` does, and import.json, which says where they came from:

    {"version": 1, "file": name, "sha256": hex, "bytes": n, "container": "pickle" | "torch zip",
     "dialect": "stylegan2-ada" | "stylegan3" | "stylegan-human", "keys": [...],
     "networks": {"G_ema": number of parameters, ...}, "file_name": what export calls it}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from pipeline.console import say
from pipeline.errors import ModelError
from pipeline.models import checkpoint
from pipeline.models.config import ImportConfig
from pipeline.models.interchange import Imported, check_claim, file_name_of, import_networks
from pipeline.models.nvidia_pkl import NetworkPickle, read

IMPORT_FILE = "import.json"
VERSION = 1


def check(config: ImportConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse, before anything is begun, what is no network file or not what its name says.

    The whole file is read for it, and again by `run`: some tenths of a second for 100 MB.
    """
    _read(config, inputs["pkl"])


def _read(config: ImportConfig, path: Path) -> tuple[NetworkPickle, Imported]:
    if not path.is_file():
        raise ModelError(f"import.pkl={path} is not a file; give a network pickle (.pkl or .pt).")
    content = read(path)
    try:
        imported = import_networks(content)
    except ModelError as error:
        raise ModelError(f"{path.name}: {error}") from None
    generator = imported.networks.get("G_ema") or imported.networks["G"]
    check_claim(path.name, generator)
    file_name_of(generator, config.name)  # a name that export could not write is refused here
    return content, imported


def run(
    config: ImportConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Read inputs["pkl"], write the model to `out`; see the module.

    Raises:
        ModelError: if the file is no network pickle, hostile, or of an unknown kind.
    """
    path = inputs["pkl"]
    content, imported = _read(config, path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    networks = dict(imported.networks)
    # The later stages draw with G_ema, and train on from all three.
    networks.setdefault("G_ema", imported.networks.get("G") or networks["G_ema"])
    counts = {name: _parameters(network) for name, network in networks.items()}
    record = {
        "version": VERSION,
        "file": path.name,
        "sha256": digest,
        "bytes": path.stat().st_size,
        "container": content.container,
        "dialect": imported.dialect,
        "keys": sorted({*content.networks, *content.extra}),
        "networks": counts,
        "file_name": file_name_of(networks["G_ema"], config.name),
    }
    (out / IMPORT_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    checkpoint.save(out, networks)
    say(f"import: {path.name} holds {', '.join(imported.networks)} ({imported.dialect}).")
    if "D" not in networks or "G" not in networks:
        say("import: it can draw, be inverted and dragged, but not be trained on.")
    return {
        "dialect": imported.dialect,
        "networks": ", ".join(networks),
        "parameters": counts["G_ema"],
    }


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
