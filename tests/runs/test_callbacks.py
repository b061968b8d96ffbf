"""A user's functions while a run trains: they look, add metrics, stop it; interrupted or not, to the same end."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from jaxcnn import CheckpointConfig, Classification, EarlyStopping, EvalConfig, Part, Stop, TrainConfig
from jaxcnn.data import DataConfig, load
from jaxcnn.errors import UsageError
from jaxcnn.parts import Finder, made
from jaxcnn.runs import Trainer
from jaxcnn.runs.folder import RunFolder
from jaxcnn.runs.record import Record
from jaxcnn.train.callbacks import of_run


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    split = {"image": rng.integers(0, 256, (24, 4, 4, 1)).astype(np.uint8), "label": rng.integers(0, 3, 24)}
    return load(DataConfig(), source={"train": split, "test": split})


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(Record, "_draw", lambda *arguments: None)


@pytest.fixture
def make(data):
    def make(*callbacks, train=(), tx=None, finder=None, **fields):
        given = {"batch_size": 8, "steps": 6, "log_every": 2, "devices": 1, "callbacks": train} | fields
        others = {"eval": EvalConfig(every=3), "checkpoint": CheckpointConfig(every=1, tensorboard=False)}
        tx = tx or optax.sgd(0.1)
        train = TrainConfig(**given)
        return Trainer(Tiny(), tx, Classification(), data, train=train, callbacks=callbacks, finder=finder, **others)

    return make


def test_they_see_every_row_and_add_to_it_in_turn(make):
    seen = []

    def largest(step, metrics, state):
        assert int(state.step) == step
        seen.append((step, dict(metrics)))
        return {"largest": np.abs(state.params["Dense_0"]["kernel"]).max()}

    def after(step, metrics, state):
        return {"after": 1 + metrics["largest"]} if "test/loss" in metrics else None

    trainer = make(largest, after)
    trainer.fit(progress=False)
    first = [(step, next(iter(metrics))) for step, metrics in seen]
    assert first == [(2, "train/loss"), (3, "test/loss"), (4, "train/loss"), (6, "train/loss"), (6, "test/loss")]
    for (step, metrics), row in zip(seen, trainer.rows, strict=True):
        assert row["step"] == step and metrics.items() <= row.items() and type(row["largest"]) is float
        assert ("after" in row) == ("test/loss" in row) and row.get("after", 0) in (0, 1 + row["largest"])


def test_a_stop_ends_the_run_and_is_on_record(make, tmp_path):
    def enough(step, metrics, state):
        return Stop("it is enough", {"extra": 7}) if step == 4 else None

    trainer = make(enough)
    metrics = trainer.fit(tmp_path, progress=False)
    folder = RunFolder(tmp_path)
    result = folder.read("result")
    assert (result["status"], result["step"], result["ended"]) == ("finished", 4, "it is enough")
    assert trainer.rows == folder.rows and [row["step"] for row in trainer.rows] == [2, 3, 4, 4]
    assert trainer.rows[-2]["extra"] == trainer.rows[-1]["extra"] == 7.0 and int(trainer.state.step) == 4
    assert {name: trainer.rows[-1][name] for name in metrics} == metrics
    again = make(lambda *row: pytest.fail("it was taken up again"))
    assert again.fit(tmp_path, progress=False) == metrics and folder.rows == trainer.rows


def test_a_stop_at_an_evaluation_ends_it_too(make):
    trainer = make(lambda step, metrics, state: Stop("") if "test/loss" in metrics else None)
    trainer.fit(progress=False)
    assert int(trainer.state.step) == 3


def test_early_stopping_ends_as_if_it_had_not_been_interrupted(make, tmp_path):
    rising = {"tx": optax.scale(0.5), "steps": 20, "log_every": 1}  # uphill
    stopping = EarlyStopping(metric="train/loss", patience=4)
    whole = make(train=(stopping,), **rising)
    metrics = whole.fit(progress=False)
    loss = [row["train/loss"] for row in whole.rows if "train/loss" in row]
    best = int(np.argmin(loss))
    assert len(loss) == best + 1 + 5 < 20  # the fifth row in turn is one too many

    def killed(step, row, state):
        if step == len(loss) - 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(killed, train=(stopping,), **rising).fit(tmp_path, progress=False)
    again = make(train=(stopping,), **rising)
    assert again.fit(tmp_path, progress=False) == metrics and again.rows == whole.rows == RunFolder(tmp_path).rows
    jax.tree.map(np.testing.assert_array_equal, again.state, whole.state)
    assert RunFolder(tmp_path).read("result")["ended"] == "train/loss has not improved for 5 rows"


@pytest.mark.parametrize(
    ("options", "values", "stops_at"),
    [
        ({"patience": 0}, [3, 2, 2], 2),
        ({"patience": 1}, [3, 2, 2, 1, 1, 1], 5),
        ({"patience": 1, "least_change": 0.5}, [3, 2.8, 2.7], 2),
        ({"patience": 0, "least_change": 0.5}, [3, 2.4, 1.8], None),
        ({"patience": 0, "direction": "max"}, [1, 2, 3, 2], 3),
        ({"patience": 0}, [float("nan"), 1, 0], 0),
    ],
)
def test_patience(options, values, stops_at):
    stopping = EarlyStopping(metric="val/loss", **options)
    function, other = of_run(stopping), of_run(stopping)
    assert function({}, {"train/loss": 9.0}, None) is None  # another row
    found = [function(step, {"val/loss": value}, None) for step, value in enumerate(values)]
    assert next((step for step, answer in enumerate(found) if answer is not None), None) == stops_at
    assert other(0, {"val/loss": 100.0}, None) is None  # a run of its own


@dataclass(frozen=True)
class Counting:
    """One value for several runs."""

    start_at: int = 0

    def start(self):
        count = [self.start_at]

        def function(step, metrics, state):
            count[0] += 1
            return {"rows": count[0]}

        return function


def test_one_value_serves_several_runs(make):
    counting = Counting(10)
    for _ in range(2):
        trainer = make(counting)
        trainer.fit(progress=False)
        assert trainer.callbacks == [counting] and [row["rows"] for row in trainer.rows] == [11, 12, 13, 14, 15]


MINE = """
def plain(step, metrics, state):
    return {"plain": step}

class Scaled:
    def __init__(self, by=2):
        self.by = by

    def __call__(self, step, metrics, state):
        return {"scaled": self.by * step}

number = 3
"""


def test_those_that_an_experiment_names_are_found_beside_it(make, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    finder = Finder((tmp_path,))
    named = (Part(name="mine.py:plain"), Part(name="mine.py:Scaled", options={"by": 3}), EarlyStopping())
    trainer = make(lambda *row: {"own": 1}, train=named, finder=finder)
    assert trainer.callbacks[2] is named[2] and len(trainer.callbacks) == 4
    trainer.fit(progress=False)
    for row in trainer.rows:
        assert (row["plain"], row["scaled"], row["own"]) == (row["step"], 3 * row["step"], 1)
    with pytest.raises(UsageError, match=r"unknown name in mine\.py 'plane': did you mean 'plain'"):
        made(Part(name="mine.py:plane"), finder)
    with pytest.raises(UsageError, match=r"unknown option of mine\.py:plain 'by'"):
        made(Part(name="mine.py:plain", options={"by": 3}), finder)
    with pytest.raises(UsageError, match=r"unknown option of mine\.py:Scaled 'bye': did you mean 'by'"):
        made(Part(name="mine.py:Scaled", options={"bye": 3}), finder)
    with pytest.raises(UsageError, match=r"callback 3 cannot be called: expected a function of \(step, metrics, state"):
        of_run(made(Part(name="mine.py:number"), finder))


@pytest.mark.parametrize(("answer", "told"), [(3, "int"), ([("a", 1)], "list")])
def test_what_is_no_answer_is_named(make, answer, told):
    def wrong(step, metrics, state):
        return answer

    with pytest.raises(UsageError, match=f"callback wrong returned a {told}: expected None, metrics by name, or Stop"):
        make(wrong).fit(progress=False)
