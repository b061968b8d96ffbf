"""Runs within one process: what a run folder holds, reading it back, and what is refused."""

import shutil
import signal
import subprocess
from dataclasses import make_dataclass, replace
from functools import partial

import jax
import numpy as np
import pytest

import jaxcnn
from jaxcnn import (
    SGD,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    Experiment,
    ModelConfig,
    Momentum,
    Plateau,
    TrainConfig,
    cli,
    runs,
)
from jaxcnn.errors import RunError, UsageError
from jaxcnn.models import MODELS
from jaxcnn.report.held import read_metrics
from jaxcnn.runs import folder, record, trainer
from jaxcnn.stop import StopFlag, Stopped
from jaxcnn.train.state import params_sha256


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images that tell their class by where they are bright; 47 to test on, so that batches do not come out even."""
    rng = np.random.default_rng(0)
    # With a letter that no font of ours has.
    arrays = {"class_names": np.array(["left", "right", "both \u732b"])}
    for split, count in (("train", 120), ("val", 33), ("test", 47)):
        labels = rng.integers(0, 3, count)
        images = rng.integers(0, 100, (count, 28, 28, 1))
        images[labels != 1, :, :14] += 100
        images[labels != 0, :, 14:] += 100
        arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels}
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def lenet(data):
    return Experiment(
        name="lenet",
        model=ModelConfig(name="lenet5"),
        data=DataConfig(source="npz", path=data, val_split="val"),
        optim=Momentum(learning_rate=0.02),
        train=TrainConfig(batch_size=24, steps=12, log_every=5, devices=1),
        eval=EvalConfig(every=4, batch_size=20),
        checkpoint=CheckpointConfig(every=3),
    )


@pytest.fixture(scope="module")
def finished(lenet, tmp_path_factory):
    return jaxcnn.run(lenet, tmp_path_factory.mktemp("runs"), progress=False, command="as typed")


@pytest.fixture(scope="module", autouse=True)
def resnet_tiny():
    with pytest.MonkeyPatch.context() as patch:
        small = partial(MODELS["resnet20"].factory, depths=(1, 1), width=4)
        patch.setitem(MODELS, "resnet_tiny", replace(MODELS["resnet20"], factory=small))
        yield


@pytest.fixture(scope="module")
def stateful(data, tmp_path_factory):
    """A run of everything that evaluation depends on beside the parameters: averages of them, BatchNorm, both exact."""
    experiment = Experiment(
        name="stateful",
        model=ModelConfig(name="resnet_tiny"),
        data=DataConfig(source="npz", path=data, image_size=12),
        optim=Momentum(learning_rate=0.02, clip_norm=1.0),
        schedule=Plateau(patience=2),
        train=TrainConfig(batch_size=24, steps=10, log_every=4, devices=1, ema_decay=0.9, recompute_batch_stats=True),
        eval=EvalConfig(every=4, batch_size=20),
    )
    return jaxcnn.run(experiment, tmp_path_factory.mktemp("runs"), progress=False)


@pytest.fixture
def unfinished(finished, tmp_path):
    """A copy of a run that was killed just before its end: only the result is missing."""
    copy = tmp_path / finished.experiment.name / finished.path.name
    shutil.copytree(finished.path, copy)
    (copy / "result.json").unlink()
    return jaxcnn.load_run(copy)


def outcome(run):
    return run.result["params_sha256"], (run.path / "metrics.jsonl").read_bytes()


def test_a_run_folder_holds_what_was_promised(finished):
    found = {path.name for path in finished.path.iterdir()}
    assert found == {
        "checkpoints",
        "data.json",
        "environment.json",
        "events",
        "experiment.json",
        "figures",
        "lock",
        "metrics.jsonl",
        "predictions.npz",
        "program.json",
        "result.json",
        "timings.jsonl",
    }
    figures = {path.name for path in (finished.path / "figures").iterdir()}
    assert figures == {"curves.png", "confusion_matrix.png", "worst_mistakes.png"}
    result = finished.result
    assert (result["status"], result["name"], result["seed"], result["step"]) == ("finished", "lenet", 0, 12)
    assert result["metrics"].keys() >= {"test/accuracy", "test/loss", "val/accuracy"}
    assert "test/top5_error" not in result["metrics"]  # three classes
    assert result["command"] == "as typed" and result["examples_per_second"] > 0
    assert "finished" in repr(finished)


def test_rows_are_at_their_steps_and_name_what_they_measure(finished):
    rows = read_metrics(finished.path / "metrics.jsonl")
    assert [(row["step"], next(name for name in row if name != "step")) for row in rows] == [
        (4, "val/loss"),
        (5, "train/loss"),
        (8, "val/loss"),
        (10, "train/loss"),
        (12, "train/loss"),
        (12, "val/loss"),
        (12, "test/loss"),
    ]
    frame = finished.metrics
    assert list(frame.index) == [4, 5, 8, 10, 12]
    assert frame.loc[12, "test/accuracy"] == finished.result["metrics"]["test/accuracy"]
    assert (frame["test/accuracy"].dropna() * 47 % 1 == 0).all()


def test_checkpoints_kept_are_the_newest_two_and_the_best(finished):
    best = finished.metrics["val/accuracy"].dropna().loc[[4, 8]]
    kept = {int(path.name) for path in (finished.path / "checkpoints").iterdir()}
    assert kept == {12, 9, int(best.idxmax())}


def test_the_same_experiment_gives_the_same_bits(finished, lenet, tmp_path):
    assert outcome(jaxcnn.run(lenet, tmp_path, progress=False)) == outcome(finished)


def test_a_finished_run_is_returned_without_its_data_from_a_disk_that_cannot_be_written(finished, lenet, monkeypatch):
    monkeypatch.setattr(trainer, "load_together", None)
    monkeypatch.setattr(folder.RunFolder, "locked", None)
    monkeypatch.setattr(folder, "write_atomically", None)
    again = jaxcnn.run(lenet, finished.path.parents[1], progress=False)
    assert again.result == finished.result
    assert runs.resume(finished.path).result == finished.result
    assert jaxcnn.run_seeds(lenet, finished.path.parents[1], progress=False)[0].result == finished.result


@pytest.mark.parametrize("name", ["finished", pytest.param("stateful", marks=pytest.mark.slow)])
def test_a_run_read_back_predicts_what_it_recorded_without_its_data(name, data, request, monkeypatch):
    run = jaxcnn.load_run(str(request.getfixturevalue(name).path))
    monkeypatch.setattr(trainer, "load_together", None)
    recorded = np.load(run.path / "predictions.npz")
    images = np.load(data)["test_images"]
    if name == "stateful":
        from jaxcnn.data import load

        images = load(run.experiment.data).test.arrays["image"]
    predicted = run.predict(images)
    assert predicted.shape == (47, 3) and predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, jax.nn.softmax(recorded["logits"]), atol=1e-5)
    np.testing.assert_array_equal(run.predict(images[:1]).argmax(-1), recorded["logits"][:1].argmax(-1))
    assert int(run.state.step) == run.result["step"]
    assert params_sha256(run.state.params) == run.result["params_sha256"]
    accuracy = (recorded["logits"].argmax(-1) == recorded["labels"]).mean()
    assert accuracy == pytest.approx(run.result["metrics"]["test/accuracy"])


@pytest.mark.parametrize("name", ["finished", "stateful"])
def test_evaluation_agrees_with_the_recorded_result(name, request):
    run = request.getfixturevalue(name)
    assert runs.evaluate(run.path) == {k: v for k, v in run.result["metrics"].items() if k.startswith("test/")}


def test_evaluation_of_the_best_checkpoint_agrees_with_its_row(finished):
    rows = finished.metrics["val/accuracy"].dropna()
    assert runs.evaluate(finished.path, split="val", checkpoint="best")["val/accuracy"] == rows.max()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 27, 28, 1), np.uint8), r"images are \(27, 28, 1\), expected \(28, 28, 1\)"),
        (np.zeros((2, 28, 28, 3), np.uint8), "expected"),
        (np.zeros((28, 28), np.uint8), "expected"),
        (np.uint8(3), "expected"),
        (np.zeros((0, 28, 28, 1), np.uint8), "expected"),
        (np.full((2, 28, 28, 1), 0.5), "multiply by 255"),
        (np.full((2, 28, 28, 1), 256), "0 to 255"),
        (np.full((2, 28, 28, 1), -1), "0 to 255"),
        (np.full((2, 28, 28, 1), np.nan), "NaN"),
        (np.full((2, 28, 28, 1), "x"), "expected uint8"),
    ],
)
def test_wrong_images_are_named(finished, images, message):
    with pytest.raises(UsageError, match=message):
        finished.predict(images)


def test_a_folder_in_use_is_refused(unfinished, capsys):
    with unfinished.folder.locked():
        assert cli._main(["train", "--resume", str(unfinished.path)]) == 2
    assert capsys.readouterr().err == f"jaxcnn: error: run folder {unfinished.path} is in use by another process\n"


def test_a_mistake_leaves_no_folder(lenet, tmp_path):
    mistaken = replace(lenet, data=replace(lenet.data, path=tmp_path / "none.npz"))
    with pytest.raises(UsageError, match="no such file"):
        jaxcnn.run(mistaken, tmp_path / "in" / "runs", progress=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").mkdir()  # which was there before
    with pytest.raises(UsageError, match="no such file"):
        jaxcnn.run(mistaken, tmp_path / "runs", progress=False)
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_a_resume_that_differs_in_what_matters_names_it(finished, lenet):
    other = replace(lenet, optim=replace(lenet.optim, learning_rate=0.5))
    with pytest.raises(UsageError, match=r"optim\.learning_rate is 0\.5, the run has 0\.02"):
        runs.resume(finished.path, other)
    runs.resume(finished.path, replace(lenet, checkpoint=CheckpointConfig(every=1, keep=9)))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_other_data_are_refused(unfinished, data, tmp_path, split):
    changed = dict(np.load(data))
    changed[f"{split}_images"][0, 0, 0] ^= 1
    np.savez(tmp_path / "changed.npz", **changed)
    values = unfinished.folder.read("experiment")
    values["data"]["path"] = str(tmp_path / "changed.npz")
    unfinished.folder.write("experiment", values)
    unfinished.folder.write("result", {"status": "stopped", "name": "lenet", "seed": 0, "step": 12})
    views = {"views": "multi_scale", "scales": [28]}
    for use, options in ((runs.resume, {}), (runs.evaluate, {}), (runs.evaluate, views)):
        with pytest.raises(UsageError, match=f"the {split} examples are not those it began with"):
            use(unfinished.path, **options)
    assert unfinished.result["status"] == "stopped"


def test_other_sizes_are_of_the_same_images(stateful, data, tmp_path):
    """Checksums are of the pixels as they were trained on; that others are scored does not make others of them."""
    before = runs.evaluate(stateful.path)
    found = runs.evaluate(stateful.path, resize_to=14)
    assert found.keys() == before.keys() and found["test/loss"] != before["test/loss"]
    changed = dict(np.load(data))
    changed["test_labels"][0] ^= 1
    np.savez(tmp_path / "changed.npz", **changed)
    with pytest.raises(UsageError, match="the test examples are not those it began with"):
        runs.evaluate(stateful.path, resize_to=14, data_path=tmp_path / "changed.npz")


def test_data_are_found_from_another_folder_and_when_they_move(lenet, unfinished, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(data.parent)
    relative = replace(lenet, data=replace(lenet.data, path=data.name))
    with StopFlag(), pytest.raises(Stopped):
        signal.raise_signal(signal.SIGTERM)
        jaxcnn.run(relative, tmp_path / "stopped", progress=False)
    (path,) = tmp_path.glob("stopped/*/*")
    monkeypatch.chdir(tmp_path)
    assert jaxcnn.load_run(path).experiment.data.path == data
    values = unfinished.folder.read("experiment")
    values["data"]["path"] = "/no/where.npz"
    unfinished.folder.write("experiment", values)
    capsys.readouterr()
    monkeypatch.setattr(cli, "prepare_process", lambda *, distributed: None)
    assert cli._main(["evaluate", str(unfinished.path)]) == 2
    assert "data.path /no/where.npz: no such file" in capsys.readouterr().err
    assert cli._main(["evaluate", str(unfinished.path), "--data-path", str(data)]) == 0
    assert "test accuracy" in capsys.readouterr().out


def test_a_lost_log_is_noticed(unfinished):
    path = unfinished.path / "metrics.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    for left in ("", rows[0], "".join(rows[:2])):
        path.write_text(left)
        with pytest.raises(RunError, match=r"metrics.jsonl has \d of \d rows up to step 12: put it back, or"):
            runs.resume(unfinished.path, progress=False)
        assert path.read_text() == left
    path.write_text("".join(rows[:-1]))  # of the end, which comes again
    runs.resume(unfinished.path, progress=False)
    assert path.read_text() == "".join(rows)


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(finished, unfinished, capsys):
    newest = unfinished.path / "checkpoints" / "00000012" / "state" / "_METADATA"
    newest.write_bytes(newest.read_bytes()[:-1])
    shutil.copytree(newest.parents[1], newest.parents[2] / "00000011")
    again = runs.resume(unfinished.path)
    said = capsys.readouterr().err
    assert "00000012 is damaged (state/_METADATA is not as it was written): it is not used" in said
    assert outcome(again) == outcome(finished)
    assert {path.name for path in newest.parents[2].iterdir()} == {
        path.name for path in (finished.path / "checkpoints").iterdir()
    }


def test_reading_a_run_reports_a_damaged_checkpoint_too(unfinished, capsys):
    (unfinished.path / "checkpoints" / "00000012" / "position.json").write_text("{}")
    said = f"jaxcnn: checkpoint {unfinished.path}/checkpoints/00000012 is damaged (position.json is not as it was "
    assert int(unfinished.state.step) == 9
    assert capsys.readouterr().err == said + "written): it is not used\n"
    runs.evaluate(unfinished.path)
    assert capsys.readouterr().err == said + "written): it is not used\n"


def test_what_other_versions_wrote_is_named(unfinished, monkeypatch):
    saved = unfinished.folder.read("data")
    unfinished.folder.write("data", {name: saved[name] for name in saved if name != "sha256"})
    with pytest.raises(UsageError, match=r"data\.json has no sha256: another version of jaxcnn wrote it"):
        runs.resume(unfinished.path)
    unfinished.folder.write("data", saved)
    fewer = make_dataclass("Fewer", [("step", int, 0)], frozen=True)
    monkeypatch.setattr(record, "Position", fewer)
    with pytest.raises(RunError, match=r"position in .*00000012 is of another version .*unknown field 'sums'"):
        runs.resume(unfinished.path)


def test_a_killed_replacement_is_put_back_when_the_run_goes_on(finished, unfinished):
    checkpoints = unfinished.path / "checkpoints"
    (checkpoints / "00000012").rename(checkpoints / "tmp-old-00000012")
    assert outcome(runs.resume(unfinished.path)) == outcome(finished)
    assert {path.name for path in checkpoints.iterdir()} == {
        path.name for path in (finished.path / "checkpoints").iterdir()
    }


def test_another_environment_is_noted(unfinished, monkeypatch, capsys):
    first = unfinished.folder.read("environment")
    for commit, sittings in (("b", 1), ("b", 1), ("c", 2)):
        monkeypatch.setattr(record, "environment", lambda commit=commit: first | {"commit": commit})
        runs.resume(unfinished.path)
        noted = unfinished.folder.read("environment")
        assert len(noted["resumed"]) == sittings and noted["resumed"][-1]["commit"] == commit
        assert {name: noted[name] for name in first} == first
        (unfinished.path / "result.json").unlink()
    said = [line for line in capsys.readouterr().err.splitlines() if "environment.json" in line]
    assert len(said) == 2 and said[0].endswith("environment.json: commit")


def test_a_run_is_scored_on_other_devices_than_it_was_trained_on(unfinished):
    values = unfinished.folder.read("experiment")
    values["train"] |= {"devices": 16, "batch_size": 45, "parallel": "pmap", "accumulation_steps": 3}
    unfinished.folder.write("experiment", values)
    found = runs.evaluate(unfinished.path)
    for name, value in found.items():
        assert value == pytest.approx(unfinished.metrics.loc[12, name])


def test_where_all_checkpoints_are_damaged_the_run_is_left_as_it_is(unfinished, capsys):
    for path in (unfinished.path / "checkpoints").glob("*/SHA256SUMS"):
        path.unlink()
    before = sorted(unfinished.path.rglob("*"))
    assert cli._main(["train", "--resume", str(unfinished.path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("jaxcnn: error: no checkpoint is good: ") and said.count("\n") == 1
    assert sorted(unfinished.path.rglob("*")) == before


def test_a_loss_that_is_not_finite_ends_the_run(lenet, tmp_path):
    exploding = replace(
        lenet,
        optim=SGD(learning_rate=1e12),
        train=replace(lenet.train, log_every=1),
        checkpoint=CheckpointConfig(every=1, keep=9),
    )
    with pytest.raises(RunError, match=r"is not finite at step \d+: stopped; (the newest|there is no) good") as error:
        jaxcnn.run(exploding, tmp_path, progress=False)
    assert "\n" not in str(error.value)
    (path,) = tmp_path.glob("*/*")
    run = jaxcnn.load_run(path)
    assert run.result["status"] == "failed" and run.result["error"] in str(error.value)
    bad = int(str(error.value).split("at step ")[1].split(":")[0])
    assert 1 < bad < 12
    rows = read_metrics(path / "metrics.jsonl")
    assert all(row["step"] <= bad and np.isfinite(list(row.values())).all() for row in rows)
    assert [int(path.name) for path in sorted((path / "checkpoints").iterdir())] == list(range(1, bad))
    assert not (path / "predictions.npz").exists()


def test_a_stop_before_the_first_step_says_how_to_begin(lenet, tmp_path):
    with (
        StopFlag(),
        pytest.raises(Stopped, match="stopped after step 0; go on with: jaxcnn train --resume ") as stopped,
    ):
        signal.raise_signal(signal.SIGTERM)
        jaxcnn.run(lenet, tmp_path, progress=False)
    assert stopped.value.exit_code == 143
    path = str(stopped.value).split("--resume ")[1]
    assert jaxcnn.load_run(path).experiment == lenet


def test_a_full_disk_ends_the_run_which_goes_on_when_there_is_room(lenet, finished, tmp_path, capfd):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        many = replace(lenet, checkpoint=CheckpointConfig(every=1, keep=99))
        with pytest.raises(
            RunError, match=r"No space left on device.*: stopped; the newest good checkpoint is .*00000"
        ):
            jaxcnn.run(many, tmp_path, progress=False)
        assert capfd.readouterr().err == ""
        subprocess.run(["mount", "-o", "remount,size=99m", tmp_path], check=True)
        assert outcome(jaxcnn.run(many, tmp_path, progress=False)) == outcome(finished)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_no_run_there(tmp_path):
    with pytest.raises(UsageError, match=r"has no experiment\.json"):
        jaxcnn.load_run(tmp_path)
