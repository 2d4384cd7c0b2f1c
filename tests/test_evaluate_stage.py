"""The evaluate stage as the user runs it: figures, sheets, the report, refusals, resuming."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from pipeline import weights
from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.data.image_zip import ImageZipWriter
from pipeline.errors import ConfigError, DataError
from pipeline.evaluate import evaluation_file
from pipeline.evaluate.config import EvaluateConfig, ReportConfig
from pipeline.evaluate.evaluation import RealImages, check, run
from pipeline.evaluate.evaluation_file import Evaluation, Snapshot
from pipeline.evaluate.stage import run as report
from pipeline.metrics import features, suite
from pipeline.metrics.distances import frechet_distance
from pipeline.metrics.estimate import Estimate
from pipeline.metrics.suite import METRICS, Result
from pipeline.models import checkpoint, stylegan2
from tests import quick_python
from tests.report_artifacts import finish, new_folder
from tests.train_tiny import make_dataset

NEEDS_WEIGHTS = pytest.mark.skipif(
    weights.find("lpips-alex") is None, reason="run: python -m scripts.fetch_weights"
)
SETTINGS: dict[str, Any] = {
    "name": "tiny", "device": "cpu", "features": "lpips-alex", "images": 24, "batch": 5,
    "moved": 4, "paths": 4, "snapshot_images": 12, "groups": 3, "sheet_columns": 4,
}  # fmt: skip


def save_model(folder: Path, c_dim: int = 0, size: int = 32) -> None:
    torch.manual_seed(4)
    network = stylegan2.Generator(
        z_dim=8, c_dim=c_dim, w_dim=8, img_resolution=size, img_channels=3,
        mapping_kwargs={"num_layers": 2}, channel_base=256, channel_max=8,
    )  # fmt: skip
    checkpoint.save(folder, {"G_ema": network})
    states = folder / "training_state"
    states.mkdir()
    for seen in (100, 200):
        state = {f"G_ema/{key}": value * (0.5 + seen / 400) if value.ndim > 1 else value
                 for key, value in network.state_dict().items()}  # fmt: skip
        save_file(state, states / f"{seen:09d}.safetensors")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a dataset and a model trained on it; the cache holds the weights only."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for entry in weights.cache_folder().glob("lpips-*"):
        (cache / entry.name).symlink_to(entry)
    monkeypatch.setenv("ANIMEDRAG_CACHE", str(cache))
    make_artifacts(tmp_path / "store")
    return tmp_path / "store"


def make_artifacts(store: Path, labels: bool = False) -> Manifest:
    dataset = new_folder(store, "dataset", "tiny")
    make_dataset(dataset, count=30, labels=labels)
    manifest = finish(dataset, "preprocess")
    model = new_folder(store, "model", "tiny")
    save_model(model, c_dim=2 if labels else 0)
    return finish(model, "train", parents={"dataset": manifest})


def inputs(store: Path) -> dict[str, Path]:
    return {kind: store / kind / "tiny" / "v1" for kind in ("model", "dataset")}


def config(**changes: Any) -> EvaluateConfig:
    return EvaluateConfig(**{**SETTINGS, **changes})


def by_key(results: list[Result]) -> dict[tuple[str, str], Result]:
    return {(result.metric, result.against): result for result in results}


@NEEDS_WEIGHTS
def test_every_metric_ends_in_the_file_in_the_manifest_and_on_the_page(
    store: Path, tmp_path: Path
) -> None:
    names = list(METRICS)
    out = tmp_path / "evaluation" / "tiny" / "v1"
    out.mkdir(parents=True)
    summary = run(config(metrics=names, snapshots=True), inputs(store), out)
    evaluation = evaluation_file.read(out)
    found = by_key(evaluation.results)
    parts = [(name, part) for name in suite.OF_REALS for part in ("train", "heldout")]
    others = [(name, "") for name in names if name not in suite.OF_REALS]
    assert set(found) == {*parts, *others}
    # Four held-out images are too few, AlexNet is no classifier: said, not guessed.
    unavailable = {key for key, result in found.items() if result.estimate is None}
    assert unavailable == {*(key for key in parts if key[1] == "heldout"), ("is", "")}
    assert "at least 5 real images, and there are 4" in found["fid", "heldout"].note
    assert "no classifier" in found["is", ""].note
    for result in found.values():
        if result.estimate is not None:
            assert result.estimate.low <= result.estimate.value <= result.estimate.high
            assert result.interval
    assert found["kid", "train"].network == "AlexNet conv5 at 224 px"
    assert found["fid", "train"].reals == 26
    assert summary["eq_t"] == pytest.approx(found["eq_t", ""].estimate.value)  # type: ignore[union-attr]
    assert "fid_heldout" not in summary
    assert [one.images_seen for one in evaluation.snapshots] == [100, 200]
    first, second = (by_key(one.results)["kid", "train"] for one in evaluation.snapshots)
    assert first.estimate != second.estimate
    for name in ("real_and_fake.png", "typical.png"):
        with Image.open(out / name) as sheet:
            assert sheet.width >= 640
            assert np.asarray(sheet).std() > 10
    assert not (out / "unfinished").exists()

    finish(out, "evaluate", parents={"model": read_manifest(inputs(store)["model"])})
    report(ReportConfig(name="tiny"), {**inputs(store), "evaluation": out}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    section = page[page.index('id="evaluation"') :].split("</section>")[0]
    assert "AlexNet conv5 at 224 px" in section
    assert "Kynkaanniemi et al. 2019, eq. 1" in section
    assert "FID over the training (lower is better)" in section
    assert section.count("<img") == 2
    assert "not available: AlexNet conv5" in section


@NEEDS_WEIGHTS
def test_the_dataset_is_looked_at_once(store: Path, tmp_path: Path, capfd: Any) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        run(config(metrics=["kid"], parts=["all"], seed=seed), inputs(store), tmp_path / name)
    log = capfd.readouterr().err
    assert log.count("real images (all): 30/30 images") == 1
    values = [evaluation_file.read(tmp_path / name).results[0].estimate for name in "ab"]
    assert values[0] != values[1]


@NEEDS_WEIGHTS
def test_the_same_settings_give_the_same_figures(store: Path, tmp_path: Path) -> None:
    settings = config(metrics=["fid", "kid", "precision", "eq_t"], parts=["train"])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(settings, inputs(store), tmp_path / name)
    files = [(tmp_path / name / "metrics.json").read_text() for name in ("a", "b")]
    assert files[0] == files[1]
    pictures = [(tmp_path / name / "typical.png").read_bytes() for name in ("a", "b")]
    assert pictures[0] == pictures[1]


@NEEDS_WEIGHTS
def test_labels_are_drawn_as_the_dataset_has_them(store: Path, tmp_path: Path) -> None:
    make_artifacts(tmp_path / "labelled", labels=True)
    run(config(metrics=["kid"]), inputs(tmp_path / "labelled"), tmp_path)
    assert evaluation_file.read(tmp_path).results[0].estimate is not None
    # Without its dataset the model is measured by what needs none, and says what is missing.
    other = tmp_path / "without"
    other.mkdir()
    model = {"model": inputs(tmp_path / "labelled")["model"]}
    run(config(metrics=["fid", "eq_t"]), model, other)
    found = by_key(evaluation_file.read(other).results)
    assert found["fid", ""].note == "no real images were given"
    assert found["eq_t", ""].estimate is not None


def command(store: Path, *extra: str) -> list[str]:
    changes = [f"evaluate.{key}={value}" for key, value in SETTINGS.items() if key != "name"]
    return [
        sys.executable, "-m", "scripts.run", "stage=evaluate", "character=tiny",
        f"store={store}", f"hydra.run.dir={store}/runs", *changes, *extra,
    ]  # fmt: skip


def start(root: Path, store: Path, *extra: str) -> quick_python.Popen:
    return quick_python.Popen(
        command(store, *extra), cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@NEEDS_WEIGHTS
def test_a_stopped_and_a_killed_evaluation_go_on(root: Path, store: Path, tmp_path: Path) -> None:
    extra = ["evaluate.metrics=[fid,kid,precision]", "evaluate.parts=[train]",
             "evaluate.images=400"]  # fmt: skip
    straight = tmp_path / "straight"
    straight.mkdir()
    settings = config(metrics=["fid", "kid", "precision"], parts=["train"], images=400)
    run(settings, inputs(store), straight)
    for sign, code in ((signal.SIGTERM, 130), (signal.SIGKILL, -9)):
        process = start(root, store, *extra)
        while process.poll() is None and not list(store.glob(".drafts/*/*/unfinished/*")):
            time.sleep(0.02)
        time.sleep(0.3)
        assert process.poll() is None, process.communicate()[0]
        process.send_signal(sign)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == code, output
        assert "Traceback" not in output
        if sign == signal.SIGTERM:
            assert "run the same command again to continue" in output
            assert list(store.glob(".drafts/*/*/unfinished/model/features.safetensors"))
    last = start(root, store, *extra)
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output
    assert "evaluate: resumed" in output
    made = store / "evaluation" / "tiny" / "v1"
    assert (made / "metrics.json").read_text() == (straight / "metrics.json").read_text()
    # The model's own dataset was found, and is a parent.
    assert set(read_manifest(made).plan.parents) == {"model", "dataset"}


@NEEDS_WEIGHTS
def test_two_processes_give_the_figures_of_one(root: Path, store: Path, tmp_path: Path) -> None:
    names = ["fid", "kid", "recall", "eq_t"]
    run(config(metrics=names, parts=["train"]), inputs(store), tmp_path)
    extra = command(store, f"evaluate.metrics=[{','.join(names)}]", "evaluate.parts=[train]")
    done = quick_python.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         *extra[1:]],
        cwd=root, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    one = by_key(evaluation_file.read(tmp_path).results)
    two = by_key(evaluation_file.read(store / "evaluation" / "tiny" / "v1").results)
    assert one.keys() == two.keys()
    for key, result in one.items():
        assert result.estimate is not None
        other = two[key].estimate
        assert other is not None
        assert other.value == pytest.approx(result.estimate.value, rel=1e-4, abs=1e-6)
        assert two[key].samples == result.samples


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metrics": ["fidd"]}, "nearest valid value is fid"),
        ({"metrics": []}, "must each name one at least"),
        ({"parts": ["train", "train"]}, "names something twice"),
        ({"features": "inception"}, "which no package ships"),
        ({"images": 1}, "images=1 is out of range"),
        ({"truncation_psi": float("nan")}, "truncation_psi=nan is out of range"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        config(**changes)


def test_what_the_model_cannot_do_is_refused_before_anything_begins(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    given = {"model": tmp_path / "model"}
    with pytest.raises(ConfigError, match="metrics of features"):
        check(config(metrics=["eq_t"], snapshots=True), given)
    for file in (tmp_path / "model" / "training_state").iterdir():
        file.unlink()
    with pytest.raises(ConfigError, match="keeps no training states; train it with"):
        check(config(snapshots=True), given)


results = st.builds(
    Result,
    metric=st.sampled_from(list(METRICS)),
    estimate=st.none() | st.builds(
        Estimate, *[st.integers(-10**6, 10**6).map(lambda n: n / 1000)] * 3
    ),
    samples=st.integers(0, 10**6),
    network=st.text(max_size=10),
    interval=st.text(max_size=10),
    note=st.text(max_size=10),
    against=st.sampled_from(["", "train"]),
    reals=st.integers(0, 100),
)  # fmt: skip


@given(figures=st.lists(results, max_size=4), seen=st.integers(0, 10**7))
@settings(max_examples=30, deadline=None)
def test_the_file_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, figures: list[Result], seen: int
) -> None:
    folder = tmp_path_factory.mktemp("file")
    evaluation = Evaluation(3, 0.5, figures, [Snapshot(seen, figures[:1])])
    evaluation_file.write(folder, evaluation)
    assert evaluation_file.read(folder) == evaluation


def test_other_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no metrics\.json"):
        evaluation_file.read(tmp_path)
    evaluation_file.write(tmp_path, Evaluation(0, 1.0, [Result("fid", Estimate(math.inf))]))
    path = tmp_path / evaluation_file.FILE
    good = json.loads(path.read_text())
    assert good["figures"][0]["value"] is None
    for wrong in ("[1]", "{}", "half a fi", json.dumps({**good, "version": 9}),
                  json.dumps({**good, "figures": [{"metric": "fidd"}]})):  # fmt: skip
        path.write_text(wrong)
        with pytest.raises(DataError, match="is no file of figures"):
            evaluation_file.read(tmp_path)


def test_real_images_come_in_an_order_of_their_own(store: Path) -> None:
    """Not by name: of a large set only the first features are kept."""
    images = RealImages.of(inputs(store)["dataset"], ["all"])
    ((first, shuffled),) = images.batches("all", slice(None))
    plain = images.read(images.parts["all"])
    assert first == 0
    assert not torch.equal(shuffled, plain)
    assert sorted(shuffled.flatten(1).tolist()) == sorted(plain.flatten(1).tolist())
    ((_, again),) = images.batches("all", slice(None))
    assert torch.equal(again, shuffled)


@NEEDS_WEIGHTS
def test_images_of_the_dataset_itself_are_told_from_others(store: Path, tmp_path: Path) -> None:
    """What the figures are for: the set's own images score better than another's."""
    other = tmp_path / "other"
    other.mkdir()
    rng = np.random.default_rng(1)
    with ImageZipWriter(other / "images.zip") as writer:
        for _ in range(26):
            writer.add(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
    network = features.load("lpips-alex", side_px=64)
    sets = {}
    for name, folder in (("own", inputs(store)["dataset"]), ("other", other)):
        images = RealImages.of(folder, ["all"])
        sets[name] = suite.observe(images.batches("all", slice(None)), network, keep=100)
    own = sets["own"].gaussian()
    assert frechet_distance(own, own) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(own, sets["other"].gaussian()) > 1
