"""Schedules at fixed steps against formulas written out here, the plateau, a user's own, and every refusal."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    SGD,
    Constant,
    CosineDecay,
    ExponentialDecay,
    InverseTimeDecay,
    OneCycle,
    Plateau,
    PolynomialDecay,
    StepDecay,
)
from jaxcnn.errors import UsageError
from jaxcnn.parts import Finder
from jaxcnn.train.optim import make_optimizer
from jaxcnn.train.schedules import AnySchedule, Schedule, current_learning_rate, find_schedule, make_schedule
from jaxcnn.typed import check, to_json, variants

# One of each, with what has no default.
EACH = [StepDecay(boundaries=(40,)) if kind is StepDecay else kind() for kind in variants(AnySchedule).values()]


def values(steps, config, learning_rate=0.1, total_steps=100):
    schedule = make_schedule(config, learning_rate, total_steps)
    return [float(schedule(step)) for step in steps]


def test_he_et_al_cifar():
    config = StepDecay(boundaries=(32_000, 48_000))
    got = values([0, 31_999, 32_000, 47_999, 48_000, 63_999], config, 0.1, 64_000)
    np.testing.assert_allclose(got, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Constant(), {0: 0.1, 99: 0.1}),
        (
            ExponentialDecay(decay_rate=0.5, decay_steps=20),
            {0: 0.1, 20: 0.05, 30: 0.0353553},
        ),
        (
            ExponentialDecay(decay_rate=0.94, decay_steps=10, staircase=True),
            {9: 0.1, 10: 0.094, 25: 0.08836},
        ),
        (ExponentialDecay(decay_rate=0.01, end_value=0.02), {50: 0.02, 25: 0.0316228}),
        (InverseTimeDecay(decay_rate=1.0, decay_steps=10), {0: 0.1, 10: 0.05, 90: 0.01}),
        (PolynomialDecay(power=2.0), {0: 0.1, 50: 0.025, 100: 0.0}),
        (PolynomialDecay(end_value=0.02), {50: 0.06, 100: 0.02}),
        (CosineDecay(), {0: 0.1, 25: 0.0853553, 50: 0.05, 100: 0.0}),
        (CosineDecay(end_value=0.02), {50: 0.06, 100: 0.02}),
        (OneCycle(), {0: 0.004, 15: 0.052, 30: 0.1, 65: 0.0500002, 100: 4e-7}),
        (Plateau(), {0: 0.1, 99: 0.1}),
    ],
)
def test_fixed_values(config, expected):
    np.testing.assert_allclose(
        values(expected, config), list(expected.values()), rtol=1e-5, atol=1e-9, err_msg=str(config)
    )


def kind_of(schedule):
    return schedule.kind


@pytest.mark.parametrize("each", [each for each in EACH if not isinstance(each, OneCycle)], ids=kind_of)
def test_warmup_rises_linearly_and_hands_over_at_the_full_rate(each):
    config = replace(each, warmup_steps=10, warmup_start=0.02)
    np.testing.assert_allclose(values([0, 5, 10], config), [0.02, 0.06, 0.1], rtol=1e-6)


def test_warmup_leaves_boundaries_where_they_are_and_shortens_cosine():
    step = StepDecay(boundaries=(40,), warmup_steps=10)
    np.testing.assert_allclose(values([39, 40], step), [0.1, 0.01], rtol=1e-6)
    cosine = CosineDecay(warmup_steps=20)
    expected = [0.05 * (1 + math.cos(math.pi * t / 80)) for t in (0, 30, 80)]
    np.testing.assert_allclose(values([20, 50, 100], cosine), expected, rtol=1e-5, atol=1e-9)


# And with a warm-up, where there may be one.
WARMED = [*EACH, *(replace(each, warmup_steps=10) for each in EACH if not isinstance(each, OneCycle))]


@pytest.mark.parametrize("each", WARMED, ids=repr)
def test_a_step_may_be_any_whole_number(each):
    """Python's, NumPy's, JAX's or traced; a Python int once was divided by, as 1 + 0.1 * (step - 10) / 1 may be 0."""
    steps = np.arange(100)
    for decay_rate in (None, 1.0, 10.0) if isinstance(each, InverseTimeDecay) else (None,):
        config = each if decay_rate is None else replace(each, decay_rate=decay_rate, decay_steps=1)
        schedule = make_schedule(config, 0.1, 100)
        traced = np.asarray(jax.jit(jax.vmap(schedule))(jnp.asarray(steps, jnp.int32)))
        assert np.isfinite(traced).all() and (traced[1:] > 0).all()
        for step in (0, 1, 5, 9, 10, 11, 50, 99):
            kinds = (step, np.int32(step), np.int64(step), np.uint8(step), jnp.int32(step))
            found = [schedule(kind) for kind in kinds]
            assert {(rate.dtype, rate.shape, float(rate)) for rate in found} == {
                (np.dtype(np.float32), (), float(found[0]))
            }
            np.testing.assert_allclose(traced[step], found[0], rtol=2e-5, atol=1e-8)


def test_the_rise_of_one_cycle_is_of_the_number_as_it_is_written():
    """In floats 0.29 of 100 are 28.999999999999996, and 0.57 of 100 are 56.99999999999999."""
    for rise in (0.01, 0.07, 0.28, 0.29, 0.55, 0.56, 0.57, 0.58, 0.99):
        rates = jax.vmap(make_schedule(OneCycle(rise=rise), 0.1, 100))(jnp.arange(100))
        assert int(jnp.argmax(rates)) == round(100 * rise)


def _plateau_rates(config, losses, total_steps=100):
    """Return the rate in force at each step, checked against what the update really did."""
    params = {"kernel": jnp.zeros(2)}
    tx = make_optimizer(SGD(), config, total_steps, params)
    schedule = make_schedule(config, 0.1, total_steps)
    state, rates = tx.init(params), []
    update, rate = jax.jit(tx.update), jax.jit(lambda s, t: current_learning_rate(schedule, s, t))
    for step, loss in enumerate(losses):
        updates, state = update({"kernel": jnp.ones(2)}, state, params, value=jnp.float32(loss))
        rates.append(float(rate(state, jnp.int32(step))))
        np.testing.assert_allclose(updates["kernel"], -rates[-1], rtol=1e-6)
    return rates


def test_plateau_cuts_after_patience_and_stops_at_the_end_value():
    config = Plateau(factor=0.5, window=1, patience=2, end_value=0.03)
    # best 2; two bad readings cut; a better one resets; two bad ones cut, two more, down to the floor
    losses = [3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    expected = [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.03, 0.03, 0.03]
    np.testing.assert_allclose(_plateau_rates(config, losses), expected, rtol=1e-6)


def test_plateau_averages_windows_and_cools_down():
    averaged = Plateau(factor=0.5, window=2, patience=1)
    # readings 2, 2 (bad, although one loss in it was lower)
    np.testing.assert_allclose(_plateau_rates(averaged, [3.0, 1.0, 0.5, 3.5]), [0.1, 0.1, 0.1, 0.05], rtol=1e-6)
    cooling = Plateau(factor=0.5, window=1, patience=1, cooldown=2)
    got = _plateau_rates(cooling, [1.0] * 5)  # cut, two free readings, cut
    np.testing.assert_allclose(got, [0.1, 0.05, 0.05, 0.05, 0.025], rtol=1e-6)


def test_plateau_after_warmup():
    config = Plateau(factor=0.5, window=1, patience=3, warmup_steps=2)
    np.testing.assert_allclose(_plateau_rates(config, [1.0] * 4), [0.0, 0.05, 0.1, 0.05], rtol=1e-6)


@pytest.mark.parametrize(
    "each",
    [
        *EACH,
        *(replace(each, warmup_steps=7) for each in EACH if not isinstance(each, OneCycle)),
        ExponentialDecay(decay_steps=20),
        InverseTimeDecay(decay_steps=20),
    ],
    ids=repr,
)
def test_a_schedule_goes_on_where_more_steps_change_none_that_were_made(each):
    steps = range(100)
    assert each.goes_on == (values(steps, each, total_steps=100) == values(steps, each, total_steps=150))


# A user's own.

OWN = """
import jax.numpy as jnp
from dataclasses import dataclass
from jaxcnn import Schedule

def of_step(step, slope=0.5):
    return 0.3 / (1 + slope * step)

def triangle(learning_rate, total_steps, height=1.0):
    return lambda step: height * learning_rate * (1 - jnp.abs(2 * step / total_steps - 1))

def halved(learning_rate):
    return lambda step: learning_rate / 2 ** (step // 10)

@dataclass(frozen=True, kw_only=True)
class Jump(Schedule):
    at: int = 10

    def make(self, learning_rate, total_steps):
        return lambda step: jnp.where(step < self.at, learning_rate, learning_rate / total_steps)

    @property
    def goes_on(self):
        return True

@dataclass(frozen=True)
class Almost:
    make = None

number = 3
def nothing():
    return 3
def needs(step, x):
    return x
def untraceable(step):
    return 0.1 if step < 3 else 0.2
def inner(learning_rate):
    return lambda t: 1 / 0
def many(step):
    return jnp.ones(3)
"""


@pytest.fixture
def own(tmp_path):
    """Return the schedule that a name in a user's file stands for."""
    (tmp_path / "mine.py").write_text(OWN)

    def own(name, **options):
        part = check(AnySchedule, {"kind": f"mine.py:{name}", **options}, "schedule")
        return find_schedule(part, Finder((tmp_path,)))

    return own


def test_a_function_of_the_step(own):
    np.testing.assert_allclose(values([0, 1, 2], own("of_step")), [0.3, 0.2, 0.15], rtol=1e-6)
    np.testing.assert_allclose(values([0, 1, 2], own("of_step", slope=1)), [0.3, 0.15, 0.1], rtol=1e-6)
    np.testing.assert_allclose(_plateau_rates(own("of_step"), [1.0] * 3), [0.3, 0.2, 0.15], rtol=1e-6)


def test_a_function_that_returns_one(own):
    np.testing.assert_allclose(values([0, 25, 50, 100], own("triangle")), [0, 0.05, 0.1, 0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(values([25], own("triangle", height=3), 0.2, 50), [0.6], rtol=1e-6)
    np.testing.assert_allclose(values([0, 9, 10, 20], own("halved")), [0.1, 0.1, 0.05, 0.025], rtol=1e-6)


def test_ones_own_goes_on_where_it_is_not_told_the_number_of_steps(own):
    assert [own(name).goes_on for name in ("of_step", "halved", "triangle", "Jump")] == [True, True, False, True]


def test_a_class_of_its_own(own, tmp_path):
    found = own("Jump", at=20)
    assert isinstance(found, Schedule) and found.at == 20
    np.testing.assert_allclose(values([19, 20], found), [0.1, 0.001], rtol=1e-6)
    assert check(AnySchedule, found, "schedule") is found is find_schedule(found, Finder((tmp_path,)))
    assert to_json(found) == {"kind": "mine.py:Jump", "at": 20}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("of_step", {"slop": 1}, "unknown option of mine.py:of_step 'slop': did you mean 'slope'?"),
        ("triangle", {"heigth": 1}, "unknown option of mine.py:triangle 'heigth': did you mean 'height'?"),
        ("Jump", {"att": 1}, "unknown option of mine.py:Jump 'att': did you mean 'at'?"),
        ("Jump", {"at": "x"}, "mine.py:Jump: Jump.at is 'x': expected a whole number"),
        ("number", {}, "mine.py:number is 3: expected a function of step, or a jaxcnn.Schedule"),
        ("nothing", {}, "mine.py:nothing gives 3: expected a function of step"),
        ("needs", {}, "mine.py:needs cannot be made: TypeError: needs() missing 1 required positional argument: 'x'"),
        ("untraceable", {}, "mine.py:untraceable cannot be made: TracerBoolConversionError: Attempted boolean"),
        ("inner", {}, "mine.py:inner cannot be made: ZeroDivisionError: "),
        ("many", {}, "mine.py:many gives (3,) numbers for a step: expected one"),
        ("Almost", {}, "mine.py:Almost is Almost(): expected a function of step, or a jaxcnn.Schedule"),
        ("off_step", {}, "unknown name in mine.py 'off_step': did you mean 'of_step'?"),
    ],
)
def test_what_is_no_schedule(own, name, options, message):
    with pytest.raises(UsageError) as error:
        make_schedule(own(name, **options), 0.1, 100)
    assert str(error.value).startswith(message)


# What is refused.


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("cosin", {}, "unknown schedule 'cosin': did you mean 'cosine'"),
        ("constant", {"warmup_steps": -1}, "schedule.warmup_steps is -1: expected a whole number, 0 or more"),
        ("constant", {"warmup_steps": 2.5}, "schedule.warmup_steps is 2.5: expected a whole number"),
        ("constant", {"warmup_steps": 100}, "schedule.warmup_steps is 100: expected fewer than the 100 in all"),
        ("constant", {"warmup_steps": 5, "warmup_start": 0.2}, "schedule.warmup_start is 0.2: expected at most"),
        ("constant", {"warmup_start": 0.01}, "schedule.warmup_start is 0.01, without schedule.warmup_steps"),
        ("one_cycle", {"warmup_steps": 5}, "unknown field 'schedule.warmup_steps'"),
        ("cosine", {"factor": 0.2}, "unknown field 'schedule.factor': valid choices are schedule.end_value, "),
        ("cosine", {"end_value": 0.2}, "schedule.end_value is 0.2: expected at most"),
        ("cosine", {"end_value": math.inf}, "schedule.end_value is inf: expected a finite number"),
        ("step", {}, "schedule.boundaries is missing: expected a list of whole numbers, 1 or more"),
        ("step", {"boundaries": ()}, r"schedule.boundaries is \(\): expected increasing steps .*, at least one"),
        ("step", {"boundaries": (50, 30)}, r"schedule.boundaries is \(50, 30\): expected increasing steps"),
        ("step", {"boundaries": (30, 30)}, "expected increasing steps"),
        ("step", {"boundaries": (100,)}, r"is \(100,\): expected steps below the 100"),
        ("step", {"boundaries": (5,), "warmup_steps": 10}, r"after the warm-up \(10 steps\)"),
        ("step", {"boundaries": (5.5,)}, r"schedule.boundaries is \(5.5,\): expected a list of whole numbers"),
        ("step", {"boundaries": (5,), "factor": 1.0}, r"schedule.factor is 1.0: expected a finite number in \(0, 1\)"),
        ("step", {"boundaries": (5,), "factor": "x"}, "schedule.factor is 'x': expected"),
        ("exponential", {"decay_rate": 1.0}, "schedule.decay_rate is 1.0: expected a finite number in"),
        ("exponential", {"decay_rate": 1.5}, "schedule.decay_rate is 1.5: expected a finite number in"),
        ("inverse_time", {"decay_rate": -1.0}, "schedule.decay_rate is -1.0"),
        ("exponential", {"decay_steps": 0}, "schedule.decay_steps is 0"),
        ("polynomial", {"power": 0.0}, "schedule.power is 0.0: expected a finite number above 0"),
        ("one_cycle", {"rise": 0.001}, "schedule.rise is 0.001: of 100 steps it leaves none"),
        ("one_cycle", {"final_division": 0.5}, "schedule.final_division is 0.5"),
        ("plateau", {"patience": 0}, "schedule.patience is 0: expected a whole number, 1 or more"),
        ("plateau", {"window": 0}, "schedule.window is 0"),
        ("plateau", {"tolerance": math.nan}, "schedule.tolerance is nan"),
    ],
)
def test_refusals(kind, fields, message):
    with pytest.raises(UsageError, match=message):
        make_schedule(check(AnySchedule, {"kind": kind, **fields}, "schedule"), 0.1, 100)
    if kind in variants(AnySchedule):  # the same in Python, where a field that there is not is the dataclass's matter
        of_the_class = "unknown field" in message or "missing" in message
        with pytest.raises(TypeError if of_the_class else UsageError, match=None if of_the_class else message):
            make_schedule(variants(AnySchedule)[kind](**fields), 0.1, 100)


def test_refuses_rates_and_totals_out_of_range():
    with pytest.raises(UsageError, match="learning_rate is 0: expected a finite number above 0"):
        make_schedule(Constant(), 0, 100)
    with pytest.raises(UsageError, match="total_steps is 0: expected a whole number, 1 or more"):
        make_schedule(Constant(), 0.1, 0)
