"""Loss and metrics against plain numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.errors import UsageError
from jaxcnn.models.base import WithAux
from jaxcnn.models.googlenet import googlenet_tiny
from jaxcnn.tasks import Classification
from jaxcnn.train.state import create_state
from jaxcnn.train.step import make_eval_step, make_train_step


def batch_of(labels, mask=None):
    labels = jnp.asarray(labels, jnp.int32)
    return {"label": labels, "mask": jnp.ones(len(labels), bool) if mask is None else jnp.asarray(mask)}


def cross_entropy(logits, labels, smoothing=0.0):
    """Return each example's loss in float64: -sum of target * log softmax."""
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    log_p -= logits.max(-1, keepdims=True)
    classes = logits.shape[-1]
    target = np.full(logits.shape, smoothing / classes)
    target[np.arange(len(labels)), labels] += 1 - smoothing
    return -(target * log_p).sum(-1)


def right_at(logits, labels, k):
    """Count in plain Python: right where fewer than k other classes score at least as high, NaN counting as high."""
    count = 0
    for row, label in zip(np.asarray(logits).tolist(), labels, strict=True):
        rivals = sum(not score < row[label] for number, score in enumerate(row) if number != label)
        count += rivals < k
    return count


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10**6), st.sampled_from([1, 6]), st.sampled_from([2, 7]), st.sampled_from([0.0, 0.1, 0.9])
)  # few shapes: each compiles
def test_loss_and_sums(seed, n, classes, smoothing):
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(scale=3, size=(n, classes))).astype(np.float32)  # rounded: ties are common
    labels, mask = rng.integers(0, classes, n), rng.random(n) < 0.7
    batch, kept = batch_of(labels, mask), np.flatnonzero(mask)
    task = Classification(label_smoothing=smoothing)
    losses = task.losses(jnp.asarray(logits), batch)
    smoothed = np.where(mask, cross_entropy(logits, labels, smoothing), 0.0)
    np.testing.assert_allclose(losses, smoothed, rtol=1e-5, atol=1e-5)
    assert task.count(batch) == len(kept)
    sums = task.sums(jnp.asarray(logits), batch)
    np.testing.assert_allclose(sums["loss"], cross_entropy(logits, labels)[kept].sum(), rtol=1e-5, atol=1e-5)
    assert sums["count"] == len(kept)
    assert sums["correct"] == right_at(logits[kept], labels[kept], 1)
    assert ("correct_top5" in sums) == (classes > 5)
    assert classes == 2 or sums["correct_top5"] == right_at(logits[kept], labels[kept], 5)


def test_ties_and_nan_are_mistakes():
    nan = np.nan
    logits = jnp.array([[1.0, 1, 0], [2, 1, 0], [0, 0, 0], [nan, nan, nan], [5, nan, 0], [nan, 1, 0]], jnp.float32)
    sums = Classification().sums(logits, batch_of([0, 0, 1, 2, 0, 0]))
    assert sums["correct"] == 1  # the second alone
    assert sums["count"] == 6
    nothing = Classification().sums(jnp.full((4, 10), nan), batch_of([0, 1, 2, 3]))
    assert nothing["correct"] == nothing["correct_top5"] == 0


def test_top5_is_the_fifth_place_and_not_the_sixth():
    logits = -jnp.arange(7, dtype=jnp.float32)[None].repeat(7, 0)
    sums = Classification().sums(logits, batch_of(range(7)))
    assert (sums["correct"], sums["correct_top5"]) == (1, 5)


def test_a_masked_example_counts_nowhere_whatever_it_holds():
    task = Classification(label_smoothing=0.1)
    logits = jnp.array([[2.0, 1, 0], [0, 1, 0]], jnp.float32)
    padded = jnp.concatenate([logits, jnp.full((2, 3), jnp.nan)])
    batch = batch_of([0, 1, 0, 2], [True, True, False, False])
    np.testing.assert_array_equal(task.losses(padded, batch), [*task.losses(logits, batch_of([0, 1])), 0, 0])
    jax.tree.map(np.testing.assert_array_equal, task.sums(padded, batch), task.sums(logits, batch_of([0, 1])))
    nowhere = batch_of([0, 1, 0, 2], [False] * 4)
    np.testing.assert_array_equal(task.losses(padded, nowhere), np.zeros(4))
    assert task.count(nowhere) == 0 and not any(jax.tree.leaves(task.sums(padded, nowhere)))
    gradient = jax.grad(lambda x: task.losses(x, batch).sum())(padded.at[2:].set(1e4))
    assert np.all(gradient[2:] == 0)
    assert np.all(gradient[:2] != 0)


def test_metrics():
    sums = {"loss": 6.0, "correct": 1, "count": 4}
    assert Classification().metrics(sums) == {"loss": 1.5, "accuracy": 0.25}
    assert Classification().metrics(sums | {"correct_top5": 2}) == {"loss": 1.5, "accuracy": 0.25, "top5_error": 0.5}


def test_targets_of_mixed_labels_take_the_place_of_labels_in_the_loss():
    """A model may have more logits than the data have classes: nothing of the mass is theirs but by smoothing."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 7)).astype(np.float32)
    target = rng.dirichlet(np.ones(5), size=4).astype(np.float32)
    batch = batch_of([0, 1, 2, 3], [True, True, True, False])
    losses = Classification(label_smoothing=0.1).losses(logits, batch | {"target": jnp.asarray(target)})
    each = np.stack([cross_entropy(logits, [k] * 4) for k in range(7)], 1)
    smoothed = 0.9 * np.pad(target, ((0, 0), (0, 2))) + 0.1 / 7
    np.testing.assert_allclose(losses, [*(smoothed * each).sum(1)[:3], 0.0], rtol=1e-5)


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_label_smoothing_range(value):
    with pytest.raises(UsageError, match=r"task\.label_smoothing is .*: expected a finite number in \[0, 1\)"):
        Classification(label_smoothing=value)


def test_auxiliary_heads_add_to_the_loss_and_not_to_the_metrics():
    rng = np.random.default_rng(0)
    main, first, second = rng.normal(size=(3, 4, 7)).astype(np.float32)
    labels, kept = [0, 3, 6, 2], [0, 1, 3]
    batch = batch_of(labels, [True, True, False, True])
    main_loss, first_loss, second_loss = (cross_entropy(x, labels, 0.1)[kept].mean() for x in (main, first, second))
    task = Classification(label_smoothing=0.1)
    outputs = WithAux(main, (first, second), 0.3)
    loss = task.losses(outputs, batch).sum() / 3
    np.testing.assert_allclose(loss, main_loss + 0.3 * (first_loss + second_loss), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, task.sums(outputs, batch), task.sums(main, batch))
    np.testing.assert_array_equal(task.collect(outputs, batch)["logits"], main)
    np.testing.assert_array_equal(task.predict(outputs), task.predict(main))


@pytest.mark.slow
def test_a_training_step_moves_the_auxiliary_heads():
    model, tx, task = googlenet_tiny(aux_heads=True), optax.sgd(1e-2), Classification()
    image = jax.random.normal(jax.random.key(1), (4, 80, 80, 3))
    batch = {"image": image, **batch_of([0, 1, 2, 3])}
    state = create_state(model.init(jax.random.key(0), image), tx, jax.random.key(0))
    after, _ = jax.jit(make_train_step(model, tx, task))(state, batch)
    for name in ("aux1", "aux2", "head"):
        moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params[name], after.params[name])
        assert all(jax.tree.leaves(moved)), name
    _, collected = jax.jit(make_eval_step(model, task))(after.variables, batch)
    assert collected["logits"].shape == (4, 5)
