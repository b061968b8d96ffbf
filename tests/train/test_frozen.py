"""Parts that stay as they are while the rest trains."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import CLASSES, Toy, batch, images, start

from jaxcnn.errors import UsageError
from jaxcnn.models.frozen import frozen_batch_norm
from jaxcnn.tasks import Classification
from jaxcnn.train.optim import make_optimizer
from jaxcnn.train.optimizers import LAMB, LARS, SGD, Adagrad, Adam, AdamW, DeltaBarDelta, Momentum, Muon, RMSProp
from jaxcnn.train.schedules import Constant
from jaxcnn.train.state import create_state
from jaxcnn.train.step import make_train_step

FROZEN = ("conv_a/*", "bn_a/*")
KINDS = [LAMB, LARS, SGD, Adagrad, Adam, AdamW, DeltaBarDelta, Momentum, Muon, RMSProp]


def trained(optim, frozen, steps=3, model=Toy(norm=True)):  # noqa: B008
    variables = model.init(jax.random.key(0), np.zeros(images(1).shape, np.float32))
    tx = make_optimizer(optim, Constant(), 10, variables["params"], frozen)
    state = create_state(variables, tx, jax.random.key(0))
    step = jax.jit(make_train_step(model, tx, Classification(), frozen=frozen))
    before = state
    for seed in range(steps):
        state, _ = step(state, batch(8, seed))
    return before, state


def changed(before, after):
    """Return which top-level parts differ in any bit."""
    return {name for name in before if not all(map(np.array_equal, *map(jax.tree.leaves, (before[name], after[name]))))}


@pytest.mark.parametrize(
    "kind",
    [LAMB, LARS, SGD, Adagrad, Adam, AdamW, DeltaBarDelta, Momentum, Muon, RMSProp],
    ids=lambda kind: kind.__name__,
)
def test_frozen_parameters_keep_their_bits(kind):
    decay = 0.01 if kind is not DeltaBarDelta else 0.0
    before, after = trained(kind(learning_rate=0.01, weight_decay=decay, clip_norm=1.0), FROZEN)
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
        return task.losses(logits, data).mean()

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


class Plain(nn.Module):
    """A network of Flax's own layers, which tells its BatchNorm how to normalise in one way or the other."""

    when_made: bool

    @nn.compact
    def __call__(self, x, train=False):
        for name in ("a", "b"):
            x = nn.Conv(4, (3, 3), name=f"conv_{name}")(x)
            running = {"use_running_average": not train}
            norm = nn.BatchNorm(name=f"bn_{name}", **(running if self.when_made else {}))
            x = jnp.tanh(norm(x, **({} if self.when_made else running)))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


@pytest.mark.parametrize("when_made", [True, False])
def test_flax_s_own_batch_norm_is_frozen_too(when_made):
    before, after = trained(SGD(learning_rate=0.1), FROZEN, model=Plain(when_made))
    assert changed(before.params, after.params) == {"conv_b", "bn_b", "head"}
    assert changed(before.batch_stats, after.batch_stats) == {"bn_b"}
