"""A finished run goes on to more steps, as a new run that starts where it ended, or says why it cannot."""

import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxcnn
from jaxcnn import (
    CheckpointConfig,
    CosineDecay,
    DataConfig,
    EvalConfig,
    Experiment,
    ModelConfig,
    Momentum,
    Plateau,
    TrainConfig,
    cli,
)
from jaxcnn.errors import UsageError
from jaxcnn.experiment import fingerprint
from jaxcnn.runs import resume
from jaxcnn.runs.record import Record
from jaxcnn.stop import Stopped

# A schedule and an average that remember.
EXPERIMENT = Experiment(
    name="longer",
    model=ModelConfig(name="lenet5"),
    data=DataConfig(source="digits", image_size=28, train_split="train[:40]", test_split="test[:20]"),
    optim=Momentum(learning_rate=0.01),
    schedule=Plateau(window=1, patience=1),
    train=TrainConfig(batch_size=8, epochs=0.8, log_every=2, devices=1, ema_decay=0.5),
    eval=EvalConfig(every=2, batch_size=20),
    checkpoint=CheckpointConfig(tensorboard=False),
)
LONGER = EXPERIMENT.override({"train.epochs": 1.6})


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "_draw", lambda *arguments: None)  # they take longer than all else
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return jaxcnn.run(EXPERIMENT, tmp_path_factory.mktemp("runs"), progress=False)


def test_it_is_the_longer_run_to_the_last_bit(finished, tmp_path, capsys, monkeypatch):
    whole = jaxcnn.run(LONGER, tmp_path, progress=False)
    before = {path: path.read_bytes() for path in finished.path.rglob("*") if path.is_file()}
    save = Record.save

    def stop(self, state, position):
        save(self, state, position)
        self.trainer.stop.signum = 15

    monkeypatch.setattr(Record, "save", stop)
    with pytest.raises(Stopped, match="stopped after step 7; go on with: jaxcnn train --resume "):
        resume(finished.path, LONGER)
    monkeypatch.setattr(Record, "save", save)
    path = finished.path.parent / fingerprint(LONGER)
    assert f"jaxcnn: {path} continues {finished.path} from step 4 to 8\n" in capsys.readouterr().err
    found = resume(path, progress=False)
    assert (found.path, found.result["status"], found.result["step"]) == (path, "finished", 8)
    assert found.result["continued"] == {"run": str(finished.path), "step": 4}
    jax.tree.map(np.testing.assert_array_equal, found.state, whole.state)
    # The rows of before are those of the shorter run, with its end.
    assert found.folder.rows[: len(finished.folder.rows)] == finished.folder.rows
    assert [row for row in found.folder.rows if row["step"] > 4] == [r for r in whole.folder.rows if r["step"] > 4]
    assert found.folder.read("experiment")["train"]["epochs"] == 1.6
    assert {path: path.read_bytes() for path in before} == before
    again = jaxcnn.run(LONGER, finished.path.parents[1], progress=False)
    assert (again.path, again.result) == (path, found.result)


def test_the_command_line_continues_too(finished, capsys):
    assert cli._main(["train", "--resume", str(finished.path), "--train.steps", "5", "--quiet"]) == 0
    (path,) = [Path(word) for word in capsys.readouterr().out.split() if word.startswith(str(finished.path.parent))]
    assert jaxcnn.load_run(path).result["step"] == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train.epochs": 0.4}, "which has 4 steps, to 2: expected more"),
        ({"train.epochs": 1.6, "optim.learning_rate": 0.5}, r"optim\.learning_rate is 0\.5, the run has 0\.01"),
    ],
)
def test_what_cannot_be_continued_is_told(finished, fields, message):
    there = set(finished.path.parent.iterdir())
    with pytest.raises(UsageError, match=message):
        resume(finished.path, EXPERIMENT.override(fields))
    assert set(finished.path.parent.iterdir()) == there


def test_a_run_whose_end_was_made_for_its_length_cannot_be_continued(tmp_path):
    cosine = replace(EXPERIMENT, schedule=CosineDecay(), train=replace(EXPERIMENT.train, epochs=0.2))
    exact = EXPERIMENT.override({"train.recompute_batch_stats": True, "train.epochs": 0.2})
    for experiment, why in (
        (cosine, "schedule CosineDecay shares out all steps, so more of them change those that were made; Constant, "),
        (exact, "train.recompute_batch_stats changed its end"),
    ):
        run = jaxcnn.run(experiment, tmp_path, progress=False)
        with pytest.raises(UsageError, match=f"cannot continue {run.path}: {why}"):
            resume(run.path, experiment.override({"train.epochs": 1.6}), progress=False)


def test_what_a_callback_ended_is_not_continued(tmp_path):
    (tmp_path / "mine.py").write_text("from jaxcnn import Stop\n\ndef stop(*row):\n    return Stop('enough')\n")
    train = {"train.callbacks": ["mine.py:stop"], "train.epochs": 0.8}
    ended = replace(EXPERIMENT.override(train), code=tmp_path)
    run = jaxcnn.run(ended, tmp_path / "runs", progress=False)
    assert run.result["ended"] == "enough"
    with pytest.raises(UsageError, match=r"cannot continue .*: a callback ended it"):
        resume(run.path, ended.override({"train.epochs": 1.6}))


def test_one_that_is_not_finished_is_resumed_as_it_is(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished.path, copy)
    (copy / "result.json").unlink()
    with pytest.raises(UsageError, match=r"train\.epochs is 1\.6, the run has 0\.8"):
        resume(copy, LONGER)
