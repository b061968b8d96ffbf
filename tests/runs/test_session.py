"""An experiment as a session: evaluation, exact statistics, fresh starts, stops and refusals."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxcnn.runs.session import Session

from jaxcnn import AdamW, DataConfig, EvalConfig, Experiment, ModelConfig, Momentum, TrainConfig
from jaxcnn.errors import UsageError
from jaxcnn.models import MODELS, resnet
from jaxcnn.stop import StopFlag, Stopped

EXPERIMENT = Experiment(
    name="session",
    model=ModelConfig(name="resnet_tiny", options={"stem": "cifar"}),
    data=DataConfig(source="digits", train_split="train[:100]", test_split="test[:297]"),
    optim=Momentum(learning_rate=0.05),
    train=TrainConfig(batch_size=24, steps=3),
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Put the smallest network with BatchNorm among the models."""
    monkeypatch.setitem(MODELS, "resnet_tiny", replace(MODELS["resnet20"], factory=resnet.resnet_tiny))


def session(experiment=EXPERIMENT, **train):
    return Session(replace(experiment, train=replace(experiment.train, **train)), StopFlag())


def test_a_session_starts_afresh_from_a_state_that_was_donated():
    found = session(devices=2)

    def one_step():
        state, _, loss = found.train_step(found.initial_state(), found.parallel.window({}), found.arguments(0))
        return np.asarray(loss).item(), jax.tree.map(np.array, state)

    first, second = one_step(), one_step()
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_first_step_finds_the_program_compiled_before(devices):
    optim = AdamW(learning_rate=0.05)
    found = session(replace(EXPERIMENT, optim=optim), devices=devices, ema_decay=0.9)
    wait = found.compile_meanwhile(0)
    state, window, arguments = found.initial_state(), found.parallel.window({}), found.arguments(0)
    wait()
    compiled = []

    def note(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    state, _, _ = found.train_step(state, window, arguments)
    assert not compiled
    found.evaluate(state.variables, found.dataset.test)
    assert compiled, "nothing was noted where something was compiled"
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 500), (1, 100), (3, 64), (8, 11), (8, 296)])
def test_evaluation_counts_297_images_once(devices, batch_size):
    found = session(replace(EXPERIMENT, eval=EvalConfig(batch_size=batch_size)), devices=devices)
    metrics, logits, *_ = found.evaluate(found.initial_state().variables, found.dataset.test)
    expected = unbatched()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    right = (logits.argmax(-1) == found.dataset.test.labels).sum()
    assert metrics["accuracy"] == right / 297
    assert 0 < right < 297


@cache
def unbatched():
    """Return the logits of one call, on one device."""
    found = session(devices=1)
    images = (found.dataset.test.images / np.float32(255) - found.mean) / found.std
    return np.asarray(jax.jit(found.model.apply)(found.initial_state().variables, images))


def test_exact_statistics_are_the_same_for_every_way_to_train():
    one = session(devices=1)
    state = one.initial_state()
    state, _, _ = one.train_step(state, one.parallel.window({}), one.arguments(0))
    state = jax.tree.map(np.array, state)
    expected = one.recompute_batch_stats(one.parallel.place(state))
    images = (one.dataset.train.images.astype(np.float64) / 255 - one.mean) / one.std
    kernel = np.asarray(state.params["stem"]["conv"]["kernel"], np.float64)
    first = np.asarray(
        jax.lax.conv_general_dilated(
            *map(jnp.float32, (images, kernel)), (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        np.float64,
    )
    assert len(first) == 100  # which 24 does not divide
    np.testing.assert_allclose(expected.batch_stats["stem"]["bn"]["mean"], first.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(expected.batch_stats["stem"]["bn"]["var"], first.var((0, 1, 2)), rtol=1e-4)
    for way in (
        {"devices": 4},
        {"devices": 4, "parallel": "pmap"},
        {"devices": 8, "parallel": "pmap", "sync_batch_norm": False},
    ):
        found = session(**way)
        exact = found.recompute_batch_stats(found.parallel.place(state))
        assert all(leaf.sharding == found.parallel.replicated for leaf in jax.tree.leaves(exact))
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), exact.batch_stats, expected.batch_stats
        )
        jax.tree.map(np.testing.assert_array_equal, exact.params, state.params)


def test_a_model_without_batch_norm_has_nothing_to_recompute():
    lenet = replace(EXPERIMENT, model=ModelConfig(name="lenet5"), data=replace(EXPERIMENT.data, image_size=28))
    found = session(lenet, devices=1)
    state = found.initial_state()
    assert found.recompute_batch_stats(state) is state


def test_the_averaged_parameters_are_those_evaluated():
    found = session(devices=1, ema_decay=0.5)
    state = found.initial_state()
    zero = state.replace(ema=jax.tree.map(jnp.zeros_like, state.ema))
    metrics, logits, *_ = found.evaluate(zero.variables, found.dataset.test)
    assert (metrics["accuracy"], np.abs(logits).max()) == (0.0, 0.0)  # ties are mistakes
    exact = found.recompute_batch_stats(zero).batch_stats  # of the averaged parameters, too
    assert np.all(exact["stem"]["bn"]["var"] == 0)


def test_a_stop_is_seen_while_evaluating_and_recomputing():
    found = session(devices=1)
    state = found.initial_state()
    found.stop.signum = 15
    assert found.stop_requested(0) == 15
    with pytest.raises(Stopped):
        found.evaluate(state.variables, found.dataset.test)
    with pytest.raises(Stopped):
        found.recompute_batch_stats(state)


def test_learning_rate_is_that_of_the_last_update():
    schedule = replace(EXPERIMENT.schedule, name="step", boundaries=(1, 2), factor=0.5)
    found = session(replace(EXPERIMENT, schedule=schedule), devices=1)
    state, window = found.initial_state(), found.parallel.window({})
    rates = []
    for step in range(3):
        state, window, _ = found.train_step(state, window, found.arguments(step))
        rates.append(found.learning_rate(state))
    np.testing.assert_allclose(rates, [0.05, 0.025, 0.0125], rtol=1e-6)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"batch_size": 30}, "batch size 30 does not divide over 8 devices: the nearest that does is 32"),
        ({"batch_size": 32, "devices": 9}, "train.devices is 9: expected 1 to 8, the devices found"),
        (
            {"batch_size": 48, "devices": 4, "accumulation_steps": 5},
            "train.accumulation_steps is 5: each of 4 devices has 12 images of a batch, which do not divide into as "
            "many parts; the nearest number that does is 4",
        ),
        ({"accumulation_steps": 0}, "train.accumulation_steps is 0: expected a number above 0"),
        ({"steps": None}, "train.steps and train.epochs are both None: give one of them"),
        ({"ema_decay": 1.0}, "train.ema_decay is 1.0: expected a value between 0 and 1, such as 0.999"),
        ({"batch_size": 104}, "a batch of 104 does not fit the 100 training examples: expected 1 to 100"),
        ({"label_smoothing": 1.5}, "train.label_smoothing is 1.5: expected a value in [0, 1), such as 0.1"),
    ],
)
def test_refusals(train, message):
    with pytest.raises(UsageError) as error:
        session(**train)
    assert str(error.value) == message
