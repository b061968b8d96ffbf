"""Schedules at fixed steps against formulas written out here, the plateau, and every refusal."""

import math
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train.optim import OptimConfig, make_optimizer
from jaxcnn.train.schedules import READS, ScheduleConfig, current_learning_rate, make_schedule


def values(steps, config, learning_rate=0.1, total_steps=100):
    schedule = make_schedule(config, learning_rate, total_steps)
    return [float(schedule(step)) for step in steps]


def test_names_agree_with_the_table():
    assert set(get_args(get_type_hints(ScheduleConfig)["name"])) == set(READS)


def test_he_et_al_cifar():
    config = ScheduleConfig(name="step", boundaries=(32_000, 48_000))
    got = values([0, 31_999, 32_000, 47_999, 48_000, 63_999], config, 0.1, 64_000)
    np.testing.assert_allclose(got, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ScheduleConfig(), {0: 0.1, 99: 0.1}),
        (
            ScheduleConfig(name="exponential", decay_rate=0.5, decay_steps=20),
            {0: 0.1, 20: 0.05, 30: 0.0353553},
        ),
        (
            ScheduleConfig(name="exponential", decay_rate=0.94, decay_steps=10, staircase=True),
            {9: 0.1, 10: 0.094, 25: 0.08836},
        ),
        (ScheduleConfig(name="exponential", decay_rate=0.01, end_value=0.02), {50: 0.02, 25: 0.0316228}),
        (ScheduleConfig(name="inverse_time", decay_rate=1.0, decay_steps=10), {0: 0.1, 10: 0.05, 90: 0.01}),
        (ScheduleConfig(name="polynomial", power=2.0), {0: 0.1, 50: 0.025, 100: 0.0}),
        (ScheduleConfig(name="polynomial", end_value=0.02), {50: 0.06, 100: 0.02}),
        (ScheduleConfig(name="cosine"), {0: 0.1, 25: 0.0853553, 50: 0.05, 100: 0.0}),
        (ScheduleConfig(name="cosine", end_value=0.02), {50: 0.06, 100: 0.02}),
        (ScheduleConfig(name="one_cycle"), {0: 0.004, 15: 0.052, 30: 0.1, 65: 0.0500002, 100: 4e-7}),
        (ScheduleConfig(name="plateau"), {0: 0.1, 99: 0.1}),
    ],
)
def test_fixed_values(config, expected):
    np.testing.assert_allclose(
        values(expected, config), list(expected.values()), rtol=1e-5, atol=1e-9, err_msg=str(config)
    )


@pytest.mark.parametrize("name", [name for name in READS if name != "one_cycle"])
def test_warmup_rises_linearly_and_hands_over_at_the_full_rate(name):
    config = ScheduleConfig(name=name, warmup_steps=10, warmup_start=0.02, boundaries=(40,) if name == "step" else ())
    np.testing.assert_allclose(values([0, 5, 10], config), [0.02, 0.06, 0.1], rtol=1e-6)


def test_warmup_leaves_boundaries_where_they_are_and_shortens_cosine():
    step = ScheduleConfig(name="step", boundaries=(40,), warmup_steps=10)
    np.testing.assert_allclose(values([39, 40], step), [0.1, 0.01], rtol=1e-6)
    cosine = ScheduleConfig(name="cosine", warmup_steps=20)
    expected = [0.05 * (1 + math.cos(math.pi * t / 80)) for t in (0, 30, 80)]
    np.testing.assert_allclose(values([20, 50, 100], cosine), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", READS)
def test_traced_steps_give_the_same_float32(name):
    schedule = make_schedule(ScheduleConfig(name=name, boundaries=(40,) if name == "step" else ()), 0.1, 100)
    steps = jnp.arange(100, dtype=jnp.int32)
    traced = jax.jit(jax.vmap(schedule))(steps)
    assert traced.dtype == jnp.float32
    np.testing.assert_allclose(traced, [schedule(int(step)) for step in steps], rtol=2e-5, atol=1e-8)
    assert np.all(np.asarray(traced) > 0)


def _plateau_rates(config, losses, total_steps=100):
    """Return the rate in force at each step, checked against what the update really did."""
    params = {"kernel": jnp.zeros(2)}
    tx = make_optimizer(OptimConfig(name="sgd"), config, total_steps, params)
    schedule = make_schedule(config, 0.1, total_steps)
    state, rates = tx.init(params), []
    update, rate = jax.jit(tx.update), jax.jit(lambda s, t: current_learning_rate(schedule, s, t))
    for step, loss in enumerate(losses):
        updates, state = update({"kernel": jnp.ones(2)}, state, params, value=jnp.float32(loss))
        rates.append(float(rate(state, jnp.int32(step))))
        np.testing.assert_allclose(updates["kernel"], -rates[-1], rtol=1e-6)
    return rates


def test_plateau_cuts_after_patience_and_stops_at_the_end_value():
    config = ScheduleConfig(name="plateau", factor=0.5, window=1, patience=2, end_value=0.03)
    # best 2; two bad readings cut; a better one resets; two bad ones cut, two more, down to the floor
    losses = [3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    expected = [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.03, 0.03, 0.03]
    np.testing.assert_allclose(_plateau_rates(config, losses), expected, rtol=1e-6)


def test_plateau_averages_windows_and_cools_down():
    averaged = ScheduleConfig(name="plateau", factor=0.5, window=2, patience=1)
    # readings 2, 2 (bad, although one loss in it was lower)
    np.testing.assert_allclose(_plateau_rates(averaged, [3.0, 1.0, 0.5, 3.5]), [0.1, 0.1, 0.1, 0.05], rtol=1e-6)
    cooling = ScheduleConfig(name="plateau", factor=0.5, window=1, patience=1, cooldown=2)
    got = _plateau_rates(cooling, [1.0] * 5)  # cut, two free readings, cut
    np.testing.assert_allclose(got, [0.1, 0.05, 0.05, 0.05, 0.025], rtol=1e-6)


def test_plateau_after_warmup():
    config = ScheduleConfig(name="plateau", factor=0.5, window=1, patience=3, warmup_steps=2)
    np.testing.assert_allclose(_plateau_rates(config, [1.0] * 4), [0.0, 0.05, 0.1, 0.05], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "cosin"}, "unknown schedule 'cosin': did you mean 'cosine'"),
        ({"warmup_steps": -1}, "schedule.warmup_steps is -1: expected a whole number, 0 or more"),
        ({"warmup_steps": 2.5}, "schedule.warmup_steps is 2.5: expected a whole number"),
        ({"warmup_steps": 100}, "schedule.warmup_steps is 100: expected fewer than the 100 in all"),
        ({"warmup_steps": 5, "warmup_start": 0.2}, "schedule.warmup_start is 0.2: expected at most"),
        ({"warmup_start": 0.01}, "schedule.warmup_start is 0.01, but 'constant' does not read it"),
        ({"name": "one_cycle", "warmup_steps": 5}, "schedule.warmup_steps is 5, but 'one_cycle'"),
        ({"name": "cosine", "factor": 0.2}, "'cosine' does not read it: it reads end_value"),
        ({"name": "cosine", "end_value": 0.2}, "schedule.end_value is 0.2: expected at most"),
        ({"name": "cosine", "end_value": math.inf}, "schedule.end_value is inf: expected a finite number"),
        ({"name": "step"}, "schedule.boundaries is empty"),
        ({"name": "step", "boundaries": (50, 30)}, "expected increasing steps .* but 30 comes after 50"),
        ({"name": "step", "boundaries": (30, 30)}, "expected increasing steps"),
        ({"name": "step", "boundaries": (100,)}, r"is \(100,\): expected steps below the 100"),
        ({"name": "step", "boundaries": (5,), "warmup_steps": 10}, r"after the warm-up \(10 steps\)"),
        ({"name": "step", "boundaries": (5.5,)}, "schedule.boundaries is 5.5: expected a whole number"),
        ({"name": "step", "boundaries": (5,), "factor": 1.0}, "schedule.factor is 1.0: expected a number"),
        ({"name": "step", "boundaries": (5,), "factor": "x"}, "schedule.factor is 'x': expected"),
        ({"name": "exponential", "decay_rate": 1.0}, "schedule.decay_rate is 1.0: expected a factor in"),
        ({"name": "exponential", "decay_rate": 1.5}, "schedule.decay_rate is 1.5: expected a factor in"),
        ({"name": "inverse_time", "decay_rate": -1.0}, "schedule.decay_rate is -1.0"),
        ({"name": "exponential", "decay_steps": 0}, "schedule.decay_steps is 0"),
        ({"name": "polynomial", "power": 0.0}, "schedule.power is 0.0: expected a finite number above 0"),
        ({"name": "one_cycle", "rise": 0.001}, "schedule.rise is 0.001: of 100 steps it leaves none"),
        ({"name": "one_cycle", "final_division": 0.5}, "schedule.final_division is 0.5"),
        ({"name": "plateau", "patience": 0}, "schedule.patience is 0: expected a whole number, 1 or more"),
        ({"name": "plateau", "window": 0}, "schedule.window is 0"),
        ({"name": "plateau", "tolerance": math.nan}, "schedule.tolerance is nan"),
    ],
)  # fmt: skip
def test_refusals(fields, message):
    with pytest.raises(UsageError, match=message):
        make_schedule(ScheduleConfig(**fields), 0.1, 100)


def test_refuses_rates_and_totals_out_of_range():
    with pytest.raises(UsageError, match="learning_rate is 0: expected a finite number above 0"):
        make_schedule(ScheduleConfig(), 0, 100)
    with pytest.raises(UsageError, match="total_steps is 0: expected a whole number, 1 or more"):
        make_schedule(ScheduleConfig(), 0.1, 0)
