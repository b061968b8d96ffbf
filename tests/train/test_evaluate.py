"""Every example counts once, against a plain numpy count, for every batch size and number of devices."""

from dataclasses import dataclass
from functools import cache, partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.data import Split, eval_batches
from jaxcnn.data.bad import Bad
from jaxcnn.errors import RunError
from jaxcnn.stop import Stopped
from jaxcnn.tasks import Classification
from jaxcnn.train.evaluate import evaluate
from jaxcnn.train.parallel import Parallel
from jaxcnn.train.step import make_eval_step

N, CLASSES = 297, 7
TASK = Classification()
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (N, 2, 2, 1)).astype(np.uint8), RNG.integers(0, CLASSES, N).astype(np.int32)
SPLIT = Split({"image": IMAGES, "label": LABELS})
WEIGHTS = RNG.normal(size=(4, CLASSES)).astype(np.float32)
VARIABLES = {"params": {"head": {"kernel": WEIGHTS}}}


class Linear(nn.Module):
    """Logits linear in the pixels."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES, use_bias=False, name="head")(x)


def made(batch):
    """Return a batch as the model is given it, whose padding is NaN."""
    pixels = batch["image"].reshape(len(batch["image"]), -1).astype(jnp.float32) / 255
    return batch | {"image": jnp.where(batch["mask"][:, None], pixels, jnp.nan)}


@cache
def parallel_over(devices):
    """Return the devices and a compiled evaluation of a linear model."""
    parallel = Parallel(devices, devices=devices)
    return parallel, partial(parallel.compile_eval(make_eval_step(Linear(), TASK), made), VARIABLES)


def run(devices, batch_size, poll=lambda number: None):
    parallel, step = parallel_over(devices)
    batches = eval_batches(SPLIT, parallel.round_up(batch_size))
    return evaluate(step, batches, TASK, SPLIT, poll)


def counted():
    """Return accuracy, top-5 error and loss by numpy in float64."""
    logits = IMAGES.reshape(N, -1) / 255 @ WEIGHTS.astype(np.float64)
    order = np.argsort(-logits, axis=-1)
    right, top5 = order[:, 0] == LABELS, (order[:, :5] == LABELS[:, None]).any(-1)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(N), LABELS]
    return right.sum(), top5.sum(), losses.mean(), logits


@settings(deadline=None, max_examples=20)
@given(devices=st.sampled_from([1, 2, 3, 8]), batch_size=st.integers(1, 320))
def test_every_example_counts_once(devices, batch_size):
    right, top5, loss, expected = counted()
    metrics, collected, usable = run(devices, batch_size)
    logits = collected["logits"]
    np.testing.assert_array_equal(collected["labels"], LABELS)
    assert usable.all()
    assert metrics["accuracy"] == right / N
    assert metrics["top5_error"] == 1 - top5 / N
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@given(devices=st.sampled_from([1, 2, 3, 8]), batch_size=st.integers(1, 1000))
def test_round_up(devices, batch_size):
    rounded = Parallel(devices, devices=devices).round_up(batch_size)
    assert rounded % devices == 0
    assert batch_size <= rounded < batch_size + devices


def test_a_lost_or_repeated_example_is_noticed():
    _, step = parallel_over(1)
    batches = list(eval_batches(SPLIT, 50))
    for wrong in (batches[:-1], [*batches, batches[-1]]):
        with pytest.raises(AssertionError, match=f"of {N} examples"):
            evaluate(step, iter(wrong), TASK, SPLIT, lambda number: None)


def test_a_stop_is_polled_before_each_batch():
    seen = []

    def poll(number):
        seen.append(number)
        if number == 2:
            raise Stopped(15)

    with pytest.raises(Stopped):
        run(1, 50, poll)
    assert seen == [0, 1, 2]


@dataclass(frozen=True, kw_only=True)
class Large(Classification):
    """Sums that 32 bits do not hold after a few batches, whole and real ones, of several shapes."""

    def sums(self, outputs, batch):
        return {"whole": jnp.full((2, 2), 2**31 - 1, jnp.int32), "real": jnp.float32(2**24 + 2)}

    def metrics(self, sums):
        return {"whole": sums["whole"].sum(), "real": sums["real"]}


def test_sums_add_up_exactly_whatever_their_size():
    parallel, _ = parallel_over(1)
    step = partial(parallel.compile_eval(make_eval_step(Linear(), Large()), made), VARIABLES)
    metrics = evaluate(step, eval_batches(SPLIT, 3), Large(), SPLIT, lambda number: None).metrics
    assert metrics["whole"] == 99 * 4 * (2**31 - 1)
    assert metrics["real"] == 99 * (2**24 + 2)


@dataclass(frozen=True, kw_only=True)
class Ranked(Classification):
    """With a metric that is no function of sums."""

    def metrics(self, sums):
        return {}

    def collect(self, outputs, batch):
        return {"score": outputs[:, 0], "pair": {"label": batch["label"]}}

    def score(self, collected):
        order = np.argsort(-collected["score"], kind="stable")
        return {"first": float(collected["pair"]["label"][order[0]])}


@pytest.mark.parametrize("batch_size", [1, 50, 297])
def test_what_is_collected_is_of_every_usable_example_in_order_and_scored_whole(batch_size):
    bad = {4: Bad("x", "torn"), 296: Bad("y", "torn")}
    split = Split(SPLIT.arrays, bad)
    parallel, _ = parallel_over(1)
    step = partial(parallel.compile_eval(make_eval_step(Linear(), Ranked()), made), VARIABLES)
    metrics, collected, usable = evaluate(step, eval_batches(split, batch_size), Ranked(), split, lambda number: None)
    assert np.flatnonzero(~usable).tolist() == [4, 296]
    *_, logits = counted()
    np.testing.assert_allclose(collected["score"], logits[usable, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(collected["pair"]["label"], LABELS[usable])
    assert metrics["first"] == LABELS[usable][logits[usable, 0].argmax()]
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(N), LABELS]
    np.testing.assert_allclose(metrics["loss"], losses[usable].mean(), rtol=1e-6)  # where the task gives none


def test_where_nothing_can_be_used_it_is_said():
    split = Split(SPLIT[:2].arrays, {0: Bad("x", "torn"), 1: Bad("y", "torn")})
    _, step = parallel_over(1)
    with pytest.raises(RunError, match="none of the 2 examples to score can be used, such as x"):
        evaluate(step, eval_batches(split, 2), TASK, split, lambda number: None)
