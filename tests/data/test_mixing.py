"""Two examples in one: the images, the labels, and what is masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data.augment import augment
from jaxcnn.data.fields import Boxes, ClassMap, Image, Label, Value
from jaxcnn.data.transforms.mixing import CutMix, Mixup
from jaxcnn.errors import UsageError
from jaxcnn.tasks import Classification

CLASSES, COUNT = 8, 64
FIELDS = {"image": Image(), "label": Label(tuple("abcdefgh"))}
both = pytest.mark.parametrize("kind", [Mixup, CutMix])


def batch_of(masked=()):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (COUNT, 8, 6, 3)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, CLASSES, COUNT), jnp.int32),
        "mask": jnp.ones(COUNT, bool).at[jnp.array(masked, jnp.int32)].set(False),
    }


def mixed(transforms, batch, seed=0):
    return {k: np.asarray(v) for k, v in augment(transforms, jax.random.key(seed), batch, FIELDS).items()}


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


@both
def test_the_label_is_found_by_its_kind(kind):
    batch = batch_of()
    named = {"image": batch["image"], "species": batch["label"], "mask": batch["mask"]}
    fields = {"species": FIELDS["label"], "image": Image()}
    out = augment((kind(alpha=8.0),), jax.random.key(0), named, fields)
    ours = mixed((kind(alpha=8.0),), batch)
    for name, theirs in {"image": "image", "label": "species", "target": "target", "mask": "mask"}.items():
        np.testing.assert_array_equal(ours[name], out[theirs])


@both
def test_further_images_are_mixed_alike(kind):
    batch = batch_of((3, 7))
    batch |= {"second": batch["image"], "depth": batch["image"].astype(jnp.float32) * 100}
    fields = {**FIELDS, "second": Image(), "depth": Image()}
    out = augment((kind(alpha=8.0),), jax.random.key(0), batch, fields)
    np.testing.assert_array_equal(out["second"], out["image"])
    np.testing.assert_allclose(out["depth"], 100 * np.asarray(out["image"], np.float32), rtol=1e-5, atol=1e-3)
    assert (np.asarray(out["image"]) != np.asarray(batch["image"])).any()


def test_cutmix_pastes_class_maps_along():
    batch = batch_of((5,))
    batch["map"] = batch["image"][..., 0]
    out = mixed_with((CutMix(),), batch, {**FIELDS, "map": ClassMap(("a", "b"))})
    np.testing.assert_array_equal(out["map"], out["image"][..., 0])
    assert (out["map"] != batch["map"]).mean() > 0.1 and out["map"].dtype == jnp.uint8
    np.testing.assert_allclose(out["target"].sum(1), 1, atol=1e-6)
    del batch["label"]
    without = mixed_with((CutMix(),), batch, {"image": Image(), "map": ClassMap(("a", "b"))})
    assert without.keys() == {"image", "map", "mask"}
    np.testing.assert_array_equal(without["map"], out["map"])


def mixed_with(transforms, batch, fields):
    return jax.jit(lambda batch: augment(transforms, jax.random.key(0), batch, fields))(batch)


def boxes(count):
    return {"corners": jnp.ones((count, 2, 4)), "label": jnp.ones((count, 2), int), "mask": jnp.ones((count, 2), bool)}


OTHERS = {
    "boxes": (Boxes(("a",), most=2), boxes(COUNT), "cannot mix field 'boxes': Boxes is a kind that has no mixture"),
    "angle": (Value(), jnp.ones(COUNT), "cannot mix field 'angle': Value is a kind that has no mixture"),
    "map": (
        ClassMap(("a",)),
        jnp.ones((COUNT, 8, 6), jnp.uint8),
        "cannot mix field 'map': ClassMap is a kind that has",
    ),
    "coarse": (Label(("a",)), jnp.ones(COUNT, int), "mixes one label: 'label' and 'coarse' are both labels"),
    "target": (
        Image(),
        jnp.ones((COUNT, 8, 6, 3)),
        "writes mixed labels to 'target': give the field of that name anot",
    ),
    "small": (Image(), jnp.ones((COUNT, 4, 6, 3)), ": field 'small' is 4x6: expected 8x6 as the image"),
}


@both
@pytest.mark.parametrize("name", OTHERS)
def test_what_has_no_mixture(kind, name):
    if kind is CutMix and name == "map":
        pytest.skip("is pasted")
    field, values, message = OTHERS[name]
    with pytest.raises(UsageError, match=f"^{kind.__name__} ?{message}"):
        augment((kind(),), jax.random.key(0), {**batch_of(), name: values}, {**FIELDS, name: field})


def test_the_loss_takes_the_mixed_labels():
    """Against float64; smoothing comes on top, masked examples have no loss, and accuracy goes by the label."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(COUNT, CLASSES)).astype(np.float32)
    out = mixed((Mixup(alpha=1.0),), batch_of((5,)))
    batch = {name: jnp.asarray(value) for name, value in out.items()}
    log_p = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    target = 0.9 * out["target"] + 0.1 / CLASSES
    losses = np.where(out["mask"], -(target * log_p).sum(1), 0)
    task = Classification(label_smoothing=0.1)
    np.testing.assert_allclose(task.losses(jnp.asarray(logits), batch), losses, rtol=1e-5)
    sums = task.sums(jnp.asarray(logits), batch)
    assert sums["count"] == task.count(batch) == COUNT - 1
    assert sums["correct"] == ((logits.argmax(1) == out["label"]) & out["mask"]).sum()
    hard = {name: value for name, value in batch.items() if name != "target"}
    one_hot = {**hard, "target": jax.nn.one_hot(batch["label"], CLASSES)}
    np.testing.assert_array_equal(task.losses(logits, hard), task.losses(logits, one_hot))
