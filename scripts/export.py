"""Export a model: python -m scripts.export model/ganyu exported/

Writes <model_type>-<name>-<WxH>.pkl, which the official StyleGAN3 and DragGAN programs load beside
their own code, and a folder of the same name with architecture.json and safetensors files.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.console import say
from pipeline.errors import ArtifactError, ModelError
from scripts.one_sentence import one_sentence

if TYPE_CHECKING:
    from torch import nn

FORMATS = ("both", "pkl", "safetensors")


@click.command(help=__doc__)
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--store",
    default="artifacts",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the artifacts.",
)
@click.option("--name", help="Name in the file's name [default: the model's].")
@click.option(
    "--format",
    "kind",
    default="both",
    show_default=True,
    type=click.Choice(FORMATS),
    help="What to write.",
)
@click.option(
    "--new-discriminator",
    is_flag=True,
    help="Where the model has none, write an untrained one: the official programs ask for it.",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@one_sentence
def main(
    model: str,
    out: Path,
    store: Path,
    name: str | None,
    kind: str,
    new_discriminator: bool,
    force: bool,
) -> None:
    folder, own_name = _find(model, store)
    for path in export(folder, name or own_name, out, kind, new_discriminator, force):
        say(f"wrote {path}")


def _find(model: str, store: Path) -> tuple[Path, str]:
    """Folder and name of the model that a reference, or the path of a folder, names."""
    from pipeline.artifacts.store import Store
    from pipeline.models.checkpoint import ARCHITECTURE_FILE

    folder = Path(model).expanduser()
    if (folder / ARCHITECTURE_FILE).is_file():
        # An artifact's folder is its version; its parent has the name.
        is_version = (folder / "manifest.json").is_file()
        return folder, folder.resolve().parent.name if is_version else folder.resolve().name
    artifact = Store(store.expanduser()).find(model)
    plan = artifact.manifest.plan
    if plan.kind != "model":
        raise ArtifactError(f"{model} is of kind {plan.kind}; export takes one of kind model.")
    return artifact.folder, plan.name


def export(
    folder: Path,
    name: str,
    out: Path,
    kind: str = "both",
    new_discriminator: bool = False,
    force: bool = False,
) -> list[Path]:
    """Write the model in `folder` to `out`; returns what was written.

    Args:
        name: middle part of the file's name.
        out: a folder, made if missing; or the pickle's own path, whose name must say what it is.
        kind: "pkl", "safetensors" or "both".
        new_discriminator: add an untrained discriminator to a pickle where the model has none.
        force: replace what exists.

    Raises:
        ModelError: if the name is not possible, something would be overwritten, or a network is
            missing that the pickle must have.
    """
    from pipeline.models import checkpoint, interchange

    described = checkpoint.read_architecture(folder)
    networks = checkpoint.load(folder, [key for key in interchange.NETWORKS if key in described])
    if "G_ema" not in networks:
        raise ModelError(f"the model in {folder} has no network G_ema; there is nothing to export.")
    if out.suffix == ".pkl":
        file_name = _checked(out.name, networks["G_ema"])
        out = out.parent
    else:
        file_name = interchange.file_name_of(networks["G_ema"], name)
    pickle, tensors = out / file_name, out / file_name.removesuffix(".pkl")
    wanted = {"pkl": [pickle], "safetensors": [tensors]}.get(kind, [pickle, tensors])
    for path in wanted:
        if path.exists() and not force:
            raise ModelError(f"{path} exists; add --force to replace it, or name another folder.")
    complete = _completed(networks, folder, new_discriminator) if pickle in wanted else {}
    out.mkdir(parents=True, exist_ok=True)
    if tensors in wanted:
        aside = out / f".{tensors.name}.part"
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.save(aside, networks)
        shutil.rmtree(tensors, ignore_errors=True)
        aside.rename(tensors)
    if pickle in wanted:
        interchange.export_networks(pickle, complete)
    return wanted


def _completed(
    networks: Mapping[str, nn.Module], folder: Path, new_discriminator: bool
) -> dict[str, nn.Module]:
    """G, D and G_ema, all of which a pickle must have."""
    from pipeline.models import interchange

    complete = {"G": networks["G_ema"], **networks}
    if "D" not in complete:
        if not new_discriminator:
            raise ModelError(
                f"the model in {folder} has no discriminator, and the official programs load no "
                "pickle without one; add --new-discriminator to write an untrained one, or "
                "--format safetensors."
            )
        complete["D"] = interchange.new_discriminator(networks["G_ema"])
    return complete


def _checked(text: str, generator: nn.Module) -> str:
    """A file name that the user gave, if it says what the generator is."""
    from pipeline.models import interchange

    given = interchange.parse_file_name(text)
    right = interchange.file_name_of(generator, given.name)
    if text != right:
        raise ModelError(f"{text} does not say what the model is; call it {right}.")
    return text


if __name__ == "__main__":
    main()
