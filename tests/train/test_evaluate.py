"""Every example counts once, against a plain numpy count, for every batch size and number of devices."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.data import Split
from jaxcnn.data.dataset import eval_batches
from jaxcnn.stop import Stopped
from jaxcnn.tasks import Classification
from jaxcnn.train.evaluate import evaluate
from jaxcnn.train.parallel import Jit

N, CLASSES = 297, 7
TASK = Classification()
RNG = np.random.default_rng(0)
SPLIT = Split(RNG.integers(0, 256, (N, 2, 2, 1)).astype(np.uint8), RNG.integers(0, CLASSES, N).astype(np.int32))
WEIGHTS = RNG.normal(size=(4, CLASSES)).astype(np.float32)


@cache
def parallel_over(devices):
    """Return the devices and a compiled evaluation of a linear model, whose padding is NaN."""
    parallel = Jit(jax.devices()[:devices])

    def make_batch(image, label, mask):
        pixels = image.reshape(len(image), -1).astype(jnp.float32) / 255
        return {"image": jnp.where(mask[:, None], pixels, jnp.nan), "label": label, "mask": mask}

    def step(weights, batch):
        logits = batch["image"] @ weights
        return TASK.sums(logits, batch), logits

    compiled = parallel.compile_eval(step, make_batch)
    return parallel, lambda weights, batch: compiled(weights, (batch["image"], batch["label"], batch["mask"]))


def run(devices, batch_size, poll=lambda number: None):
    parallel, step = parallel_over(devices)
    batches = eval_batches(SPLIT, parallel.round_up(batch_size))
    return evaluate(step, WEIGHTS, batches, TASK, SPLIT, poll)


def counted():
    """Return accuracy, top-5 error and loss by numpy in float64."""
    logits = SPLIT.images.reshape(N, -1) / 255 @ WEIGHTS.astype(np.float64)
    order = np.argsort(-logits, axis=-1)
    right, top5 = order[:, 0] == SPLIT.labels, (order[:, :5] == SPLIT.labels[:, None]).any(-1)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(N), SPLIT.labels]
    return right.sum(), top5.sum(), losses.mean(), logits


@settings(deadline=None, max_examples=20)
@given(devices=st.sampled_from([1, 2, 3, 8]), batch_size=st.integers(1, 320))
def test_every_example_counts_once(devices, batch_size):
    right, top5, loss, expected = counted()
    metrics, logits, labels, usable = run(devices, batch_size)
    np.testing.assert_array_equal(labels, SPLIT.labels)
    assert usable.all()
    assert metrics["accuracy"] == right / N
    assert metrics["top5_error"] == 1 - top5 / N
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@given(devices=st.sampled_from([1, 2, 3, 8]), batch_size=st.integers(1, 1000))
def test_round_up(devices, batch_size):
    rounded = Jit(jax.devices()[:devices]).round_up(batch_size)
    assert rounded % devices == 0
    assert batch_size <= rounded < batch_size + devices


def test_a_lost_or_repeated_example_is_noticed():
    _, step = parallel_over(1)
    batches = list(eval_batches(SPLIT, 50))
    for wrong in (batches[:-1], [*batches, batches[-1]]):
        with pytest.raises(AssertionError, match=f"of {N} examples"):
            evaluate(step, WEIGHTS, iter(wrong), TASK, SPLIT, lambda number: None)


def test_a_stop_is_polled_before_each_batch():
    seen = []

    def poll(number):
        seen.append(number)
        if number == 2:
            raise Stopped(15)

    with pytest.raises(Stopped):
        run(1, 50, poll)
    assert seen == [0, 1, 2]
