"""The runner and its command line: reuse, resume, stops, errors; over two toy stages."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import toy_stages
from toy_stages import CollectConfig, RefineConfig, ShapeConfig

from pipeline.artifacts.store import Artifact, Store
from pipeline.errors import AnimedragError, ArtifactError, ConfigError, DataError
from pipeline.runner import Outcome, StageFailed, foresee, plain_metrics, run_stage

COLLECT, REFINE = toy_stages.STAGES
ROOT = Path(__file__).resolve().parent.parent

CommandLine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "one.png").write_bytes(b"1")
    (tmp_path / "raw" / "two.png").write_bytes(b"22")
    return Store(tmp_path / "artifacts")


def collect(store: Store, **changes: object) -> Outcome:
    config = dataclasses.replace(CollectConfig(name="toy", path="raw"), **changes)  # type: ignore[arg-type]
    return run_stage(COLLECT, config, store, toy_stages.STAGES)


def refine(store: Store, **changes: object) -> Outcome:
    base = RefineConfig(name="toy", dataset="dataset/toy", shape=ShapeConfig())
    config = dataclasses.replace(base, **changes)  # type: ignore[arg-type]
    return run_stage(REFINE, config, store, toy_stages.STAGES)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "tests" / "toy_stages.py"), "conf", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def run(store: Store, tmp_path: Path) -> CommandLine:
    """Run the command line over the toy stages in tmp_path."""
    toy_stages.write_conf(tmp_path / "conf")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), env=environment(), capture_output=True, text=True, timeout=120
        )

    return call


def test_the_second_time_is_reused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = collect(store), collect(store)
    assert (first.how, second.how) == ("run", "reused")
    assert first.artifact.folder == second.artifact.folder
    assert "reused dataset/toy:v1" in capsys.readouterr().out
    assert collect(store, workers=9).how == "reused"


def test_what_decides_the_result_makes_a_new_version(store: Store) -> None:
    collect(store)
    assert refine(store).artifact.reference == "model/toy:v1"
    assert refine(store, seconds_a_step=0.001).how == "reused"
    assert refine(store, rate=0.25).artifact.reference == "model/toy:v2"
    assert refine(store, shape=ShapeConfig("square")).artifact.reference == "model/toy:v3"
    later = dataclasses.replace(REFINE, version=2)
    base = RefineConfig(name="toy", dataset="dataset/toy", shape=ShapeConfig())
    assert run_stage(later, base, store).artifact.reference == "model/toy:v4"
    # A name for the same parent changes nothing, another parent does.
    assert refine(store, dataset="dataset/toy:v1").artifact.reference == "model/toy:v1"
    Path("raw/one.png").write_bytes(b"other")
    assert collect(store).artifact.reference == "dataset/toy:v2"
    assert refine(store).how == "run"
    assert refine(store, dataset="dataset/toy:v1").how == "reused"


def test_the_manifest_says_where_it_came_from(store: Store) -> None:
    collect(store)
    manifest = refine(store, seed=7).artifact.manifest
    assert manifest.seed == 7
    assert manifest.plan.config["shape"] == {"kind": "round", "size": 3}
    assert manifest.plan.parents["dataset"].digest == store.find("dataset/toy").manifest.digest
    source = store.find("dataset/toy").manifest.plan.sources["path"]
    assert [entry.path for entry in source.files] == ["one.png", "two.png"]
    assert manifest.environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest.metrics["first_step"] == 0


def test_a_damaged_result_is_made_again_and_a_damaged_input_refused(store: Store) -> None:
    made = collect(store).artifact
    (made.folder / "sizes.txt").unlink()
    with pytest.raises(ArtifactError, match=r"dataset/toy:v1 is damaged \(sizes.txt is missing\)"):
        refine(store)
    assert collect(store).artifact.reference == "dataset/toy:v2"
    assert refine(store).how == "run"


def test_nothing_is_made_of_a_parent_with_a_changed_byte(run: CommandLine, store: Store) -> None:
    """Same size, same time, another byte: only its digest tells, and the stage does not begin."""
    collect(store)
    path = store.find("dataset/toy").folder / "inner" / "names.txt"
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    refused = run("stage=refine")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert "dataset/toy:v1: inner/names.txt was changed after it was written" in refused.stderr
    assert not list(store.root.glob(".drafts/*"))
    assert store.names("model") == []
    path.write_bytes(path.read_bytes().replace(b"two", b"one", 1))
    assert run("stage=refine").returncode == 0


def test_what_a_stage_can_tell_at_once_is_refused_before_it_is_begun(
    run: CommandLine, store: Store
) -> None:
    collect(store)
    refused = run("stage=refine", "refine.rate=-1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "refine.rate=-1.0 cannot refine 2 names; use 0 or more.\n"
    assert not list(store.root.glob(".drafts/*"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dataset": "dataset/ganyu"}, "run `make collect CHARACTER=ganyu` first"),
        ({"dataset": "dataset/tyo"}, "the nearest is dataset/toy"),
        ({"dataset": "dataset/toy:v9"}, "toy has v1"),
        ({"dataset": "model/toy"}, "refine.dataset=model/toy"),
        ({"start": "dataset/toy"}, "is of kind dataset, but refine needs one of kind model"),
        ({"name": "../toy"}, "cannot name an artifact"),
    ],
)
def test_wrong_inputs_are_one_sentence(
    store: Store, changes: dict[str, object], sentence: str
) -> None:
    collect(store)
    with pytest.raises(AnimedragError) as caught:
        refine(store, **changes)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_source_names_its_setting(store: Store) -> None:
    with pytest.raises(AnimedragError, match=r"^collect.path: .*nowhere does not exist"):
        collect(store, path="nowhere")


def test_a_bare_name_will_do_where_the_kind_is_clear(store: Store) -> None:
    first = collect(store)
    refine(store, dataset="toy:v1")
    assert refine(store, dataset="dataset/toy").how == "reused"
    assert refine(store, dataset=str(first.artifact.folder)).how == "reused"
    with pytest.raises(ArtifactError, match=r"no dataset/tory; the nearest is dataset/toy"):
        refine(store, dataset="tory")
    # What ships is called by its folder's name; this one is no dataset.
    with pytest.raises(ConfigError, match=r"assets/starter is of kind model, but refine needs"):
        refine(store, dataset="starter")
    with pytest.raises(ArtifactError, match=r"run `make refine CHARACTER=none` first, or take"):
        refine(store, start="none")


def test_what_a_later_stage_would_refuse_is_refused_first(store: Store) -> None:
    def refuse(config: CollectConfig, before: Mapping[str, object]) -> None:
        raise DataError(f"{config.path} after {', '.join(before)}")

    toy_stages.refuse = refuse  # type: ignore[attr-defined]
    strict = dataclasses.replace(COLLECT, foresee="toy_stages:refuse")
    refined = RefineConfig(name="toy", dataset="dataset/toy", shape=ShapeConfig())
    there, nowhere = CollectConfig(name="toy", path="raw"), CollectConfig(name="x", path="nowhere")
    foresee([(COLLECT, there), (REFINE, refined)])
    foresee([(strict, there)])  # with nothing before it, it is asked when it runs
    with pytest.raises(DataError, match=r"^raw after refine$"):
        foresee([(REFINE, refined), (strict, there)])
    with pytest.raises(AnimedragError, match=r"^collect.path: .*nowhere does not exist"):
        foresee([(REFINE, refined), (COLLECT, nowhere)])


def test_an_unexpected_error_keeps_its_traceback_and_the_draft(store: Store) -> None:
    with pytest.raises(StageFailed) as caught:
        collect(store, fail="bug")
    (log,) = store.root.glob(".drafts/*/error.log")
    assert str(log) in str(caught.value)
    assert "ZeroDivisionError: a bug" in log.read_text()
    assert store.artifacts() == []
    assert collect(store).artifact.reference == "dataset/toy:v1"
    assert not list(store.root.glob(".drafts/*"))


def test_a_full_disk_inside_a_stage_is_one_sentence(store: Store) -> None:
    def full(*_: object) -> dict[str, int]:
        raise RuntimeError("writing failed: [Errno 28] No space left on device")

    sys.modules[__name__].__dict__["full"] = full
    stage = dataclasses.replace(COLLECT, run=f"{__name__}:full")
    with pytest.raises(ArtifactError, match="is full; free some space"):
        run_stage(stage, CollectConfig(name="toy", path="raw"), store)


def test_a_full_disk_before_a_stage_is_one_sentence(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = collect(store).artifact.folder

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.artifacts.store.put_text", full)
    with pytest.raises(ArtifactError, match="is full; free some space"):
        refine(Store(tmp_path / "other"), dataset=str(outside))


def test_a_store_that_is_a_file_is_one_sentence(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="set store= to a folder of yours"):
        collect(Store(tmp_path / "file"))


def test_metrics_become_plain_values() -> None:
    import numpy as np

    metrics = {"a": np.float32(0.5), "b": np.int64(3), "c": float("nan"), "d": "text", "e": 1}
    assert plain_metrics(metrics) == {"a": 0.5, "b": 3, "c": "nan", "d": "text", "e": 1}


def test_command_line_runs_reuses_and_sweeps(run: CommandLine, store: Store) -> None:
    first = run("stage=[collect,refine]", "experiment=good")
    assert (first.returncode, first.stderr) == (0, "")
    model = store.find("model/toy:v1").manifest
    assert model.plan.config["steps"] == 2
    assert model.plan.config["shape"] == {"kind": "square", "size": 4}
    assert model.metrics["torch_loaded"] == 0

    sweep = run("--multirun", "stage=refine", "refine.steps=4,5", "refine.rate=0.1,0.2")
    assert sweep.returncode == 0, sweep.stderr
    found = {
        (artifact.manifest.plan.config["steps"], artifact.manifest.plan.config["rate"])
        for artifact in store.artifacts("model")[1:]
    }
    assert found == {(4, 0.1), (4, 0.2), (5, 0.1), (5, 0.2)}


def test_sweep_in_processes(run: CommandLine, store: Store) -> None:
    collect(store)
    done = run(
        "-m",
        "stage=refine",
        "refine.steps=1,2,0",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    )
    assert done.returncode == 2
    assert "refine.steps=0 is out of range; use 1" in done.stderr
    assert "Traceback" not in done.stderr
    steps = sorted(artifact.manifest.plan.config["steps"] for artifact in store.artifacts("model"))
    assert steps == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "No stage was chosen; add stage=collect (valid: collect, refine)."),
        (["stage=refien"], "the nearest valid value is refine"),
        (["stage=refine", "refine.stepz=1"], "the nearest valid one is refine.steps"),
        (["stage=refine", "+refine.stepz=1"], "the nearest valid one is refine.steps"),
        (["stage=refine", "+extra=1"], "There is no setting extra"),
        (["stage=refine", "stage.steps=1"], "the nearest valid one is refine.steps"),
        (["stage=refine", "steps=1"], "the nearest valid one is refine.steps"),
        (["stage=refine", "refine.steps=many"], "refine.steps=many is not possible; it must be a"),
        (["stage=refine", "refine.steps=0"], "refine.steps=0 is out of range; use 1"),
        (["stage=refine", "refine.mode=fency"], "the nearest valid value is fancy"),
        (["stage=refine", "shape.kind=rond"], "shape.kind=rond is not possible; the nearest"),
        (["stage=refine", "shape=bal"], "the nearest valid value is ball (valid: ball, box)"),
        (["stage=refine", "shpe=ball"], "the nearest valid one is shape"),
        (["stage=refine", "device=gpu"], "device=gpu is not possible; the nearest valid value is"),
        (["stage=refine", "refine.name=${nope}"], "Interpolation key 'nope' not found"),
        (["stage=refine", "experiment=godo"], "the nearest valid value is good"),
        (["stage=refine", "experiment=misspelt"], "misspelt.yaml: There is no setting refine.ste"),
        (["stage=refine", "experiment=wrong_type"], "wrong_type.yaml: refine.steps=many is not"),
        (["stage=refine", "experiment=wrong_option"], "the nearest valid value is ball"),
        (["stage=refine", "experiment=broken"], "broken.yaml, line 3, is no valid YAML"),
        (["-m", "stage=refine", "refine.stepz=1,2"], "the nearest valid one is refine.steps"),
        (["-m", "stage=refine", "shape=ball,bal"], "the nearest valid value is ball"),
        (["refine"], "write stage=refine"),
        (["stage=collect"], "collect.path has no value; add collect.path=..."),
        (["stage=collect", "collect.path=no (p).png"], "collect.path: no (p).png does not exist"),
        (["stage=collect", "character=a/b"], "collect.path has no value"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    run_here: Callable[..., tuple[int, str]], arguments: list[str], sentence: str
) -> None:
    code, said = run_here(*arguments)
    assert code == 2
    assert sentence in said
    assert len(said.strip().splitlines()) == 1


@pytest.fixture
def run_here(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str]]:
    """Run the command line in this process: (exit code, what it said on stderr)."""
    from hydra.core.global_hydra import GlobalHydra

    from scripts.run import main

    conf = toy_stages.write_conf(tmp_path / "conf")

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["run", *arguments])
        GlobalHydra.instance().clear()
        code = main(toy_stages.STAGES, toy_stages.GROUPS, conf)
        return code, capsys.readouterr().err

    return call


def test_a_folder_that_cannot_be_written_to_gives_one_sentence(
    run: CommandLine, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "runs").touch()  # where Hydra's records and error logs would go
    result = run("stage=collect", "collect.path=raw", "character=toy")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    log = Path(result.stderr.rpartition("details are in ")[2].strip().removesuffix("."))
    assert "Traceback" in log.read_text(encoding="utf-8")
    log.unlink()


def test_refusals_in_a_process_of_their_own(run: CommandLine) -> None:
    for arguments in (["stage=refine", "refine.stepz=1"], ["stage=refine", "refine.steps=0"]):
        done = run(*arguments)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
    bug = run("stage=collect", "collect.path=raw", "collect.fail=bug")
    assert bug.returncode == 1
    assert len(bug.stderr.strip().splitlines()) == 1
    assert "error.log" in bug.stderr


def test_every_failed_job_of_a_sweep_has_one_sentence(run: CommandLine, store: Store) -> None:
    sweep = run("--multirun", "stage=collect", "collect.path=nowhere,raw,gone")
    assert sweep.returncode == 2
    lines = sweep.stderr.splitlines()
    assert len(lines) == 2, lines
    assert lines[0].startswith("Job 0 (")
    assert "nowhere does not exist" in lines[0]
    assert lines[1].startswith("Job 2 (")
    assert "gone does not exist" in lines[1]
    assert store.names("dataset") == ["toy"]


@pytest.mark.parametrize("where", ["memory", "gpu"])
def test_memory_that_is_used_up_is_one_sentence(run: CommandLine, store: Store, where: str) -> None:
    done = run("stage=collect", "collect.path=raw", f"collect.fail={where}")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "collect needs more memory than there is" in done.stderr
    assert ("Tried to allocate 2.00 GiB" in done.stderr) is (where == "gpu")
    assert not list(store.root.glob(".drafts/*"))


def test_a_pipe_that_is_closed_ends_the_run_without_a_traceback(
    store: Store, tmp_path: Path
) -> None:
    """As `... | head -1` does it: the run stops, says so, and nothing is lost or broken."""
    toy_stages.write_conf(tmp_path / "conf")
    process = subprocess.Popen(
        command("stage=collect", "collect.path=raw", "collect.fail=chatter"),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "collect: making dataset/toy.\n"
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert errors == (
        "collect was stopped, because nobody reads its output any more (as under | head); "
        "run the same command again to continue.\n"
    )
    shown = subprocess.run(
        ["bash", "-c", '"$@" | head -c 1; exit ${PIPESTATUS[0]}', "-", *command("--cfg", "job")],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert shown.stderr == ""


def wait_for_lines(store: Store, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in store.root.glob(".drafts/*/payload/steps.txt"):
            if len(path.read_text().splitlines()) >= count:
                return
        time.sleep(0.01)
    raise AssertionError("the stage did not get going")


SLOW = ("stage=refine", "refine.steps=30", "refine.seconds_a_step=0.05")
FAST = ("stage=refine", "refine.steps=30", "refine.seconds_a_step=0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_where_it_stopped(
    run: CommandLine, store: Store, number: signal.Signals
) -> None:
    collect(store)
    process = subprocess.Popen(
        command(*SLOW), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_lines(store, 3)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert store.artifacts("model") == []
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 130
        assert "run the same command again to continue" in said
        assert "Traceback" not in said

    again = run(*FAST)
    assert again.returncode == 0, again.stderr
    assert "resumed" in again.stdout
    model = store.find("model/toy")
    assert int(model.manifest.metrics["first_step"]) >= 3
    steps = (model.folder / "steps.txt").read_text().splitlines()
    assert [int(line.split()[0]) for line in steps] == list(range(30))
    assert model.manifest.wall_seconds >= 0.1
    assert not list(store.root.glob(".drafts/*"))


def test_two_of_the_same_at_once_make_one(run: CommandLine, store: Store) -> None:
    collect(store)
    arguments = ("stage=refine", "refine.steps=10", "refine.seconds_a_step=0.2")
    processes = [
        subprocess.Popen(command(*arguments), env=environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = sorted(process.communicate(timeout=60)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert "is running the same; waiting" in said[1]
    assert "reused model/toy:v1" in said[1]
    assert "made model/toy:v1" in said[0]
    (model,) = store.artifacts("model")
    assert len((model.folder / "steps.txt").read_text().splitlines()) == 10
    assert store.verify(Artifact(model.folder)) == []


def test_config_errors_are_of_our_own_kind(store: Store) -> None:
    collect(store)
    with pytest.raises(ConfigError):
        refine(store, start="dataset/toy")


def test_an_input_that_may_be_absent_is_left_out(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    collect(store)
    lenient = dataclasses.replace(REFINE, may_be_absent=("start",))
    config = RefineConfig(
        name="toy", dataset="dataset/toy", start="model/none", shape=ShapeConfig()
    )
    outcome = run_stage(lenient, config, store, toy_stages.STAGES)
    assert "there is no model/none yet" in capsys.readouterr().out
    # Of what the settings name by themselves, by the run's own name, nothing is said.
    run_stage(lenient, dataclasses.replace(config, start="model/toy"), store, toy_stages.STAGES)
    assert "there is no" not in capsys.readouterr().out
    assert set(outcome.artifact.manifest.plan.parents) == {"dataset"}
    # The same reference is taken as soon as something of that name is there.
    run_stage(lenient, dataclasses.replace(config, name="none", start=None), store)
    outcome = run_stage(lenient, config, store, toy_stages.STAGES)
    assert set(outcome.artifact.manifest.plan.parents) == {"dataset", "start"}


def test_an_inherited_input_is_the_parent_of_another(store: Store) -> None:
    collect(store)
    refine(store)
    (store.root.parent / "raw" / "three.png").write_bytes(b"333")
    collect(store)
    # The newest dataset is v2, but the model was made from v1.
    heir = dataclasses.replace(
        REFINE,
        inputs={"start": "model", "dataset": "dataset"},
        inherited={"dataset": ("start", "dataset")},
    )
    config = RefineConfig(name="heir", start="model/toy", shape=ShapeConfig())
    config.dataset = None  # type: ignore[assignment]
    outcome = run_stage(heir, config, store, toy_stages.STAGES)
    assert str(outcome.artifact.manifest.plan.parents["dataset"]) == "dataset/toy:v1"
    shutil.rmtree(store.root / "dataset" / "toy" / "v1")
    config = dataclasses.replace(config, name="other")
    with pytest.raises(ArtifactError, match=r"instead: refine\.dataset=dataset/"):
        run_stage(heir, config, store, toy_stages.STAGES)


def test_auto_is_what_belongs_to_another_input(store: Store) -> None:
    collect(store)
    refine(store)
    (store.root.parent / "raw" / "three.png").write_bytes(b"333")
    collect(store)
    report = dataclasses.replace(
        REFINE,
        inputs={"start": "model", "dataset": "dataset"},
        inherited={"dataset": ("start", "dataset")},
        may_be_absent=("start", "dataset"),
    )

    def parents(start: str | None) -> list[str]:
        config = RefineConfig(name="toy", dataset="auto", start=start, shape=ShapeConfig())
        outcome = run_stage(report, config, store, toy_stages.STAGES)
        return sorted(map(str, outcome.artifact.manifest.plan.parents.values()))

    # Of the model the dataset that it was made from, not the newest; without a model that.
    assert parents("model/toy:v1") == ["dataset/toy:v1", "model/toy:v1"]
    assert parents(None) == ["dataset/toy:v2"]
