"""BatchNorm's statistics over all training images, against numpy in float64."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import SHAPE, Toy, assert_close, assert_same_bits, images

from jaxcnn.data import Split
from jaxcnn.stop import Stopped
from jaxcnn.tasks import Classification
from jaxcnn.train.batch_stats import exact_batch_stats, make_moments_step, whole_batches

N, SIZE = 26, 8
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (N, *SHAPE)).astype(np.uint8)
SPLIT = Split({"image": IMAGES, "label": np.arange(N, dtype=np.int32)})
MODEL = Toy(norm=True, dropout=0.5)


def normalised(image):
    return (image / 255 - 0.4) / 0.2


def variables():
    start = MODEL.init(jax.random.key(0), images(1))
    moved = {"bn_a": (0.5, 2.0), "bn_b": (-3.0, 0.1)}  # what training left behind, which must not matter
    stats = {
        name: {"mean": np.full(4, m, np.float32), "var": np.full(4, v, np.float32)} for name, (m, v) in moved.items()
    }
    params = jax.tree.map(lambda x: x + RNG.normal(scale=0.1, size=x.shape).astype(np.float32), start["params"])
    return {"params": params, "batch_stats": stats}


VARIABLES = variables()


def exact(variables, batch_size=SIZE, poll=lambda number: None):
    moments = jax.jit(make_moments_step(MODEL, Classification()))

    def step(batch):
        return moments(variables, {**batch, "image": normalised(batch["image"]).astype(np.float32)})

    return exact_batch_stats(step, whole_batches(SPLIT, batch_size), poll)


def convolve(x, layer):
    """Return the 3x3 convolution with a border of zeros, as a plain sum over the window."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    taps = [
        padded[:, i : i + height, j : j + width] @ np.asarray(layer["kernel"], np.float64)[i, j]
        for i in range(3)
        for j in range(3)
    ]
    return sum(taps) + np.asarray(layer["bias"], np.float64)


def by_hand(params):
    """Return the statistics of what each BatchNorm is given, in float64; each batch is normalised by itself."""
    given_to = {"bn_a": [], "bn_b": []}
    for start in range(0, N, SIZE):
        places = np.arange(start, start + SIZE)
        x = normalised(IMAGES[places % N].astype(np.float64))
        for name in ("a", "b"):
            x = convolve(x, params[f"conv_{name}"])
            given_to[f"bn_{name}"].append(x[places < N])
            layer = params[f"bn_{name}"]
            x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
            x = np.tanh(x * np.asarray(layer["scale"], np.float64) + np.asarray(layer["bias"], np.float64))
    whole = {name: np.concatenate(parts) for name, parts in given_to.items()}
    return {name: {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))} for name, x in whole.items()}


def test_exact_over_every_image_once():
    found = exact(VARIABLES)
    assert jax.tree.structure(found) == jax.tree.structure(VARIABLES["batch_stats"])
    assert_close(found, by_hand(VARIABLES["params"]), rtol=2e-6, atol=2e-6)


def test_idempotent():
    once = exact(VARIABLES)
    assert_close(exact({**VARIABLES, "batch_stats": once}), once, rtol=1e-6, atol=1e-6)
    assert_same_bits(exact(VARIABLES), once)


@pytest.mark.parametrize("batch_size", [1, 13, 26])
def test_the_first_layer_s_do_not_depend_on_the_batch_size(batch_size):
    assert_close(exact(VARIABLES, batch_size)["bn_a"], by_hand(VARIABLES["params"])["bn_a"], rtol=2e-6, atol=2e-6)


@settings(deadline=None, max_examples=30)
@given(batch_size=st.integers(1, N))
def test_whole_batches_mark_every_example_once(batch_size):
    batches = list(whole_batches(SPLIT, batch_size))
    assert {len(batch["label"]) for batch in batches} == {batch_size}
    np.testing.assert_array_equal(np.concatenate([b["label"][b["mask"]] for b in batches]), np.arange(N))
    np.testing.assert_array_equal(np.concatenate([b["image"][b["mask"]] for b in batches]), IMAGES)


def test_a_stop_is_polled():
    def poll(number):
        if number == 1:
            raise Stopped(15)

    with pytest.raises(Stopped):
        exact(VARIABLES, poll=poll)
