"""Initialisers: the distributions they promise, the same bits in and out of jit, and recording."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcnn.layers import initialisers as init

KERNEL = (3, 3, 64, 128)
FAN_IN, FAN_OUT = 9 * 64, 9 * 128
KEY = jax.random.key(3)


@pytest.mark.parametrize(
    ("initialiser", "distribution"),
    [
        (init.Normal(0.01), stats.norm(0, 0.01)),
        (init.TruncatedNormal(0.1), stats.truncnorm(-2, 2, scale=0.1)),
        (init.Uniform(0.3), stats.uniform(-0.3, 0.6)),
        (init.UniformFanIn(2.4), stats.uniform(-2.4 / FAN_IN, 4.8 / FAN_IN)),
        (init.lecun_normal, stats.norm(0, math.sqrt(1 / FAN_IN))),
        (init.lecun_uniform, stats.uniform(-math.sqrt(3 / FAN_IN), 2 * math.sqrt(3 / FAN_IN))),
        (init.glorot_normal, stats.norm(0, math.sqrt(2 / (FAN_IN + FAN_OUT)))),
        (init.glorot_uniform, stats.uniform(-math.sqrt(6 / (FAN_IN + FAN_OUT)), 2 * math.sqrt(6 / (FAN_IN + FAN_OUT)))),
        (init.he_normal_fan_in, stats.norm(0, math.sqrt(2 / FAN_IN))),
        (init.he_normal_fan_out, stats.norm(0, math.sqrt(2 / FAN_OUT))),
    ],
)
def test_values_follow_the_distribution(initialiser, distribution):
    values = np.asarray(initialiser(KEY, KERNEL), np.float64).ravel()
    assert stats.kstest(values, distribution.cdf).pvalue > 1e-4
    assert values.std() == pytest.approx(distribution.std(), rel=0.02)


def test_truncated_variance_scaling_has_the_promised_variance():
    values = np.asarray(init.VarianceScaling(2.0, "fan_in", "truncated_normal")(KEY, KERNEL))
    assert values.var() == pytest.approx(2 / FAN_IN, rel=0.02)
    assert np.abs(values).max() <= 2 * math.sqrt(2 / FAN_IN) / 0.8796


@pytest.mark.parametrize("shape", [(5,), (3, 3, 7, 5), (70_000,), (3, 3, 128, 100)])
@pytest.mark.parametrize("initialiser", [init.Normal(0.5), init.Uniform(2.0), init.TruncatedNormal(1.0)])
def test_concrete_traced_and_mapped_keys_give_the_same_bits(initialiser, shape):
    concrete = np.asarray(initialiser(KEY, shape))
    assert concrete.shape == shape
    np.testing.assert_array_equal(concrete, jax.jit(lambda key: initialiser(key, shape))(KEY))
    keys = jax.random.split(KEY, 2)
    mapped = jax.vmap(lambda key: initialiser(key, shape))(keys)
    np.testing.assert_array_equal(mapped[1], initialiser(keys[1], shape))


def test_no_two_chunks_are_alike():
    values = np.asarray(init.Normal(1.0)(KEY, (200_000,)))
    assert len(np.unique(values)) > 0.98 * len(values)
    assert abs(np.corrcoef(values[: 1 << 16], values[1 << 16 : 2 << 16])[0, 1]) < 0.02


def test_dtype_and_constants():
    assert init.ones(None, (2, 3)).tolist() == [[1.0] * 3] * 2
    assert init.Constant(0.2)(None, (1,), jnp.bfloat16).dtype == jnp.bfloat16
    assert init.Normal(1.0)(KEY, (4,), jnp.bfloat16).dtype == jnp.bfloat16


def test_a_fan_needs_two_dimensions():
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        init.he_normal_fan_in(KEY, (3,))


def test_recording_notes_what_was_asked_for_and_draws_nothing():
    with init.recording() as record:
        placeholder = init.Normal(0.1)(KEY, (2, 2))
    assert not placeholder.any()
    assert record[id(placeholder)][0] == init.Normal(0.1)
    assert init.Normal(0.1)(KEY, (2, 2)).any()
