"""Every optimiser against its formula in plain numpy, masks, clipping, lowering, and every refusal."""

import math
import re
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train.optim import DEFAULTS, OptimConfig, make_optimizer, matching
from jaxcnn.train.schedules import ScheduleConfig, current_learning_rate, make_schedule

STEPS, RATE, WD = 5, 0.05, 0.1
HALVED = ScheduleConfig(name="step", boundaries=(2,), factor=0.5)  # a rate that moves shows where it is applied


def tree():
    """Return a small float64 tree of parameters and a function from step to gradients."""
    rng = np.random.default_rng(0)
    shapes = {"conv/kernel": (2, 2, 3, 4), "conv/bias": (4,), "dense/kernel": (4, 3)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    grads = [{name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(STEPS)]
    return params, grads


def nested(flat):
    out: dict[str, dict[str, jax.Array]] = {}
    for name, value in flat.items():
        module, leaf = name.split("/")
        out.setdefault(module, {})[leaf] = jnp.asarray(value, jnp.float32)
    return out


def run(config, schedule=HALVED):
    """Return the parameters after STEPS jitted updates."""
    flat, grads = tree()
    params = nested(flat)
    tx = make_optimizer(config, schedule, STEPS, params)
    state, update = tx.init(params), jax.jit(tx.update)
    for gradient in grads:
        updates, state = update(nested(gradient), state, params, value=jnp.float32(1))
        params = optax.apply_updates(params, updates)
    return params


def reference(rule, **memory):
    """Return the parameters after STEPS of `rule(p, g, s, rate, t, decays) -> p`; s is a leaf's memory."""
    params, grads = tree()
    slots = {name: {k: np.full(p.shape, v) for k, v in memory.items()} for name, p in params.items()}
    for t, gradient in enumerate(grads):
        for name, p in params.items():
            rate = RATE * (0.5 if t >= 2 else 1.0)
            params[name] = rule(p, gradient[name], slots[name], rate, t + 1, name.endswith("kernel"))
    return nested(params)


def l2(p, g, decays):
    return g + WD * p * decays


def sgd(p, g, s, rate, t, decays):
    return p - rate * l2(p, g, decays)


def momentum(p, g, s, rate, t, decays):
    s["v"] = 0.9 * s["v"] + l2(p, g, decays)
    return p - rate * s["v"]


def nesterov(p, g, s, rate, t, decays):
    g = l2(p, g, decays)
    s["v"] = 0.9 * s["v"] + g
    return p - rate * (g + 0.9 * s["v"])


def adagrad(p, g, s, rate, t, decays):
    g = l2(p, g, decays)
    s["sum"] = s["sum"] + g**2
    return p - rate * g / np.sqrt(s["sum"] + 1e-7)


def rmsprop_tensorflow(p, g, s, rate, t, decays):
    g = l2(p, g, decays)
    s["ms"] = 0.9 * s["ms"] + 0.1 * g**2
    s["v"] = 0.8 * s["v"] + rate * g / np.sqrt(s["ms"] + 1.0)
    return p - s["v"]


def rmsprop_torch(p, g, s, rate, t, decays):
    g = l2(p, g, decays)
    s["ms"] = 0.9 * s["ms"] + 0.1 * g**2
    return p - rate * g / (np.sqrt(s["ms"]) + 0.3)


def moments(g, s, t):
    s["m"] = 0.9 * s["m"] + 0.1 * g
    s["n"] = 0.999 * s["n"] + 0.001 * g**2
    return s["m"] / (1 - 0.9**t), s["n"] / (1 - 0.999**t)


def adam(p, g, s, rate, t, decays):
    m, n = moments(l2(p, g, decays), s, t)
    return p - rate * m / (np.sqrt(n) + 1e-8)


def adamw(p, g, s, rate, t, decays):
    m, n = moments(g, s, t)
    return p - rate * (m / (np.sqrt(n) + 1e-8) + WD * p * decays)


def lars(p, g, s, rate, t, decays):
    g = l2(p, g, decays)
    trust = 0.02 * np.linalg.norm(p) / np.linalg.norm(g) if decays else 1.0
    s["v"] = 0.9 * s["v"] + rate * trust * g
    return p - s["v"]


def lamb(p, g, s, rate, t, decays):
    m, n = moments(g, s, t)
    r = m / (np.sqrt(n) + 1e-6) + WD * p * decays
    return p - rate * (np.linalg.norm(p) / np.linalg.norm(r) if decays else 1.0) * r


@pytest.mark.parametrize(
    ("fields", "rule", "memory"),
    [
        ({"name": "sgd"}, sgd, {}),
        ({"name": "momentum"}, momentum, {"v": 0.0}),
        ({"name": "nesterov"}, nesterov, {"v": 0.0}),
        ({"name": "adagrad"}, adagrad, {"sum": 0.0}),
        (
            {"name": "rmsprop", "eps": 1.0, "momentum": 0.8, "rms_initial": 1.0},
            rmsprop_tensorflow,
            {"ms": 1.0, "v": 0.0},
        ),
        ({"name": "rmsprop", "eps": 0.3, "eps_in_sqrt": False}, rmsprop_torch, {"ms": 0.0}),
        ({"name": "adam"}, adam, {"m": 0.0, "n": 0.0}),
        ({"name": "adamw"}, adamw, {"m": 0.0, "n": 0.0}),
        ({"name": "lars", "trust_coefficient": 0.02}, lars, {"v": 0.0}),
        ({"name": "lamb"}, lamb, {"m": 0.0, "n": 0.0}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_five_steps_agree_with_numpy(fields, rule, memory):
    config = OptimConfig(learning_rate=RATE, weight_decay=WD, **fields)
    ours, theirs = run(config), reference(rule, **memory)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_delta_bar_delta_under_a_schedule():
    def rule(p, g, s, rate, t, decays):
        g = l2(p, g, decays)
        s["rate"] = np.where(s["bar"] * g > 0, s["rate"] + 0.01, s["rate"] * np.where(s["bar"] * g < 0, 0.9, 1.0))
        s["bar"] = 0.3 * g + 0.7 * s["bar"]
        return p - rate / RATE * s["rate"] * g

    ours = run(OptimConfig(name="delta_bar_delta", learning_rate=RATE, weight_decay=WD))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference(rule, rate=RATE, bar=0.0)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_muon_orthogonalises_kernels_and_leaves_the_rest_to_adam():
    flat, grads = tree()
    params = nested(flat)
    tx = make_optimizer(OptimConfig(name="muon", learning_rate=1.0), ScheduleConfig(), STEPS, params)
    updates, _ = tx.update(nested(grads[0]), tx.init(params), params)
    for kernel, g in [
        (updates["conv"]["kernel"], grads[0]["conv/kernel"]),
        (updates["dense"]["kernel"], grads[0]["dense/kernel"]),
    ]:
        matrix = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
        matrix = -matrix / (0.2 * math.sqrt(max(matrix.shape)))
        singular = np.linalg.svd(matrix, compute_uv=False)
        assert np.all((singular > 0.6) & (singular < 1.3))  # what the five quintic steps promise
        u, _, vt = np.linalg.svd(g.reshape(matrix.shape), full_matrices=False)
        cosine = np.sum(u @ vt * matrix) / np.linalg.norm(u @ vt) / np.linalg.norm(matrix)
        assert cosine > 0.97
    # Adam's first step is the sign of the gradient.
    np.testing.assert_allclose(updates["conv"]["bias"], -np.sign(grads[0]["conv/bias"]), rtol=1e-4)


def test_muon_decays_apart_from_the_gradient_and_only_the_masked():
    plain, decayed = (run(OptimConfig(name="muon", weight_decay=wd), ScheduleConfig()) for wd in (0.0, WD))
    np.testing.assert_array_equal(plain["conv"]["bias"], decayed["conv"]["bias"])
    params = nested(tree()[0])
    tx = make_optimizer(OptimConfig(name="muon", weight_decay=WD), ScheduleConfig(), STEPS, params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.1 * WD * params["dense"]["kernel"], rtol=1e-6)


def test_patterns_over_paths():
    params = nested(tree()[0])
    assert matching("optim.decay", ("*kernel",), params) == {
        "conv": {"bias": False, "kernel": True},
        "dense": {"kernel": True},
    }
    assert all(jax.tree.leaves(matching("optim.decay", ("*",), params)))
    assert matching(
        "optim.decay", ("conv/*", "dense/bia?", "dense/[k]ernel"), {**params, "dense": {"bias": 0, "kernel": 0}}
    ) == {
        "conv": {"bias": True, "kernel": True},
        "dense": {"bias": True, "kernel": True},
    }
    assert matching("optim.decay", ("conv/bias",), params)["dense"]["kernel"] is False
    assert not any(jax.tree.leaves(matching("optim.decay", (), params)))


def test_everything_decays_as_in_he_et_al():
    params = nested(tree()[0])
    tx = make_optimizer(OptimConfig(weight_decay=WD, decay=("*",)), ScheduleConfig(), STEPS, params)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    for update, p in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(update, -0.1 * WD * p, rtol=1e-6)


@pytest.mark.parametrize(("pattern", "nearest"), [
    ("*/kernal", "conv/kernel"),
    ("conv/biases", "conv/bias"),
    ("xyz", "conv/bias"),
])  # fmt: skip
def test_pattern_that_matches_nothing(pattern, nearest):
    message = re.escape(f"optim.decay pattern {pattern!r} matches no parameter; nearest: {nearest!r}")
    with pytest.raises(UsageError, match=message):
        make_optimizer(OptimConfig(decay=(pattern,)), ScheduleConfig(), STEPS, nested(tree()[0]))


def test_a_tree_without_kernels_needs_no_pattern_where_nothing_decays():
    params = {"weight": jnp.ones(2)}
    tx = make_optimizer(OptimConfig(name="adamw"), ScheduleConfig(), STEPS, params)
    assert tx.update(params, tx.init(params), params)[0]["weight"].shape == (2,)


def test_clipping_comes_before_weight_decay():
    params = {"kernel": jnp.array([10.0, 0.0])}
    config = OptimConfig(name="sgd", learning_rate=1.0, weight_decay=1.0, clip_norm=1.0)
    tx = make_optimizer(config, ScheduleConfig(), STEPS, params)
    for gradient, expected in (([3.0, 4.0], [-10.6, -0.8]), ([0.3, 0.4], [-10.3, -0.4])):
        updates, _ = tx.update({"kernel": jnp.array(gradient)}, tx.init(params), params)
        np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", DEFAULTS)
def test_shapes_suffice_and_the_update_lowers_for_accelerators(name):
    params = nested(tree()[0])
    shapes = jax.eval_shape(lambda: params)
    config = OptimConfig(name=name, weight_decay=WD, clip_norm=1.0)
    tx = make_optimizer(config, ScheduleConfig(name="plateau", warmup_steps=2), STEPS, shapes)
    state = tx.init(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    updates, after = jax.jit(tx.update)(params, state, params, value=jnp.float32(1))
    # Types that changed, weak ones too, would compile the step twice and break a scan over steps.
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(updates)} == {"float32"}

    def update(grads, state, params, loss):
        return jax.tree.leaves(tx.update(grads, state, params, value=loss))

    avals = (params, state, params, jnp.float32(1))
    for platform in ("cuda", "tpu"):
        assert jax.export.export(jax.jit(update), platforms=[platform])(*avals).platforms == (platform,)


def test_the_rate_in_force_follows_the_schedule():
    params = {"kernel": jnp.zeros(1)}
    tx = make_optimizer(OptimConfig(name="sgd", learning_rate=RATE), HALVED, STEPS, params)
    schedule, state = make_schedule(HALVED, RATE, STEPS), tx.init(params)
    for step in range(STEPS):
        updates, state = tx.update({"kernel": jnp.ones(1)}, state, params, value=jnp.float32(0))
        rate = current_learning_rate(schedule, state, step)
        np.testing.assert_allclose(-updates["kernel"][0], rate, rtol=1e-7)
    assert float(rate) == pytest.approx(RATE / 2)


def test_names_and_settings_agree_with_the_table():
    hints = get_type_hints(OptimConfig)
    assert set(get_args(hints["name"])) == set(DEFAULTS)
    assert {setting for settings in DEFAULTS.values() for setting in settings} < set(hints)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adma"}, "unknown optimiser 'adma': did you mean 'adam'"),
        ({"learning_rate": 0.0}, "optim.learning_rate is 0.0: expected a finite number above 0"),
        ({"learning_rate": -0.1}, "optim.learning_rate is -0.1"),
        ({"learning_rate": math.nan}, "optim.learning_rate is nan"),
        ({"learning_rate": "fast"}, "optim.learning_rate is 'fast'"),
        ({"momentum": 1.0}, r"optim.momentum is 1.0: expected a number in \[0, 1\)"),
        ({"weight_decay": -1e-4}, "optim.weight_decay is -0.0001: expected a finite number, 0 or more"),
        ({"clip_norm": 0.0}, "optim.clip_norm is 0.0"),
        ({"clip_norm": math.inf}, "optim.clip_norm is inf"),
        ({"name": "adam", "eps": 0.0}, "optim.eps is 0.0"),
        ({"name": "adam", "beta2": 1.0}, "optim.beta2 is 1.0"),
        ({"name": "lars", "trust_coefficient": 0.0}, "optim.trust_coefficient is 0.0"),
        ({"name": "delta_bar_delta", "phi": 1.0}, "optim.phi is 1.0"),
        ({"name": "sgd", "momentum": 0.9}, "optim.momentum is 0.9, but 'sgd' does not read it"),
        ({"name": "adam", "kappa": 0.1}, "optim.kappa is 0.1, but 'adam' does not read it: it reads beta1"),
        ({"name": "momentum", "eps_in_sqrt": False}, "optim.eps_in_sqrt is False, but 'momentum' does not"),
    ],
)  # fmt: skip
def test_refusals(fields, message):
    with pytest.raises(UsageError, match=message):
        make_optimizer(OptimConfig(**fields), ScheduleConfig(), STEPS, nested(tree()[0]))
