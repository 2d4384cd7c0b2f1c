"""One self-contained HTML page about a character: what was made, how it went, from what.

Brings sections and provenance together and renders the template. Every text is escaped by the
template engine; the page fetches nothing and says so to the browser. Knows nothing of the store.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.artifacts.manifest import Manifest
from pipeline.console import duration
from pipeline.evaluate import provenance
from pipeline.evaluate.config import ReportConfig
from pipeline.evaluate.payload import nested, number
from pipeline.evaluate.pictures import Picture
from pipeline.evaluate.plots import format_number
from pipeline.evaluate.sections.dataset import DatasetSection, dataset_section
from pipeline.evaluate.sections.drag import DragSection, drag_section
from pipeline.evaluate.sections.drag_bench import DragBenchSection, drag_bench_section
from pipeline.evaluate.sections.evaluation import EvaluationSection, evaluation_section
from pipeline.evaluate.sections.inversion import InversionSection, inversion_section
from pipeline.evaluate.sections.shared import Table
from pipeline.evaluate.sections.training import TrainingSection, training_section

# Characters that HTML forbids even escaped (and lone surrogates, which UTF-8 cannot hold); they
# come from file names.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Number:
    """A number for the top of the page."""

    label: str
    value: str


@dataclass(frozen=True)
class Page:
    """Everything the template shows; None stands for an artifact that was not given."""

    title: str
    made: str
    hero: tuple[Picture, Picture] | None
    numbers: list[Number]
    warnings: list[str]
    dataset: DatasetSection | None
    training: TrainingSection | None
    evaluation: EvaluationSection | None
    inversion: InversionSection | None
    drag: DragSection | None
    drag_bench: DragBenchSection | None
    timings: Table | None
    versions: Table | None
    settings: list[Table]
    lineage: list[provenance.Node]
    footer: str

    @property
    def missing(self) -> str:
        """What the page is without, in words; "" where it has everything."""
        parts = {
            "a data set": self.dataset,
            "a model of this name": self.training,
            "an evaluation": self.evaluation,
            "a drawing found in a model": self.inversion,
            "an edit": self.drag,
            "a comparison of the ways of dragging": self.drag_bench,
        }
        return ", ".join(words for words, section in parts.items() if section is None)


def build_page(config: ReportConfig, inputs: Mapping[str, Path]) -> Page:
    """Read the artifacts in `inputs` (keys as in ReportConfig; any may be absent)."""
    manifests, warnings = provenance.read_manifests(inputs)
    video_bytes = int(config.video_mib * 2**20)
    dataset = model = evaluation = inversion = edit = bench = None
    if "dataset" in inputs:
        dataset = dataset_section(inputs["dataset"], config.picture_px)
    if "model" in inputs:
        manifest = manifests.get("model")
        model = training_section(
            inputs["model"],
            config.sample_grids,
            config.picture_px,
            ada_target=_ada_target(manifest),
            metrics=manifest.metrics if manifest else None,
        )
    if "evaluation" in inputs:
        evaluation = evaluation_section(inputs["evaluation"], config.picture_px)
    if "inversion" in inputs:
        inversion = inversion_section(inputs["inversion"])
    if "edit" in inputs:
        edit = drag_section(
            inputs["edit"],
            config.key_frames,
            config.picture_px,
            video_bytes,
            inputs.get("inversion"),
        )
    if "drag_bench" in inputs:
        bench = drag_bench_section(inputs["drag_bench"], config.picture_px)
    return Page(
        title=config.name,
        made=_made(dataset, model, evaluation, inversion, edit, bench),
        hero=(edit.before, edit.after) if edit and edit.before and edit.after else None,
        numbers=_numbers(dataset, model, edit, manifests),
        warnings=warnings + provenance.mismatches(manifests),
        dataset=dataset,
        training=model,
        evaluation=evaluation,
        inversion=inversion,
        drag=edit,
        drag_bench=bench,
        timings=provenance.timings(manifests),
        versions=provenance.versions(manifests),
        settings=provenance.settings(manifests),
        lineage=provenance.lineage(manifests),
        footer="Made by animedrag from the artifacts named above; the page holds all its pictures.",
    )


def render(page: Page) -> str:
    """The page as HTML text."""
    environment = Environment(
        loader=PackageLoader("pipeline.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Forbidden characters pass escaping unchanged and occur nowhere in the template itself.
    return _FORBIDDEN.sub("\ufffd", environment.get_template("report.html").render(page=page))


def _ada_target(manifest: Manifest | None) -> float:
    augment = nested(manifest.plan.config, "augment") if manifest else {}
    return number(augment.get("target")) if augment.get("mode") == "ada" else math.nan


def _made(
    dataset: DatasetSection | None,
    model: TrainingSection | None,
    evaluation: EvaluationSection | None,
    inversion: InversionSection | None,
    edit: DragSection | None,
    bench: DragBenchSection | None,
) -> str:
    parts = []
    if dataset:
        parts.append(f"a dataset of {dataset.images:,} centred faces")
    if model and math.isfinite(model.images_seen):
        parts.append(f"a model that was shown {model.images_seen:,.0f} images")
    elif model:
        parts.append("a model")
    if evaluation:
        parts.append("an evaluation of it" if model else "an evaluation")
    if inversion:
        parts.append("an uploaded drawing found in the model")
    if edit:
        face = "the drawing" if inversion else "a face"
        how = "given an emotion" if edit.emotion else "changed by dragging points"
        parts.append(f"{face} {how}")
    if bench:
        parts.append("the ways of dragging compared")
    joined = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    return joined[0].upper() + joined[1:] + "."


def _numbers(
    dataset: DatasetSection | None,
    model: TrainingSection | None,
    edit: DragSection | None,
    manifests: Mapping[str, Manifest],
) -> list[Number]:
    numbers = []
    if dataset:
        numbers.append(Number("faces in the dataset", f"{dataset.images:,}"))
        pictures = "picture" if dataset.rejected == 1 else "pictures"
        numbers.append(Number(f"{pictures} left out", f"{dataset.rejected:,}"))
    if model and math.isfinite(model.images_seen):
        numbers.append(Number("images seen in training", format_number(model.images_seen)))
    if edit and math.isfinite(edit.final_px):
        label = f"{edit.unit} left between handles and targets"
        numbers.append(Number(label, format_number(edit.final_px)))
    if manifests:
        total = sum(manifest.wall_seconds for manifest in manifests.values())
        numbers.append(Number("work in all", duration(total)))
    return numbers
