"""The benchmark of inversion: held-out pictures by several methods, with confidence intervals.

Every method is the invert stage over the same folder of pictures with other settings, so that a
benchmark that was cut off goes on where it was. Figures are taken from the pictures it wrote, all
by the same networks, whatever the method itself looked at: LPIPS on VGG16 is the independent one,
as inversion on a CPU is led by LPIPS on AlexNet. Knows nothing about the painter or the store.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from pipeline import files, weights
from pipeline.console import say
from pipeline.errors import ConfigError, check_choice
from pipeline.invert import folder, inversion, stage
from pipeline.invert.config import InvertConfig
from pipeline.invert.subject import IDENTITY
from pipeline.metrics import features, perceptual
from pipeline.metrics.closeness import psnr_db, ssim
from pipeline.metrics.estimate import Estimate, bootstrap
from pipeline.metrics.identity import similarity
from pipeline.models import checkpoint
from pipeline.models.picture_encoder import OWN
from torch_utils.pixels import to_tensor

# What each method sets beside the defaults. Of two that differ in the start alone the pivots are
# compared; the last ones differ in the tuning.
METHODS: dict[str, tuple[str, ...]] = {
    "w_avg": ("project.start=w_avg",),
    "best": ("project.start=best",),
    "encoder-0": ("project.start=encoder", "project.encoder_steps=0"),
    "encoder": ("project.start=encoder",),
    "w_avg-20": ("project.start=w_avg", "project.steps=20", "project.optimiser=l-bfgs"),
    "encoder-w+": ("project.start=encoder", "project.space=w+"),
    "prior": ("project.start=encoder", "project.prior_weight=0.003"),
    "line-art": ("project.start=encoder", "line_art.edges=1", "line_art.flats=0.3"),
    "all-weights": ("project.start=encoder", "tune.weights=all"),
    "pti": (
        "project.start=w_avg",
        "project.mse_weight=0",
        "project.plateau=0",
        "tune.weights=all",
        "tune.learning_rate=0.0003",
        "tune.rampdown=0",
        "tune.mse_weight=1",
        "tune.stop_at_db=0",
        "tune.plateau=0",
    ),
}
NEED_ENCODER = tuple(name for name, keys in METHODS.items() if "project.start=encoder" in keys)

# Figures of a picture, and whether more is better.
FIGURES: dict[str, bool] = {
    "psnr_db": True,
    "ssim": True,
    "lpips-alex": False,
    "lpips-vgg": False,
    "identity": True,
}
PHASES = ("pivot", "tuned")

HEAD = (
    "method | pivot PSNR dB | pivot LPIPS alex / vgg | steps | tuned PSNR dB | worst | "
    "tuned LPIPS alex | worst | LPIPS vgg | SSIM | identity | seconds | delta"
)

Row = dict[str, Any]


@dataclass
class Meter:
    """The networks that measure, as far as their weights are here."""

    distances: dict[str, perceptual.PerceptualDistance]
    identity: features.FeatureNetwork | None

    @classmethod
    def load(cls, device: torch.device | str = "cpu") -> Meter:
        """All whose weights are in the cache."""
        names = [name for name in ("lpips-alex", "lpips-vgg") if weights.find(name)]
        distances = {name: perceptual.load(name, device, largest_px=256) for name in names}
        there = weights.find(IDENTITY) is not None
        return cls(distances, features.load(IDENTITY, device) if there else None)

    @torch.no_grad()
    def __call__(self, folder: Path) -> dict[str, float]:
        """Figures of an inversion's pivot and tuned picture against the aligned one."""
        target = to_tensor(inversion.read_png(folder / "aligned.png"))
        found: dict[str, float] = {}
        for phase in PHASES:
            image = to_tensor(inversion.read_png(folder / f"{phase}.png"))
            found[f"{phase}.psnr_db"] = psnr_db(image, target)
            found[f"{phase}.ssim"] = ssim(image, target)
            for name, distance in self.distances.items():
                far = distance.distance(distance.features(image), distance.features(target))
                found[f"{phase}.{name}"] = float(far)
            if self.identity is not None:
                found[f"{phase}.identity"] = similarity(self.identity, image, target)
        return found


def settings(method: str, inputs: Mapping[str, Path], asked: Sequence[str]) -> InvertConfig:
    """The method's settings, and `asked` ("tune.steps=100") on top; ConfigError where wrong."""
    check_choice("methods", method, METHODS)
    base = OmegaConf.structured(InvertConfig(model=str(inputs["model"]), image="given"))
    try:
        merged = OmegaConf.merge(base, OmegaConf.from_dotlist([*METHODS[method], *asked]))
        made = OmegaConf.to_object(merged)
    except ConfigError:
        raise
    except Exception as error:  # OmegaConf has a class for each kind of mistake
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--set {' '.join(asked)} is not possible: {reason}.") from error
    assert isinstance(made, InvertConfig)
    return made


def run(
    inputs: Mapping[str, Path], out: Path, methods: Sequence[str], asked: Sequence[str]
) -> list[Row]:
    """Invert the pictures by each method into `out`/<method>; a row a method and picture.

    Args:
        inputs: "model", "image" (a folder) and, for the methods that need an encoder where the
            model has none of its own, "encoder".
    """
    able = "encoder" in inputs or OWN in checkpoint.read_architecture(inputs["model"])
    missing = [name for name in methods if name in NEED_ENCODER and not able]
    if missing:
        raise ConfigError(
            f"--methods {','.join(missing)} needs an encoder of this model: run `make encoder "
            "MODEL=...` first and name it with --encoder, or leave the method out."
        )
    chosen = {name: settings(name, inputs, asked) for name in methods}
    meter = Meter.load()
    rows: list[Row] = []
    for name, config in chosen.items():
        say(f"bench: {name} ({', '.join(METHODS[name])})")
        place = out / name
        _claim(place, config, inputs)
        stage.run(config, inputs, place)
        for line in json.loads((place / "table.json").read_text(encoding="utf-8")):
            row: Row = {"method": name, "picture": line["file"]}
            if "reason" in line:
                rows.append(row | {"reason": line["reason"]})
                continue
            found = place / inversion.PICTURES / line["name"]
            info = json.loads((found / "inversion.json").read_text(encoding="utf-8"))
            metrics = info["metrics"]
            row |= {
                "project_steps": metrics["project_steps"],
                "tune_steps": metrics["tune_steps"],
                "seconds": metrics["project_seconds"] + metrics["tune_seconds"],
                "delta_share": metrics["delta_share"],
                "prior": metrics["prior_pivot"],
            }
            rows.append(row | meter(found))
    return rows


def _claim(place: Path, config: InvertConfig, inputs: Mapping[str, Path]) -> None:
    """Note what is inverted in `place`; ConfigError where something else was, an earlier time."""
    work = {
        "config": dataclasses.asdict(config),
        "model": inversion.model_digest(inputs["model"]),
        "pictures": {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in folder.pictures_in(inputs["image"]).items()
        },
    }
    note = place.with_name(f"{place.name}.json")
    wanted = json.dumps(work, indent=1, sort_keys=True) + "\n"
    if note.exists() and note.read_text(encoding="utf-8") != wanted:
        raise ConfigError(
            f"{place} holds inversions of other pictures, settings, or another model; name a new "
            "folder with --out."
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    files.put_text(note, wanted)


def summary(rows: Sequence[Row]) -> list[Row]:
    """A line a method: means with their intervals, the worst picture, and the pivot against the
    first method's (paired differences)."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    good = {
        method: {r["picture"]: r for r in rows if r["method"] == method and "reason" not in r}
        for method in methods
    }
    lines: list[Row] = []
    for method in methods:
        found = list(good[method].values())
        line: Row = {"method": method, "pictures": len(found)}
        keys = [f"{phase}.{name}" for phase in PHASES for name in FIGURES]
        for key in [*keys, "seconds", "project_steps", "tune_steps", "delta_share", "prior"]:
            values = [float(row[key]) for row in found if key in row]
            if not values:
                continue
            line[key] = _interval(values)
            name = key.partition(".")[2]
            line[f"worst {key}"] = min(values) if FIGURES.get(name) else max(values)
        first = good[methods[0]]
        for key in ("pivot.psnr_db", "pivot.lpips-alex", "pivot.lpips-vgg"):
            pairs = [
                float(row[key]) - float(first[picture][key])
                for picture, row in good[method].items()
                if picture in first and key in row
            ]
            if pairs and method != methods[0]:
                line[f"{key} - {methods[0]}"] = _interval(pairs)
        lines.append(line)
    return lines


def _interval(values: Sequence[float]) -> Estimate:
    sample = torch.tensor(values, dtype=torch.float64)
    return bootstrap(sample, lambda sets: sets.mean(dim=1))


def table(lines: Sequence[Row]) -> str:
    """The summary as Markdown."""
    head = HEAD.split(" | ")
    text = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for line in lines:
        pivot = f"{_shown(line, 'pivot.lpips-alex', 3)} / {_shown(line, 'pivot.lpips-vgg', 3)}"
        cells = [
            line["method"],
            _shown(line, "pivot.psnr_db", 1),
            pivot,
            f"{_mean(line, 'project_steps'):.0f} + {_mean(line, 'tune_steps'):.0f}",
            _shown(line, "tuned.psnr_db", 1),
            _number(line, "worst tuned.psnr_db", 1),
            _shown(line, "tuned.lpips-alex", 3),
            _number(line, "worst tuned.lpips-alex", 3),
            _shown(line, "tuned.lpips-vgg", 3),
            _shown(line, "tuned.ssim", 3),
            _shown(line, "tuned.identity", 3),
            _shown(line, "seconds", 1),
            f"{_mean(line, 'delta_share'):.1%}",
        ]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def write(out: Path, rows: Sequence[Row], lines: Sequence[Row], about: Mapping[str, Any]) -> None:
    """bench.json (all), bench.csv (a line a method and picture), bench.md (the table)."""
    plain = [
        {k: v.__dict__ if isinstance(v, Estimate) else v for k, v in line.items()} for line in lines
    ]
    content = {"about": dict(about), "summary": plain, "pictures": list(rows)}
    files.put_text(out / "bench.json", json.dumps(content, indent=1) + "\n")
    files.put_text(out / "bench.md", table(lines))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.put_text(out / "bench.csv", text.getvalue())


def _mean(line: Row, key: str) -> float:
    found = line.get(key)
    return found.value if isinstance(found, Estimate) else float("nan")


def _shown(line: Row, key: str, digits: int) -> str:
    found = line.get(key)
    if not isinstance(found, Estimate):
        return "-"
    if found.low != found.low:
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _number(line: Row, key: str, digits: int) -> str:
    return f"{line[key]:.{digits}f}" if key in line else "-"
