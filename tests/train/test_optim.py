"""Every optimiser against its formula in plain numpy, masks, clipping, lowering, a user's own, and every refusal."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import (
    LAMB,
    LARS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Constant,
    CosineDecay,
    DeltaBarDelta,
    Momentum,
    Muon,
    Plateau,
    RMSProp,
    StepDecay,
)
from jaxcnn.errors import UsageError
from jaxcnn.parts import Finder, Part
from jaxcnn.train.optim import make_optimizer, matching
from jaxcnn.train.optimizers import AnyOptimizer, Optimizer, find_optimizer
from jaxcnn.train.schedules import current_learning_rate, make_schedule
from jaxcnn.typed import check, to_json, variants

STEPS, RATE, WD = 5, 0.05, 0.1
HALVED = StepDecay(boundaries=(2,), factor=0.5)  # a rate that moves shows where it is applied


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
    ("kind", "fields", "rule", "memory"),
    [
        (SGD, {}, sgd, {}),
        (Momentum, {}, momentum, {"v": 0.0}),
        (Momentum, {"nesterov": True}, nesterov, {"v": 0.0}),
        (Adagrad, {}, adagrad, {"sum": 0.0}),
        (RMSProp, {"eps": 1.0, "momentum": 0.8, "rms_initial": 1.0}, rmsprop_tensorflow, {"ms": 1.0, "v": 0.0}),
        (RMSProp, {"eps": 0.3, "eps_in_sqrt": False}, rmsprop_torch, {"ms": 0.0}),
        (Adam, {}, adam, {"m": 0.0, "n": 0.0}),
        (AdamW, {}, adamw, {"m": 0.0, "n": 0.0}),
        (LARS, {"trust_coefficient": 0.02}, lars, {"v": 0.0}),
        (LAMB, {}, lamb, {"m": 0.0, "n": 0.0}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_five_steps_agree_with_numpy(kind, fields, rule, memory):
    ours, theirs = run(kind(learning_rate=RATE, weight_decay=WD, **fields)), reference(rule, **memory)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_delta_bar_delta_under_a_schedule():
    def rule(p, g, s, rate, t, decays):
        g = l2(p, g, decays)
        s["rate"] = np.where(s["bar"] * g > 0, s["rate"] + 0.01, s["rate"] * np.where(s["bar"] * g < 0, 0.9, 1.0))
        s["bar"] = 0.3 * g + 0.7 * s["bar"]
        return p - rate / RATE * s["rate"] * g

    ours = run(DeltaBarDelta(learning_rate=RATE, weight_decay=WD))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference(rule, rate=RATE, bar=0.0)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_muon_orthogonalises_kernels_and_leaves_the_rest_to_adam():
    flat, grads = tree()
    params = nested(flat)
    tx = make_optimizer(Muon(learning_rate=1.0), Constant(), STEPS, params)
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
    plain, decayed = (run(Muon(weight_decay=wd), Constant()) for wd in (0.0, WD))
    np.testing.assert_array_equal(plain["conv"]["bias"], decayed["conv"]["bias"])
    params = nested(tree()[0])
    tx = make_optimizer(Muon(weight_decay=WD), Constant(), STEPS, params)
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
    tx = make_optimizer(Momentum(weight_decay=WD, decay=("*",)), Constant(), STEPS, params)
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
        make_optimizer(Momentum(decay=(pattern,)), Constant(), STEPS, nested(tree()[0]))


def test_a_tree_without_kernels_needs_no_pattern_where_nothing_decays():
    params = {"weight": jnp.ones(2)}
    tx = make_optimizer(AdamW(), Constant(), STEPS, params)
    assert tx.update(params, tx.init(params), params)[0]["weight"].shape == (2,)


def test_clipping_comes_before_weight_decay():
    params = {"kernel": jnp.array([10.0, 0.0])}
    config = SGD(learning_rate=1.0, weight_decay=1.0, clip_norm=1.0)
    tx = make_optimizer(config, Constant(), STEPS, params)
    for gradient, expected in (([3.0, 4.0], [-10.6, -0.8]), ([0.3, 0.4], [-10.3, -0.4])):
        updates, _ = tx.update({"kernel": jnp.array(gradient)}, tx.init(params), params)
        np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", variants(AnyOptimizer).values())
def test_shapes_suffice_and_the_update_lowers_for_accelerators(kind):
    params = nested(tree()[0])
    shapes = jax.eval_shape(lambda: params)
    tx = make_optimizer(kind(weight_decay=WD, clip_norm=1.0), Plateau(warmup_steps=2), STEPS, shapes)
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
    tx = make_optimizer(SGD(learning_rate=RATE), HALVED, STEPS, params)
    schedule, state = make_schedule(HALVED, RATE, STEPS), tx.init(params)
    for step in range(STEPS):
        updates, state = tx.update({"kernel": jnp.ones(1)}, state, params, value=jnp.float32(0))
        rate = current_learning_rate(schedule, state, step)
        np.testing.assert_allclose(-updates["kernel"][0], rate, rtol=1e-7)
    assert float(rate) == pytest.approx(RATE / 2)


# A user's own.

OWN = """
import jax
import jax.numpy as jnp
import optax
from dataclasses import dataclass
from jaxcnn import Momentum, Optimizer

def update(grads, state, params):  # neither takes the loss nor mixes types as ours do
    return jax.tree.map(lambda g: -g * state / 20, grads), state + 1

counting = optax.GradientTransformation(lambda params: jnp.ones((), jnp.int32), update)

def clipped(learning_rate, limit=1.0, momentum=0.0):
    return optax.chain(optax.clip(limit), optax.sgd(learning_rate, momentum or None))

def with_default(learning_rate=0.05):
    return optax.sgd(learning_rate)

def fixed(rate):
    return optax.sgd(rate)

def of_the_loss():
    def update(grads, state, params, *, value, **more):
        return jax.tree.map(lambda g: g * -value, grads), state
    return optax.GradientTransformationExtraArgs(lambda params: (), update)

@dataclass(frozen=True, kw_only=True)
class Signs(Optimizer):
    scale: float = 1.0

    def rule(self, rate, mask, params_like):
        return optax.chain(optax.scale_by_sign(), optax.scale(self.scale), optax.scale_by_learning_rate(rate))

@dataclass(frozen=True, kw_only=True)
class Late(Momentum):
    pass

@dataclass(frozen=True)
class Almost:
    rule = None

number = 3
def nothing():
    return 3
def fails():
    raise RuntimeError("no luck")
"""


@pytest.fixture
def own(tmp_path):
    """Return the optimiser that a name in a user's file stands for."""
    (tmp_path / "mine.py").write_text(OWN)

    def own(name, **options):
        part = check(AnyOptimizer, {"kind": f"mine.py:{name}", **options}, "optim")
        return find_optimizer(part, Finder((tmp_path,)))

    return own


def same(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_function_of_a_learning_rate_and_options(own):
    for options, plain in (({}, SGD(learning_rate=RATE)), ({"momentum": 0.9}, Momentum(learning_rate=RATE))):
        same(run(own("clipped", learning_rate=RATE, limit=99, **options)), run(plain))
    same(run(own("with_default")), run(SGD(learning_rate=RATE)))
    # What it is given is the schedule, so that the rate in force is known and a plateau may cut it.
    assert own("clipped", learning_rate=RATE).learning_rate == RATE and own("with_default").learning_rate == 0.05
    plateau = Plateau(factor=0.5, window=1, patience=1)
    same(run(own("with_default"), plateau), run(SGD(learning_rate=RATE), plateau))


def test_one_without_a_learning_rate_keeps_its_own(own):
    steady = Constant()
    same(run(own("fixed", rate=RATE), steady), run(SGD(learning_rate=RATE), steady))
    assert own("fixed", rate=RATE).learning_rate is None
    for schedule in (HALVED, CosineDecay(), Plateau()):
        with pytest.raises(UsageError, match="the optimiser takes no learning_rate to move"):
            run(own("fixed", rate=RATE), schedule)


def test_two_functions_are_a_transformation(own):
    flat, grads = tree()
    expected = {name: p - sum((n + 1) / 20 * g[name] for n, g in enumerate(grads)) for name, p in flat.items()}
    found = run(own("counting"), Constant())
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(nested(expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    same(run(own("of_the_loss"), Constant()), run(SGD(learning_rate=1.0), Constant()))


def test_frozen_parameters_stay_with_ones_own_too(own):
    params = nested(tree()[0])
    tx = make_optimizer(own("counting"), Constant(), STEPS, params, ("conv/*",))
    updates, _ = tx.update(params, tx.init(params), params, value=jnp.float32(0))
    assert not any(leaf.any() for leaf in updates["conv"].values())
    assert all(leaf.all() for leaf in updates["dense"].values())


def test_a_subclass_of_ours_has_what_all_have_in_common(own):
    found = own("Signs", learning_rate=RATE, scale=2, weight_decay=WD, clip_norm=3)
    assert (found.scale, found.clip_norm) == (2.0, 3.0) and isinstance(found, Optimizer)
    params = nested(tree()[0])
    tx = make_optimizer(found, HALVED, STEPS, params)
    updates, _ = tx.update(params, tx.init(params), params)
    for update, p in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(update, -2 * RATE * np.sign(p), rtol=1e-6)
    with pytest.raises(UsageError, match="learning_rate is 0: expected a finite number above 0"):
        own("Signs", learning_rate=0)
    same(run(own("Late", learning_rate=RATE)), run(Momentum(learning_rate=RATE)))


def test_one_as_a_value_is_taken_and_written_by_its_name(own, tmp_path):
    value = own("Signs", scale=2)
    assert check(AnyOptimizer, value, "optim") is value
    assert to_json(value) == {"kind": "mine.py:Signs", "scale": 2.0}
    assert find_optimizer(value, Finder((tmp_path,))) is value
    with pytest.raises(UsageError, match=r"optim is a Almost: expected a jaxcnn.Optimizer"):
        find_optimizer(Finder((tmp_path,)).find("mine.py:Almost")(), Finder())
    with pytest.raises(UsageError, match="defined within a function"):
        check(AnyOptimizer, lambda: optax.sgd(0.1), "optim")
    assert check(AnyOptimizer, optax.adam, "optim") == Part(name="optax._src.alias:adam")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clipped", {}, "mine.py:clipped takes a learning_rate: give it among its options, such as 0.1"),
        ("clipped", {"learning_rate": "x"}, "mine.py:clipped takes a learning_rate: give it"),
        ("clipped", {"learning_rate": -1}, "learning_rate of mine.py:clipped is -1: expected a finite number above 0"),
        ("clipped", {"learning_rate": 1, "limt": 2}, "unknown option of mine.py:clipped 'limt': did you mean 'limit'?"),
        (
            "fixed",
            {},
            "mine.py:fixed cannot be made: TypeError: fixed() missing 1 required positional argument: 'rate'",
        ),
        ("counting", {"x": 1}, "mine.py:counting is made already: it takes no options, such as 'x'"),
        ("number", {}, "mine.py:number is 3: expected a class or a function"),
        ("nothing", {}, "mine.py:nothing gives 3: expected an optax.GradientTransformation"),
        ("fails", {}, "mine.py:fails cannot be made: RuntimeError: no luck (mine.py, line "),
        ("Signs", {"scael": 2}, "unknown option of mine.py:Signs 'scael': did you mean 'scale'?"),
        ("Almost", {}, "mine.py:Almost is Almost(): expected a class or a function"),
        ("clipt", {}, "unknown name in mine.py 'clipt': did you mean 'clipped'?"),
        ("jax", {}, "mine.py:jax is <module 'jax'"),
    ],
)
def test_what_is_no_optimiser(own, name, options, message):
    with pytest.raises(UsageError) as error:
        make_optimizer(own(name, **options), Constant(), STEPS, nested(tree()[0]))
    assert str(error.value).startswith(message)


# What is refused.


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("adma", {}, "unknown optim 'adma': did you mean 'adam'"),
        ("momentum", {"learning_rate": 0.0}, "optim.learning_rate is 0.0: expected a finite number above 0"),
        ("momentum", {"learning_rate": -0.1}, "optim.learning_rate is -0.1"),
        ("momentum", {"learning_rate": math.nan}, "optim.learning_rate is nan"),
        ("momentum", {"learning_rate": "fast"}, "optim.learning_rate is 'fast'"),
        ("momentum", {"momentum": 1.0}, r"optim.momentum is 1.0: expected a finite number in \[0, 1\)"),
        ("momentum", {"weight_decay": -1e-4}, "optim.weight_decay is -0.0001: expected a finite number, 0 or more"),
        ("momentum", {"clip_norm": 0.0}, "optim.clip_norm is 0.0"),
        ("momentum", {"clip_norm": math.inf}, "optim.clip_norm is inf"),
        ("adam", {"eps": 0.0}, "optim.eps is 0.0"),
        ("adam", {"beta2": 1.0}, "optim.beta2 is 1.0"),
        ("lars", {"trust_coefficient": 0.0}, "optim.trust_coefficient is 0.0"),
        ("delta_bar_delta", {"phi": 1.0}, "optim.phi is 1.0"),
        ("sgd", {"momentum": 0.9}, "unknown field 'optim.momentum'"),
        ("adam", {"kappa": 0.1}, "unknown field 'optim.kappa': valid choices are optim.beta1, "),
        ("momentum", {"eps_in_sqrt": False}, "unknown field 'optim.eps_in_sqrt'"),
        ("momentum", {"nestrov": True}, "unknown field 'optim.nestrov': did you mean 'optim.nesterov'?"),
    ],
)
def test_refusals(kind, fields, message):
    with pytest.raises(UsageError, match=message):
        check(AnyOptimizer, {"kind": kind, **fields}, "optim")
    if kind in variants(AnyOptimizer):  # the same in Python, where a field that there is not is the dataclass's matter
        there_is_none = "unknown field" in message
        with pytest.raises(TypeError if there_is_none else UsageError, match=None if there_is_none else message):
            variants(AnyOptimizer)[kind](**fields)
