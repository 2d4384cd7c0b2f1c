"""Measure inversion on held-out pictures: python -m scripts.bench_invert model/ganyu

Paints faces that no training has seen (or takes a folder of pictures), inverts them by several
methods, and writes bench.md, bench.csv and bench.json beside the inversions. Run again, it goes on
where it was.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.console import progress, say
from pipeline.errors import ConfigError
from scripts.one_sentence import one_sentence

# A seed that no data set of ours is painted with.
HELD_OUT_SEED = 90210


@click.command(help=__doc__)
@click.argument("model")
@click.option(
    "--encoder",
    help="Reference to the model's encoder [default: encoder/NAME, else what comes with it].",
)
@click.option(
    "--pictures", type=click.Path(path_type=Path), help="A folder of pictures instead of painted."
)
@click.option("--count", default=8, show_default=True, type=click.IntRange(1), help="Faces.")
@click.option(
    "--character", type=click.IntRange(0), help="Paint this character [default: new ones]."
)
@click.option("--seed", default=HELD_OUT_SEED, show_default=True, type=click.IntRange(0))
@click.option(
    "--methods",
    default="w_avg,encoder",
    show_default=True,
    help="Of w_avg, best, encoder-0, encoder, w_avg-20, encoder-w+, prior, line-art, all-weights, "
    "pti; pivots are compared with the first one's.",
)
@click.option("--set", "asked", multiple=True, help="A setting of invert: tune.steps=100.")
@click.option(
    "--store", default="artifacts", show_default=True, type=click.Path(path_type=Path),
    help="Folder of the artifacts.",
)  # fmt: skip
@click.option(
    "--out", default=Path("bench-invert"), show_default=True, type=click.Path(path_type=Path)
)
@one_sentence
def main(
    model: str,
    encoder: str | None,
    pictures: Path | None,
    count: int,
    character: int | None,
    seed: int,
    methods: str,
    asked: tuple[str, ...],
    store: Path,
    out: Path,
) -> None:
    from pipeline.errors import check_choice
    from pipeline.invert import benchmark
    from torch_utils.device import choose_device, describe

    names = [name.strip() for name in methods.split(",") if name.strip()]
    for name in names:
        check_choice("--methods", name, benchmark.METHODS)
    if not names:
        raise ConfigError("--methods names none; take some of " + ", ".join(benchmark.METHODS))
    inputs = _inputs(model, encoder, store, any(n in benchmark.NEED_ENCODER for n in names))
    if pictures is None:
        pictures = out / "pictures"
        _paint(pictures, count, seed, character)
    inputs["image"] = pictures
    rows = benchmark.run(inputs, out, names, asked)
    lines = benchmark.summary(rows)
    about = {
        "model": model,
        "methods": {name: benchmark.METHODS[name] for name in names},
        "set": list(asked),
        "device": describe(choose_device("auto")),
        "painted": None if pictures != out / "pictures" else {"seed": seed, "character": character},
    }
    benchmark.write(out, rows, lines, about)
    say(benchmark.table(lines))
    say(f"bench.md, bench.csv and bench.json are in {out}")


def _inputs(model: str, encoder: str | None, store: Path, needed: bool) -> dict[str, Path]:
    """Folders of the model and of its encoder, where one is needed."""
    from pipeline.artifacts.store import Store
    from pipeline.errors import ArtifactError

    artifacts = Store(store.expanduser())

    def find(reference: str, kind: str) -> tuple[Path, str]:
        found = artifacts.find(reference)
        plan = found.manifest.plan
        if plan.kind != kind:
            raise ArtifactError(f"{reference} is of kind {plan.kind}; one of kind {kind} is asked.")
        return found.folder, plan.name

    folder, name = find(model, "model")
    inputs = {"model": folder}
    reference = encoder or f"encoder/{name}"
    if needed and (encoder or name in artifacts.names("encoder")):
        inputs["encoder"], _ = find(reference, "encoder")
    return inputs


def _paint(folder: Path, count: int, seed: int, character: int | None) -> None:
    """Portraits of 256 px; those that are there already stay."""
    from PIL import Image

    from pipeline.data.painter import sample_face

    folder.mkdir(parents=True, exist_ok=True)
    with progress("painting", count, "faces") as bar:
        for index in range(count):
            path = folder / f"face{index:03d}.png"
            if not path.exists():
                painting = sample_face(seed, index, character_number=character, size=256)
                Image.fromarray(painting.image).save(path)
            bar.advance()


if __name__ == "__main__":
    main()
