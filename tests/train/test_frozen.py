"""Parts that stay as they are while the rest trains."""

from functools import partial

import jax
import numpy as np
import pytest
from toys import Toy, batch, images, start

from jaxcnn.errors import UsageError
from jaxcnn.tasks import Classification
from jaxcnn.train.frozen import frozen_batch_norm
from jaxcnn.train.optim import DEFAULTS, OptimConfig, make_optimizer
from jaxcnn.train.schedules import ScheduleConfig
from jaxcnn.train.state import create_state
from jaxcnn.train.step import make_train_step

FROZEN = ("conv_a/*", "bn_a/*")


def trained(optim, frozen, steps=3):
    model = Toy(norm=True)
    params = jax.eval_shape(model.init, jax.random.key(0), images(1))["params"]
    tx = make_optimizer(optim, Constant(), 10, params, frozen)
    state = start(model, tx)
    step = jax.jit(make_train_step(model, tx, Classification(), frozen=frozen))
    before = state
    for seed in range(steps):
        state, _ = step(state, batch(8, seed))
    return before, state


def changed(before, after):
    """Return which top-level parts differ in any bit."""
    return {name for name in before if not all(map(np.array_equal, *map(jax.tree.leaves, (before[name], after[name]))))}


@pytest.mark.parametrize("name", DEFAULTS)
def test_frozen_parameters_keep_their_bits(name):
    decay = 0.01 if name != "delta_bar_delta" else 0.0
    before, after = trained(OptimConfig(name=name, learning_rate=0.01, weight_decay=decay, clip_norm=1.0), FROZEN)
    assert changed(before.params, after.params) == {"conv_b", "bn_b", "head"}
    assert changed(before.batch_stats, after.batch_stats) == {"bn_b"}


def test_without_patterns_all_of_it_trains():
    before, after = trained(Momentum(learning_rate=0.1), ())
    assert changed(before.params, after.params) == set(before.params)
    assert changed(before.batch_stats, after.batch_stats) == {"bn_a", "bn_b"}


def test_the_rest_trains_as_if_the_frozen_part_were_no_parameter():
    # Plain gradient descent, by hand: the clipping must not see the frozen gradients.
    before, after = trained(SGD(learning_rate=0.1, clip_norm=0.05), FROZEN, steps=1)
    model, task, data = Toy(norm=True), Classification(), batch(8, 0)

    def loss(free):
        variables = {"params": {**before.params, **free}, "batch_stats": before.batch_stats}
        with frozen_batch_norm(FROZEN):
            logits, _ = model.apply(variables, data["image"], train=True, mutable=["batch_stats"])
        return task.loss(logits, data)[0]

    free = {name: before.params[name] for name in ("conv_b", "bn_b", "head")}
    grads = jax.grad(loss)(free)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    scale = min(1.0, 0.05 / norm)
    assert scale < 1
    expected = jax.tree.map(lambda p, g: p - 0.1 * scale * g, free, grads)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), {k: after.params[k] for k in free}, expected)


def test_a_frozen_network_computes_as_in_evaluation():
    model, data = Toy(norm=True), batch(8)
    state = start(model, make_optimizer(Momentum(), Constant(), 10, {}))
    stats = jax.tree.map(lambda x: x + 0.3, state.batch_stats)
    variables = {"params": state.params, "batch_stats": stats}
    with frozen_batch_norm(("*",)):
        frozen, _ = model.apply(variables, data["image"], train=True, mutable=["batch_stats"])
    training, _ = model.apply(variables, data["image"], train=True, mutable=["batch_stats"])
    evaluation = model.apply(variables, data["image"], train=False)
    np.testing.assert_array_equal(frozen, evaluation)
    assert np.abs(np.subtract(training, evaluation)).max() > 1e-3


def test_bad_patterns():
    params = jax.eval_shape(Toy().init, jax.random.key(0), images(1))["params"]
    make = partial(make_optimizer, Momentum(), Constant(), 10, params)
    with pytest.raises(UsageError, match=r"train.frozen pattern 'conv_c/\*' matches no parameter; nearest: 'conv_"):
        make(("conv_c/*",))
    with pytest.raises(UsageError, match="no parameter is left to train"):
        make(("*",))


def test_a_state_may_start_from_given_variables():
    model = Toy(norm=True)
    tx = make_optimizer(Momentum(), Constant(), 10, {})
    given = model.init(jax.random.key(7), images(1))
    state = create_state(model, tx, jax.random.key(0), images(1), ema=True, variables=given)
    for tree in (state.params, state.ema):
        jax.tree.map(np.testing.assert_array_equal, tree, given["params"])
