"""Two examples in one: the images, the labels, and what is masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data.augment import augment
from jaxcnn.data.transforms.mixing import CutMix, Mixup
from jaxcnn.tasks import Classification

CLASSES, COUNT = 8, 64
both = pytest.mark.parametrize("kind", [Mixup, CutMix])


def batch_of(masked=()):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (COUNT, 8, 6, 3)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, CLASSES, COUNT), jnp.int32),
        "mask": jnp.ones(COUNT, bool).at[jnp.array(masked, jnp.int32)].set(False),
    }


def mixed(transforms, batch, seed=0):
    return {k: np.asarray(v) for k, v in augment(transforms, jax.random.key(seed), batch, CLASSES).items()}


@both
@pytest.mark.parametrize("alpha", [0.2, 8.0])
def test_the_mass_of_each_label_is_one(kind, alpha):
    out = mixed((kind(alpha=alpha),), batch_of())
    assert out["target"].dtype == np.float32 and out["target"].shape == (COUNT, CLASSES)
    np.testing.assert_allclose(out["target"].sum(1), 1, atol=1e-6)
    assert out["target"].min() >= 0 and ((out["target"] > 0).sum(1) <= 2).all()
    leading = out["target"][np.arange(COUNT), out["label"]]
    assert (leading >= out["target"].max(1) - 1e-6).all(), "the label that leads"
    twice = mixed((kind(alpha=alpha), Mixup(alpha=1.0)), batch_of())
    np.testing.assert_allclose(twice["target"].sum(1), 1, atol=1e-6)


def test_mixup_blends_by_the_share_of_the_label():
    batch = batch_of()
    batch["label"] = jnp.arange(COUNT, dtype=jnp.int32) % CLASSES  # a partner has another label
    out = mixed((Mixup(alpha=1.0),), batch)
    label, images = np.asarray(batch["label"]), np.asarray(batch["image"], np.float32)
    share = out["target"][np.arange(COUNT), label][:, None, None, None]
    expected = share * images + (1 - share) * np.roll(images, 1, axis=0)
    np.testing.assert_allclose(out["image"], expected, atol=1e-3)
    assert 0.4 < share.mean() < 0.6 and share.std() == pytest.approx(0.289, abs=0.06), "Beta(1, 1) is uniform"


def test_cutmix_pastes_by_the_share_of_the_label():
    batch = batch_of()
    batch["label"] = jnp.arange(COUNT, dtype=jnp.int32) % CLASSES
    batch["image"] = jnp.broadcast_to(jnp.arange(COUNT, dtype=jnp.uint8)[:, None, None, None], (COUNT, 8, 6, 3))
    out = mixed((CutMix(),), batch)
    own, partner = np.arange(COUNT), np.roll(np.arange(COUNT), 1)
    pasted = (out["image"] == partner[:, None, None, None]).all(-1)
    assert ((out["image"] == own[:, None, None, None]).all(-1) ^ pasted).all()
    assert (pasted.sum((1, 2)) == pasted.any(2).sum(1) * pasted.any(1).sum(1)).all(), "a rectangle"
    share = out["target"][own, np.asarray(batch["label"])]
    np.testing.assert_allclose(1 - share, pasted.mean((1, 2)), atol=1e-6)
    assert 0 < pasted.mean() < 0.5


@both
def test_what_is_masked_is_not_mixed(kind):
    masked = (3, 10, 11)
    out, plain = mixed((kind(alpha=8.0),), batch_of(masked)), batch_of(masked)
    left = sorted({n for m in masked for n in (m, m + 1)})
    np.testing.assert_array_equal(out["image"][left], plain["image"][jnp.array(left)])
    np.testing.assert_array_equal(out["target"][left], np.eye(CLASSES)[np.asarray(plain["label"])[left]])
    np.testing.assert_array_equal(out["label"][left], np.asarray(plain["label"])[left])
    np.testing.assert_array_equal(out["mask"], plain["mask"])


@both
def test_the_share_of_images_that_are_mixed(kind):
    out, plain = mixed((kind(alpha=8.0, probability=0.25),), batch_of()), batch_of()
    share = (out["image"] != np.asarray(plain["image"])).any((1, 2, 3)).mean()
    assert 0.1 < share < 0.42


def test_the_loss_takes_the_mixed_labels():
    """Against float64; smoothing comes on top, masked examples have no loss, and accuracy goes by the label."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(COUNT, CLASSES)).astype(np.float32)
    out = mixed((Mixup(alpha=1.0),), batch_of((5,)))
    batch = {name: jnp.asarray(value) for name, value in out.items()}
    log_p = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    target = 0.9 * out["target"] + 0.1 / CLASSES
    losses = np.where(out["mask"], -(target * log_p).sum(1), 0)
    _, sums = Classification(label_smoothing=0.1).loss(jnp.asarray(logits), batch)
    np.testing.assert_allclose(sums["loss"], losses.sum(), rtol=1e-5)
    assert sums["count"] == COUNT - 1
    assert sums["correct"] == ((logits.argmax(1) == out["label"]) & out["mask"]).sum()
    hard = {name: value for name, value in batch.items() if name != "target"}
    one_hot = {**hard, "target": jax.nn.one_hot(batch["label"], CLASSES)}
    task = Classification(label_smoothing=0.1)
    np.testing.assert_array_equal(task.loss(logits, hard)[1]["loss"], task.loss(logits, one_hot)[1]["loss"])
