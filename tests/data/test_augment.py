"""What all transforms have in common, the order they are applied in, and normalisation."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

import jaxcnn
from jaxcnn.data.augment import (
    Affine,
    Augmentation,
    AutoAugment,
    ColorJitter,
    CutMix,
    Cutout,
    Erasing,
    Flip,
    Grayscale,
    Lighting,
    Mixup,
    PadCrop,
    RandAugment,
    TrivialAugment,
    augment,
)
from jaxcnn.data.fields import Image, Label, Value
from jaxcnn.data.norms import normalize
from jaxcnn.data.transforms.base import Transform
from jaxcnn.errors import UsageError
from jaxcnn.parts import Part
from jaxcnn.typed import NotNegative, check, to_json, variants

# One of each kind that changes something, and one that changes nothing.
PAIRS = {
    Flip(): Flip(probability=0.0),
    PadCrop(): PadCrop(pad=0),
    Affine(degrees=30, shear=10, scale=(0.8, 1.2), translate=(0.1, 0.2), interpolation="bilinear"): Affine(),
    ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1): ColorJitter(),
    Grayscale(probability=0.5): Grayscale(probability=0.0),
    Lighting(std=1.0): Lighting(std=0.0),
    RandAugment(magnitude=20): RandAugment(operations=0),
    AutoAugment(): None,
    TrivialAugment(): None,
    Cutout(size=12): Cutout(size=0),
    Erasing(): Erasing(probability=0.0),
    Mixup(alpha=1.0): Mixup(alpha=0.0),
    CutMix(): CutMix(alpha=0.0),
}
MIXING = (Mixup, CutMix)
each = pytest.mark.parametrize("transform", PAIRS, ids=[transform.kind for transform in PAIRS])


def batch_of(count=12, size=32, channels=3, seed=0):
    """Smooth images with some noise, all examples of classes of their own."""
    rng = np.random.default_rng(seed)
    ramps = rng.uniform(0, 120, (count, 1, 1, channels)) + rng.uniform(0, 4, (count, size, 1, 1)).cumsum(1)
    images = np.clip(ramps + rng.normal(0, 8, (count, size, size, channels)), 0, 255).astype(np.uint8)
    labels = np.arange(count, dtype=np.int32)
    return {"image": jnp.asarray(images), "label": jnp.asarray(labels), "mask": jnp.ones(count, bool)}


BATCH, KEY = batch_of(), jax.random.key(3)
FIELDS = {"image": Image(), "label": Label(tuple("abcdefghijkl"))}


def jitted(transform):
    """The transform as a compiled function of (key, batch), the same one for equal transforms."""
    if transform not in _COMPILED:
        _COMPILED[transform] = jax.jit(lambda key, batch: augment((transform,), key, batch, FIELDS))
    return _COMPILED[transform]


_COMPILED: dict = {}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_there_is_one_of_each_kind():
    kinds = variants(Augmentation)
    assert {type(transform) for transform in PAIRS} == set(kinds.values())
    assert all(issubclass(kind, Transform) and kind().kind == name for name, kind in kinds.items())
    assert all(getattr(jaxcnn, kind.__name__) is kind for kind in kinds.values())


@each
def test_shapes_types_and_ranges(transform):
    out = jitted(transform)(KEY, BATCH)
    kinds = {"image": jnp.float32 if isinstance(transform, Mixup) else jnp.uint8, "label": jnp.int32, "mask": bool}
    if isinstance(transform, MIXING):
        kinds["target"] = jnp.float32
    assert {name: value.dtype for name, value in out.items()} == kinds
    assert out["image"].shape == BATCH["image"].shape
    changed = (np.asarray(out["image"]) != np.asarray(BATCH["image"])).any((1, 2, 3))
    assert changed.sum() >= 2, "hardly an image was changed"
    assert out["image"].min() >= 0 and out["image"].max() <= 255
    if not isinstance(transform, MIXING):
        np.testing.assert_array_equal(out["label"], BATCH["label"])


@each
def test_the_key_decides(transform):
    first, again, other = (jitted(transform)(jax.random.key(seed), BATCH) for seed in (0, 0, 1))
    assert_same(first, again)
    assert (np.asarray(first["image"]) != np.asarray(other["image"])).any()


@each
def test_an_image_depends_on_no_other(transform):
    if isinstance(transform, MIXING):
        pytest.skip("mixes images")
    others = {**BATCH, "image": BATCH["image"].at[1:].set(batch_of(seed=1)["image"][1:])}
    ours, theirs = (jitted(transform)(KEY, batch)["image"] for batch in (BATCH, others))
    np.testing.assert_array_equal(ours[0], theirs[0])
    turned = jitted(transform)(KEY, {**BATCH, "image": jnp.broadcast_to(BATCH["image"][:1], BATCH["image"].shape)})
    assert (np.asarray(turned["image"])[1:] != np.asarray(turned["image"])[:1]).any(), "all images draw the same"


def test_nothing_at_magnitude_zero():
    nothing = tuple(transform for transform in PAIRS.values() if transform)
    out = jax.jit(lambda key, batch: augment(nothing, key, batch, FIELDS))(KEY, BATCH)
    np.testing.assert_array_equal(out["image"], BATCH["image"])
    np.testing.assert_array_equal(out["label"], BATCH["label"])
    np.testing.assert_array_equal(out["target"], np.eye(12))


@pytest.mark.parametrize("transform", [t for t in PAIRS if isinstance(t, (Affine, Grayscale))])
def test_float32_images_hold_the_same(transform):
    """Whole numbers in float32 come out as the same whole numbers in float32."""
    out = jitted(transform)(KEY, {**BATCH, "image": BATCH["image"].astype(jnp.float32)})["image"]
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, jitted(transform)(KEY, BATCH)["image"])


FAST = [transform for transform in PAIRS if isinstance(transform, (Flip, PadCrop, Grayscale))]


def eager_and_mapped(transform):
    assert_same(augment((transform,), KEY, BATCH, FIELDS), jitted(transform)(KEY, BATCH))
    keys, batches = jax.random.split(KEY, 2), jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), BATCH)
    mapped = jax.jit(jax.vmap(lambda key, batch: augment((transform,), key, batch, FIELDS)))(keys, batches)
    for number in range(2):
        one = jax.tree.map(lambda x: x[number], batches)  # noqa: B023
        assert_same(jax.tree.map(lambda x: x[number], mapped), jitted(transform)(keys[number], one))  # noqa: B023


@pytest.mark.parametrize("transform", FAST, ids=lambda transform: transform.kind)
def test_jitted_eager_and_mapped_are_the_same_bits(transform):
    eager_and_mapped(transform)


@pytest.mark.slow
@pytest.mark.parametrize("transform", [t for t in PAIRS if t not in FAST], ids=lambda transform: transform.kind)
def test_jitted_eager_and_mapped_are_the_same_bits_for_the_others(transform):
    eager_and_mapped(transform)


def test_the_order_and_the_keys():
    transforms = (PadCrop(pad=3), Flip(), Cutout(size=4))
    keys = jax.random.split(KEY, 3)
    expected = BATCH
    for key, transform in zip(keys, transforms, strict=True):
        expected = transform(key, expected, FIELDS)
    assert_same(augment(transforms, KEY, BATCH, FIELDS), expected)
    assert augment((), KEY, BATCH, FIELDS) == BATCH
    # One more at the end changes no draw of the others.
    assert_same(augment((*transforms, Flip(probability=0.0)), KEY, BATCH, FIELDS), expected)


@pytest.mark.parametrize(
    ("transforms", "sha256"),
    [
        ((PadCrop(pad=2), Flip()), "696ef7e29b08fd54"),
        ((PadCrop(pad=2, mode="reflect"), Flip()), "edd103e0aa70c003"),
        ((PadCrop(pad=2),), "f2b0a3ec2878bd6c"),
    ],
    ids=str,
)
def test_the_bits_that_runs_were_recorded_with(transforms, sha256):
    """What results/ was trained on: random images by numpy's generator, in the order of a recorded epoch."""
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 6, 3)).astype(np.uint8)
    chosen = np.array([19, 3, 0, 5, 6, 14, 11, 10, 16, 8, 0, 4, 1, 13, 2, 9])
    batch = {"image": jnp.asarray(images[chosen]), "label": jnp.asarray(chosen), "mask": jnp.ones(16, bool)}
    out = augment(transforms, jax.random.key(3), batch, FIELDS)["image"]
    assert hashlib.sha256(np.asarray(out).tobytes()).hexdigest()[:16] == sha256


def test_sharded_over_eight_devices():
    transforms, batch = (PadCrop(pad=2), Flip(), Mixup(alpha=0.0)), batch_of(16, size=8)
    run = jax.jit(lambda key, batch: augment(transforms, key, batch, FIELDS))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    spread = jax.jit(run, out_shardings=sharding)(KEY, jax.device_put(batch, sharding))
    assert len(spread["image"].sharding.device_set) == 8
    assert_same(run(KEY, batch), spread)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Flip, {"probability": 1.5}, "Flip.probability is 1.5: expected a finite number in [0, 1]"),
        (Flip, {"probability": float("nan")}, "Flip.probability is nan: expected a finite number in [0, 1]"),
        (PadCrop, {"pad": -1}, "PadCrop.pad is -1: expected a whole number, 0 or more"),
        (PadCrop, {"pad": "4"}, "PadCrop.pad is '4': expected a whole number, 0 or more"),
        (PadCrop, {"mode": "zeros"}, "unknown PadCrop.mode 'zeros': did you mean 'zero'?"),
        (Affine, {"degrees": 181}, "Affine.degrees is 181: expected a finite number in [0, 180]"),
        (Affine, {"shear": 90}, "Affine.shear is 90: expected a finite number in [0, 89]"),
        (
            Affine,
            {"scale": (1.2, 0.8)},
            "Affine.scale is (1.2, 0.8): expected 2 finite numbers in [0.01, 100], in rising",
        ),
        (Affine, {"translate": (0.1,)}, "Affine.translate is (0.1,): expected 2 finite numbers in [0, 1]"),
        (ColorJitter, {"contrast": -0.1}, "ColorJitter.contrast is -0.1: expected a finite number, 0 or more"),
        (ColorJitter, {"hue": 0.6}, "ColorJitter.hue is 0.6: expected a finite number in [0, 0.5]"),
        (Lighting, {"std": -1}, "Lighting.std is -1: expected a finite number, 0 or more"),
        (RandAugment, {"magnitude": 31}, "RandAugment.magnitude is 31: expected 0 to 30, its levels"),
        (RandAugment, {"magnitude": 11, "levels": 10}, "RandAugment.magnitude is 11: expected 0 to 10, its levels"),
        (RandAugment, {"levels": 0}, "RandAugment.levels is 0: expected a whole number in [1, 1000]"),
        (TrivialAugment, {"fill": 256}, "TrivialAugment.fill is 256: expected a whole number in [0, 255]"),
        (AutoAugment, {"policy": "cifar"}, "unknown AutoAugment.policy 'cifar': did you mean 'cifar10'?"),
        (Cutout, {"size": -1}, "Cutout.size is -1: expected a whole number, 0 or more"),
        (Erasing, {"area": 0.3}, "Erasing.area is 0.3: expected 2 finite numbers in [0, 1], in rising order"),
        (Erasing, {"aspect": (0, 1)}, "Erasing.aspect is (0, 1): expected 2 finite numbers in [0.01, 100], in rising"),
        (Mixup, {"alpha": -0.2}, "Mixup.alpha is -0.2: expected a finite number, 0 or more"),
        (CutMix, {"probability": 2}, "CutMix.probability is 2: expected a finite number in [0, 1]"),
    ],
)
def test_fields_that_cannot_be(kind, fields, message):
    with pytest.raises(UsageError) as error:
        kind(**fields)
    assert str(error.value).startswith(message)


def test_images_that_cannot_be():
    two = batch_of(channels=2)
    for transform in (ColorJitter(hue=0.1), Grayscale(), RandAugment(), AutoAugment(), TrivialAugment()):
        with pytest.raises(
            UsageError, match=f"{type(transform).__name__}: the images have 2 channels: expected 1 or 3"
        ):
            augment((transform,), KEY, two, FIELDS)
    with pytest.raises(UsageError, match="Lighting: the images have 1 channels: expected 3"):
        augment((Lighting(),), KEY, batch_of(channels=1), FIELDS)
    with pytest.raises(UsageError, match=r"PadCrop\.pad is 32: expected 0 to 31 for images of 32x32"):
        augment((PadCrop(pad=32, mode="reflect"),), KEY, BATCH, FIELDS)


def test_a_batch_that_cannot_be():
    values = {"wave": Value((3,))}
    batch = {"wave": jnp.ones((4, 3)), "mask": jnp.ones(4, bool)}
    for transform in PAIRS:
        if not isinstance(transform, MIXING):
            with pytest.raises(
                UsageError, match=f"^{type(transform).__name__} changes the field 'image', an Image, which"
            ):
                augment((transform,), KEY, batch, values)
    with pytest.raises(UsageError, match="the batch to augment has no 'label': it has image, mask"):
        augment((Flip(),), KEY, {name: BATCH[name] for name in ("image", "mask")}, FIELDS)
    with pytest.raises(UsageError, match="the batch to augment has no 'mask': it has image, label"):
        augment((Flip(),), KEY, {name: BATCH[name] for name in ("image", "label")}, FIELDS)


# A user's own.


@dataclass(frozen=True)
class Noise(Transform):
    std: NotNegative = 8.0

    def images(self, key, images):
        noise = self.std * jax.random.normal(key, images.shape)
        return jnp.clip(images.astype(jnp.float32) + noise, 0, 255)


@dataclass(frozen=True)
class Relabelled:
    to: int = 3

    def __call__(self, key, batch, fields):
        assert fields == FIELDS
        return {**batch, "label": jnp.full_like(batch["label"], self.to)}


def darker(key, batch, fields):
    batch["image"] = batch["image"] // 2
    return batch


def test_ones_own():
    transforms = (Flip(), darker, Relabelled(to=5), Noise(std=2), partial(darker), Cutout(size=4))
    before = dict(BATCH)
    out = jax.jit(lambda key, batch: augment(transforms, key, batch, FIELDS))(KEY, BATCH)
    keys, expected = jax.random.split(KEY, 6), BATCH["image"]
    for key, transform in zip(keys, transforms, strict=True):
        expected = transform(key, {**BATCH, "image": expected}, FIELDS)["image"]
    np.testing.assert_array_equal(out["image"], expected)
    assert (np.asarray(out["label"]) == 5).all() and out["image"].dtype == jnp.float32
    augment((darker,), KEY, BATCH, FIELDS)
    assert all(BATCH[name] is before[name] for name in before), "a batch is changed in nobody's hands but one's own"
    with pytest.raises(UsageError, match=r"Noise\.std is -1: expected a finite number, 0 or more"):
        Noise(std=-1)


def test_ones_own_in_a_configuration():
    hint, here = tuple[Augmentation, ...], __name__
    found = check(hint, [{"kind": "flip"}, Noise(std=2), darker, "mine.py:soft", PadCrop], "augment")
    assert found == (Flip(), Noise(std=2), Part(name=f"{here}:darker"), Part(name="mine.py:soft"), PadCrop())
    with pytest.raises(UsageError, match=r"expected Flip or PadCrop or .* or CutMix or a transform of your own"):
        check(hint, [3], "augment")


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda key, batch, fields: None, "returned NoneType: expected the batch, a mapping of its fields"),
        (lambda key, batch, fields: batch["image"], "returned .*: expected the batch, a mapping of its fields"),
        (lambda key, batch, fields: {**batch, "label": {}}, "returned a batch without 'label': expected all that"),
        (
            lambda key, batch, fields: {**batch, "boxes": {"mask": batch["boxes"]["mask"]}},
            "returned a batch without 'boxes.corners': expected all that was in it",
        ),
        (
            lambda key, batch, fields: {**batch, "image": batch["image"][:5]},
            r"returned 'image' of shape \(5, 32, 32, 3\): expected 12 examples, as it was given",
        ),
        (lambda key, batch, fields: {**batch, "more": jnp.ones(())}, r"returned 'more' of shape \(\): expected 12"),
    ],
)
def test_what_ones_own_must_return(transform, message):
    traced = []

    def named(key, batch, fields):
        traced.append(1)
        return transform(key, batch, fields)

    batch = {**BATCH, "boxes": {"corners": jnp.ones((12, 2, 4)), "mask": jnp.ones((12, 2), bool)}}
    with pytest.raises(UsageError, match=f"^test_what_ones_own_must_return.<locals>.named {message}"):
        jax.jit(lambda key, batch: augment((named,), key, batch, FIELDS))(KEY, batch)
    assert traced == [1]


@pytest.mark.parametrize("transform", [Part(name="mine.py:soft"), "flip", Flip, None])
def test_what_is_no_transform(transform):
    with pytest.raises(UsageError, match=r"is no transform: expected Flip\(\), or a function \(key, batch, fields\)"):
        augment((transform,), KEY, BATCH, FIELDS)


@each
def test_json_and_back(transform):
    written = json.loads(json.dumps(to_json(transform)))
    assert check(Augmentation, written, "x") == transform and written["kind"] == transform.kind
    assert check(Augmentation, transform.kind, "x") == type(transform)()
    named = to_json(transform, defaults=False)
    assert check(Augmentation, named, "x") == transform


def test_a_transform_is_a_value():
    assert PadCrop(pad=2) == PadCrop(pad=2) != PadCrop(pad=3)
    assert len({Flip(), Flip(), replace(Flip(), probability=0.1)}) == 2


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), per_pixel=st.booleans(), dtype=st.sampled_from([np.uint8, np.float32]))
def test_normalize_against_float64(seed, per_pixel, dtype):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, 3, 4, 3)).astype(dtype)
    mean = rng.random((3, 4, 3) if per_pixel else 3).astype(np.float32)
    std = rng.uniform(0.1, 1, 3).astype(np.float32)
    out = normalize(jnp.asarray(images), jnp.asarray(mean), jnp.asarray(std))
    assert out.dtype == jnp.float32
    expected = (images / 255 - mean.astype(np.float64)) / std.astype(np.float64)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
