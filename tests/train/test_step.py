"""One training step: against plain numpy, in parts, averaged, clipped, in bfloat16, twice."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import CLASSES, Toy, assert_close, assert_same_bits, batch, host, images, start, state_like

from jaxcnn.layers import Dense
from jaxcnn.models import Model
from jaxcnn.models.resnet import resnet_tiny
from jaxcnn.tasks import Classification
from jaxcnn.train.optim import make_optimizer
from jaxcnn.train.optimizers import SGD
from jaxcnn.train.parallel import Parallel
from jaxcnn.train.schedules import Constant, Plateau
from jaxcnn.train.step import make_eval_step, make_train_step

TASK = Classification(label_smoothing=0.1)
PLAIN, HEAVY = optax.sgd(0.5), optax.sgd(0.5, momentum=0.9)


def compiled(model, tx, **options):
    return jax.jit(make_train_step(model, tx, TASK, **options))


class Linear(Model):
    """Logits linear in the pixels: its gradient is known."""

    @nn.compact
    def __call__(self, x, train=False):
        return Dense(CLASSES, name="head")(x.reshape(len(x), -1))


def test_sgd_step_of_a_linear_model_by_hand():
    state, data = start(Linear(), PLAIN), batch(5)
    before = host(state.params["head"])
    after, sums = compiled(Linear(), PLAIN)(state, data)

    x = data["image"].reshape(5, -1).astype(np.float64)
    logits = x @ before["kernel"] + before["bias"]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    target = 0.9 * np.eye(CLASSES)[data["label"]] + 0.1 / CLASSES
    slope = (p - target) / 5
    expected = {"kernel": before["kernel"] - 0.5 * x.T @ slope, "bias": before["bias"] - 0.5 * slope.sum(0)}
    assert_close(after.params["head"], expected)
    np.testing.assert_allclose(sums["loss"], -(target * np.log(p)).sum(), rtol=1e-5)
    assert (sums["count"], after.step) == (5, 1)
    assert_same_bits(sums["task"]["correct"], (logits.argmax(-1) == data["label"]).sum())
    np.testing.assert_allclose(sums["task"]["loss"], -np.log(p[np.arange(5), data["label"]]).sum(), rtol=1e-5)


def test_a_step_is_a_pure_function():
    model = Toy(norm=True, dropout=0.5)
    step = compiled(model, HEAVY, ema_decay=0.9)
    state = start(model, HEAVY, ema=True)
    before = host(state)
    first, second = step(state, batch(6)), step(state, batch(6))
    assert_same_bits(first, second)
    assert_same_bits(state, before)
    assert jax.tree.structure(first[0]) == jax.tree.structure(state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), first[0]) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert_same_bits(first[0].key, state.key)
    donated, _ = jax.jit(make_train_step(model, HEAVY, TASK, ema_decay=0.9), donate_argnums=0)(
        start(model, HEAVY, ema=True), batch(6)
    )
    assert_same_bits(donated, first[0])


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_whole_batch(parts, devices):
    whole, whole_sums = compiled(Toy(), HEAVY)(start(Toy(), HEAVY), batch(16))
    parallel = Parallel(16, devices=devices)
    step = make_train_step(Toy(), HEAVY, TASK, accumulation_steps=parts, axis_name=parallel.axis_name)
    run = parallel.compile_train(step, lambda batch: batch)
    state, sums = run(parallel.place(start(Toy(), HEAVY)), batch(16))
    assert_close(state, whole)
    assert state.step == 1
    assert_close(sums, whole_sums)


def test_accumulation_takes_batch_norm_through_the_parts_in_turn():
    model, data = Toy(norm=True), batch(8)
    found, _ = compiled(model, PLAIN, accumulation_steps=2)(start(model, PLAIN), data)
    stats = start(model, PLAIN).variables["batch_stats"]
    for part in (0, 1):  # every second image
        _, updated = model.apply(
            {"params": start(model, PLAIN).params, "batch_stats": stats},
            data["image"][part::2],
            train=True,
            mutable=["batch_stats"],
        )
        stats = updated["batch_stats"]
    assert_close(found.batch_stats, stats)


def test_average_of_the_parameters_by_its_closed_form():
    tx, decay, steps = HEAVY, 0.8, 6
    step, state = compiled(Toy(), tx, ema_decay=decay), start(Toy(), tx, ema=True)
    seen = [host(state.params)]
    for number in range(steps):
        state, _ = step(state, batch(6, seed=number))
        seen.append(host(state.params))

    def closed(first, *later):
        weights = [(1 - decay) * decay ** (steps - 1 - k) for k in range(steps)]
        return decay**steps * first + sum(w * x for w, x in zip(weights, later, strict=True))

    assert_close(state.ema, jax.tree.map(closed, *seen))
    assert state.variables["params"] is state.ema


def test_clipping_bounds_the_whole_gradient():
    def move(clip):
        config = SGD(learning_rate=0.5, clip_norm=clip)
        state = start(Toy(), PLAIN)
        tx = make_optimizer(config, Constant(), 10, state.params)
        state = start(Toy(), tx)
        after, _ = compiled(Toy(), tx)(state, batch(6))
        return jax.tree.map(lambda a, b: a - b, after.params, state.params)

    free = move(None)
    norm = float(optax.tree.norm(free)) / 0.5
    clipped = move(norm / 3)
    np.testing.assert_allclose(optax.tree.norm(clipped), 0.5 * norm / 3, rtol=1e-5)
    assert_close(clipped, jax.tree.map(lambda x: x / 3, free))


def test_the_optimiser_is_given_the_mean_loss():
    def update(grads, opt_state, params=None, *, value):
        return jax.tree.map(jnp.zeros_like, grads), value

    spy = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    for parts in (1, 3):
        state, sums = compiled(Toy(), spy, accumulation_steps=parts)(start(Toy(), spy), batch(6))
        np.testing.assert_allclose(state.opt_state, sums["loss"] / 6, rtol=1e-6)


def test_plateau_cuts_the_rate_of_a_loss_that_stands_still():
    schedule = Plateau(factor=0.5, window=1, patience=2)
    config = SGD(learning_rate=1e-12)
    tx = make_optimizer(config, schedule, 20, start(Toy(), PLAIN).params)
    step, state = compiled(Toy(), tx), start(Toy(), tx)
    for _ in range(8):
        state, _ = step(state, batch(6))
    scales = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state) if "scale" in str(path)]
    assert any(float(scale) < 1 for scale in scales)


def test_dropout_differs_by_step_and_by_part_and_repeats():
    model, still, data = Toy(dropout=0.5), optax.with_extra_args_support(optax.set_to_zero()), batch(1)
    step = compiled(model, still)
    state = start(model, still)
    losses = []
    for _ in range(6):
        after, sums = step(state, data)
        assert step(state, data)[1]["loss"] == sums["loss"]
        losses.append(float(sums["loss"]))
        state = after
    assert len(set(losses)) > 1
    other = start(model, still).replace(key=jax.random.key_data(jax.random.key(1)))
    assert any(
        float(step(other.replace(step=jnp.int32(k)), data)[1]["loss"]) != losses[k] for k in range(6)
    )  # another seed

    same = jax.tree.map(lambda x: np.repeat(x, 2, axis=0), data)
    halves = compiled(model, still, accumulation_steps=2)
    assert any(
        float(halves(start(model, still).replace(step=jnp.int32(k)), same)[1]["loss"]) != 2 * losses[k]
        for k in range(6)
    )


@pytest.mark.parametrize("model", [Toy(norm=True, dtype=jnp.bfloat16), resnet_tiny(dtype=jnp.bfloat16, stem="cifar")])
def test_bfloat16_is_the_type_of_the_computation_alone(model):
    state = state_like(model, HEAVY, images(4), ema=True)
    data = {
        "image": images(4),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((4,), bool),
    }
    step = make_train_step(model, HEAVY, TASK, ema_decay=0.9)
    after, sums = jax.eval_shape(step, state, data)
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves((after.params, after.batch_stats, after.ema))}
    assert dtypes == {"float32"}
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
    assert sums["loss"].dtype == jnp.float32
    _, collected = jax.eval_shape(make_eval_step(model, TASK), state.variables, data)
    assert collected["logits"].dtype == jnp.float32
    convolutions = [line for line in str(jax.make_jaxpr(step)(state, data)).splitlines() if "= convolve" in line]
    assert convolutions
    assert all(":bf16[" in line for line in convolutions)


def test_bfloat16_learns_like_float32():
    losses = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        model, tx = Toy(norm=True, dtype=dtype), optax.sgd(0.1)
        step, state, losses[dtype] = compiled(model, tx), start(model, tx), []
        for _ in range(10):
            state, sums = step(state, batch(8))
            losses[dtype].append(float(sums["loss"]) / 8)
    np.testing.assert_allclose(losses[jnp.bfloat16], losses[jnp.float32], rtol=0.02)
    assert losses[jnp.float32][-1] < losses[jnp.float32][0] - 0.02


def test_evaluation_step():
    model = Toy(norm=True, dropout=0.5)
    state, data = start(model, PLAIN), batch(6)
    sums, collected = jax.jit(make_eval_step(model, TASK))(state.variables, data)
    logits = collected["logits"]
    np.testing.assert_allclose(logits, model.apply(state.variables, data["image"]), rtol=1e-5, atol=1e-5)
    expected = {"loss": TASK.losses(logits, data).sum(), "task": TASK.sums(logits, data), "count": 6, "seen": 6}
    assert_close(sums, expected)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
@pytest.mark.parametrize(("devices", "parts"), [(1, 1), (1, 2), (4, 1), (2, 2), (8, 1)])
def test_the_mean_is_over_the_examples_that_count_wherever_they_are(devices, parts, mode):
    """Parts of a batch, on devices or one after the other, have different numbers of them, or none."""
    state, data = start(Linear(), PLAIN), batch(8)
    mask = np.array([1, 1, 1, 0, 0, 0, 1, 0], bool)
    found, sums = one_step(Linear(), data | {"mask": mask}, Parallel(8, mode, devices), accumulation_steps=parts)
    some = {name: values[mask] for name, values in data.items()}
    expected, expected_sums = compiled(Linear(), PLAIN)(state, some)
    assert_close(found.params, expected.params)
    assert_close(sums, expected_sums)
    assert sums["count"] == mask.sum()


def one_step(model, data, parallel, task=TASK, **options):
    step = make_train_step(model, PLAIN, task, axis_name=parallel.axis_name, **options)
    return parallel.compile_train(step, lambda batch: batch)(parallel.place(start(model, PLAIN)), data)


@dataclass(frozen=True, kw_only=True)
class Weighted(Classification):
    """Each example counts as much as its weight, not as one."""

    def losses(self, outputs, batch):
        return batch["weight"] * super().losses(outputs, batch)

    def count(self, batch):
        return batch["weight"].sum()


@pytest.mark.parametrize(("devices", "parts"), [(1, 1), (1, 2), (4, 1)])
def test_what_divides_may_be_any_number_above_0(devices, parts):
    parallel, data = Parallel(8, devices=devices), batch(8)
    weight = np.arange(8, dtype=np.float32) / 100  # of 0.28 in all
    found, sums = one_step(Linear(), data | {"weight": weight}, parallel, Weighted(), accumulation_steps=parts)
    np.testing.assert_allclose(sums["count"], 0.28, rtol=1e-6)
    hundredfold = data | {"weight": 100 * weight}
    assert_close(found.params, one_step(Linear(), hundredfold, Parallel(8, devices=1), Weighted())[0].params)


def test_where_nothing_counts_nothing_moves():
    data = batch(4) | {"mask": np.zeros(4, bool)}
    state, sums = compiled(Toy(), PLAIN)(start(Toy(), PLAIN), data)
    assert_same_bits(state.params, start(Toy(), PLAIN).params)
    assert (sums["loss"], sums["count"], state.step) == (0, 0, 1)


@pytest.mark.parametrize("devices", [1, 4])
def test_norms_are_those_of_gradient_update_and_parameters(devices):
    tx, data, parallel = (
        optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(0.5)),
        batch(8),
        Parallel(8, devices=devices),
    )
    step = make_train_step(Toy(), tx, TASK, norms=True, axis_name=parallel.axis_name)
    before = host(start(Toy(), tx).params)
    state, sums = parallel.compile_train(step, lambda batch: batch)(parallel.place(start(Toy(), tx)), data)
    free, _ = compiled(Toy(), optax.sgd(1.0))(start(Toy(), optax.sgd(1.0)), data)
    gradient = jax.tree.map(lambda a, b: a - np.asarray(b), before, free.params)
    update = jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, before)
    assert sums["norms"].keys() == {"gradient", "update", "parameters"}
    np.testing.assert_allclose(sums["norms"]["gradient"], optax.tree.norm(gradient), rtol=1e-4)  # before clipping
    np.testing.assert_allclose(sums["norms"]["update"], 0.5e-3, rtol=1e-5)
    np.testing.assert_allclose(optax.tree.norm(update), 0.5e-3, rtol=1e-3)
    np.testing.assert_allclose(sums["norms"]["parameters"], optax.tree.norm(host(state.params)), rtol=1e-5)
