"""The trainer: evaluation, exact statistics, fresh starts, stops and refusals; and made of ready objects."""

from dataclasses import replace
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn
from jaxcnn import AdamW, DataConfig, EvalConfig, Experiment, ModelConfig, Momentum, StepDecay, TrainConfig
from jaxcnn.data import load
from jaxcnn.errors import UsageError
from jaxcnn.models import MODELS
from jaxcnn.runs import Trainer
from jaxcnn.runs.folder import RunFolder
from jaxcnn.stop import Stopped
from jaxcnn.tasks import Classification


class Tiny(nn.Module):
    """Two convolutions with BatchNorm, Flax's own."""

    num_classes: int = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        for number in range(2):
            x = nn.Conv(4, (3, 3), padding=1, use_bias=False, name=f"conv{number}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"bn{number}")(x))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


EXPERIMENT = Experiment(
    name="trainer",
    model=ModelConfig(name="tiny"),
    data=DataConfig(source="digits", train_split="train[:100]", test_split="test[:297]"),
    optim=Momentum(learning_rate=0.05),
    train=TrainConfig(batch_size=24, steps=3),
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", replace(MODELS["resnet20"], factory=Tiny))


def make(experiment=EXPERIMENT, **train):
    return Trainer.from_experiment(replace(experiment, train=replace(experiment.train, **train)))


def test_a_trainer_starts_afresh_from_a_state_that_was_donated():
    found = make(devices=2)

    def one_step():
        return jax.tree.map(np.array, found.train_step(found.initial_state(), found.stream.at(0)))

    first, second = one_step(), one_step()
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_first_step_finds_the_program_compiled_before(devices):
    optim = AdamW(learning_rate=0.05)
    found = make(replace(EXPERIMENT, optim=optim), devices=devices, ema_decay=0.9)
    wait = found.parallel.compile_meanwhile(found.train_step, found.abstract_state(), found.stream.like(0))
    state, inputs = found.initial_state(), found.stream.at(0)
    wait()
    compiled = []

    def note(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    state, _ = found.train_step(state, inputs)
    assert not compiled
    found.evaluate(state=state)
    assert compiled, "nothing was noted where something was compiled"
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 500), (1, 100), (3, 64), (8, 11), (8, 296)])
def test_evaluation_counts_297_images_once(devices, batch_size):
    found = make(replace(EXPERIMENT, eval=EvalConfig(batch_size=batch_size)), devices=devices)
    metrics, collected, _ = found.evaluate(state=found.initial_state())
    logits, expected = collected["logits"], unbatched()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    right = (logits.argmax(-1) == found.data.test.arrays["label"]).sum()
    assert metrics["accuracy"] == right / 297
    assert 0 < right < 297


@cache
def unbatched():
    """Return the logits of one call, on one device."""
    found = make(devices=1)
    images = (found.data.test.arrays["image"] / np.float32(255) - found.data.norms.mean) / found.data.norms.std
    return np.asarray(jax.jit(found.model.apply)(found.initial_state().variables, images))


def test_exact_statistics_are_the_same_for_every_way_to_train():
    one = make(devices=1)
    state = one.initial_state()
    state, _ = one.train_step(state, one.stream.at(0))
    state = jax.tree.map(np.array, state)
    expected = one.recompute_batch_stats(one.parallel.place(state))
    images = (one.data.train.arrays["image"].astype(np.float64) / 255 - one.data.norms.mean) / one.data.norms.std
    kernel = np.asarray(state.params["conv0"]["kernel"], np.float64)
    first = np.asarray(
        jax.lax.conv_general_dilated(
            *map(jnp.float32, (images, kernel)), (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        np.float64,
    )
    assert len(first) == 100  # which 24 does not divide
    np.testing.assert_allclose(expected.batch_stats["bn0"]["mean"], first.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(expected.batch_stats["bn0"]["var"], first.var((0, 1, 2)), rtol=1e-4)
    for way in (
        {"devices": 4},
        {"devices": 4, "parallel": "pmap"},
        {"devices": 8, "parallel": "pmap", "sync_batch_norm": False},
        {"devices": 8, "sync_batch_norm": False},
    ):
        found = make(**way)
        exact = found.recompute_batch_stats(found.parallel.place(state))
        assert all(leaf.sharding == found.parallel.replicated for leaf in jax.tree.leaves(exact))
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), exact.batch_stats, expected.batch_stats
        )
        jax.tree.map(np.testing.assert_array_equal, exact.params, state.params)


def test_a_model_without_batch_norm_has_nothing_to_recompute():
    lenet = replace(EXPERIMENT, model=ModelConfig(name="lenet5"), data=replace(EXPERIMENT.data, image_size=28))
    found = make(lenet, devices=1)
    state = found.initial_state()
    assert found.recompute_batch_stats(state) is state


def test_the_averaged_parameters_are_those_evaluated():
    found = make(devices=1, ema_decay=0.5)
    state = found.initial_state()
    zero = state.replace(ema=jax.tree.map(jnp.zeros_like, state.ema))
    metrics, collected, _ = found.evaluate(state=zero)
    assert (metrics["accuracy"], np.abs(collected["logits"]).max()) == (0.0, 0.0)  # ties are mistakes
    exact = found.recompute_batch_stats(zero).batch_stats  # of the averaged parameters, too
    assert np.all(exact["bn0"]["var"] == 0)


def test_a_stop_is_seen_while_evaluating_and_recomputing():
    found = make(devices=1)
    state = found.initial_state()
    found.stop.signum = 15
    assert found.stop_requested(0) == 15
    with pytest.raises(Stopped):
        found.evaluate(state=state)
    with pytest.raises(Stopped):
        found.recompute_batch_stats(state)


def test_learning_rate_is_that_of_the_last_update():
    schedule = StepDecay(boundaries=(1, 2), factor=0.5)
    found = make(replace(EXPERIMENT, schedule=schedule), devices=1)
    state, rates = found.initial_state(), []
    for step in range(3):
        state, _ = found.train_step(state, found.stream.at(step))
        rates.append(found.learning_rate(state))
    np.testing.assert_allclose(rates, [0.05, 0.025, 0.0125], rtol=1e-6)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"batch_size": 30}, "batch size 30 does not divide over 8 devices: the nearest that does is 32"),
        ({"batch_size": 32, "devices": 9}, "train.devices is 9: expected 1 to 8, the devices found"),
        (
            {"batch_size": 48, "devices": 4, "accumulation_steps": 5},
            "train.accumulation_steps is 5: each of 4 devices has 12 examples of a batch, which do not divide into as "
            "many parts; the nearest number that does is 4",
        ),
        ({"accumulation_steps": 0}, "train.accumulation_steps is 0: expected a whole number, 1 or more"),
        ({"steps": None}, "train.steps and train.epochs are both None: give one of them"),
        ({"ema_decay": 1.0}, "train.ema_decay is 1.0: expected a finite number in (0, 1) or None"),
        ({"batch_size": 104}, "a batch of 104 does not fit the 100 training examples: expected 1 to 100"),
    ],
)
def test_refusals(train, message):
    with pytest.raises(UsageError) as error:
        make(**train)
    assert str(error.value) == message


def by_hand(**fields):
    """Return a trainer of ready objects, which is that of the experiment."""
    data = load(replace(EXPERIMENT.data, image_size=8))
    model = Tiny()
    tx = optax.sgd(0.05, momentum=0.9)
    train = TrainConfig(batch_size=24, steps=5, log_every=2, devices=1)
    return Trainer(model, tx, Classification(), data, train=train, eval=EvalConfig(every=2), **fields)


@pytest.fixture(scope="module")
def fitted():
    trainer = by_hand()
    return trainer, trainer.fit(progress=False)


def test_made_of_objects_or_of_an_experiment_it_trains_alike(fitted, tmp_path):
    trainer, metrics = fitted
    config = replace(EXPERIMENT, eval=EvalConfig(every=2), data=replace(EXPERIMENT.data, image_size=8))
    run = jaxcnn.run(
        config.override({"train.steps": 5, "train.log_every": 2, "train.devices": 1}), tmp_path, progress=False
    )
    assert metrics.keys() == {"test/loss", "test/accuracy", "test/top5_error"}
    assert {name: run.result["metrics"][name] for name in metrics} == metrics
    jax.tree.map(np.testing.assert_array_equal, run.state.params, trainer.state.params)
    rate = [{name: value for name, value in row.items() if name != "learning_rate"} for row in run.folder.rows]
    assert trainer.rows == rate  # of a transformation it is not known
    assert [row["step"] for row in trainer.rows] == [2, 2, 4, 4, 5, 5]


def test_fit_in_a_folder_goes_on_where_it_was_killed(fitted, tmp_path):
    trainer, metrics = fitted

    def killed(step, row, state):
        if (step, "test/loss" in row) == (4, True):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        by_hand(callbacks=[killed]).fit(tmp_path, progress=False)
    assert [row["step"] for row in RunFolder(tmp_path).rows] == [2, 2, 4]
    again = by_hand()
    assert again.fit(tmp_path, progress=False) == metrics
    assert again.rows == trainer.rows == RunFolder(tmp_path).rows
    jax.tree.map(np.testing.assert_array_equal, again.state, trainer.state)
    assert RunFolder(tmp_path).read("result")["status"] == "finished"
    for _ in range(2):  # once more, from its last checkpoint; and again
        assert again.fit(tmp_path, progress=False) == metrics
        assert again.rows == trainer.rows == RunFolder(tmp_path).rows


def test_without_a_state_there_is_nothing_to_evaluate():
    with pytest.raises(UsageError, match=r"there is no state to evaluate: call fit\(\) first, or give one"):
        by_hand().evaluate()


def test_scores_after_fit_are_those_that_it_returned(fitted):
    trainer, metrics = fitted
    scores = trainer.evaluate()
    assert {f"test/{name}": value for name, value in scores.metrics.items()} == metrics
    logits, labels = scores.collected["logits"], scores.collected["labels"]
    assert (logits.argmax(-1) == labels).mean() == metrics["test/accuracy"]
