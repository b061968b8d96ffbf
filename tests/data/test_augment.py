"""What all transforms have in common, the order they are applied in, and normalisation."""

import hashlib
from dataclasses import replace

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
    normalize,
)
from jaxcnn.data.transforms.base import Transform
from jaxcnn.errors import UsageError
from jaxcnn.typed import variants

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


def jitted(transform):
    """The transform as a compiled function of (key, batch), the same one for equal transforms."""
    if transform not in _COMPILED:
        _COMPILED[transform] = jax.jit(lambda key, batch: augment((transform,), key, batch, 12))
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
    out = jax.jit(lambda key, batch: augment(nothing, key, batch, 12))(KEY, BATCH)
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
    assert_same(augment((transform,), KEY, BATCH, 12), jitted(transform)(KEY, BATCH))
    keys, batches = jax.random.split(KEY, 2), jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), BATCH)
    mapped = jax.jit(jax.vmap(lambda key, batch: augment((transform,), key, batch, 12)))(keys, batches)
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
        expected = transform(key, expected, 12)
    assert_same(augment(transforms, KEY, BATCH, 12), expected)
    assert augment((), KEY, BATCH, 12) == BATCH
    # One more at the end changes no draw of the others.
    assert_same(augment((*transforms, Flip(probability=0.0)), KEY, BATCH, 12), expected)


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
    out = augment(transforms, jax.random.key(3), batch, 20)["image"]
    assert hashlib.sha256(np.asarray(out).tobytes()).hexdigest()[:16] == sha256


def test_sharded_over_eight_devices():
    transforms, batch = (PadCrop(pad=2), Flip(), Mixup(alpha=0.0)), batch_of(16, size=8)
    run = jax.jit(lambda key, batch: augment(transforms, key, batch, 16))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    spread = jax.jit(run, out_shardings=sharding)(KEY, jax.device_put(batch, sharding))
    assert len(spread["image"].sharding.device_set) == 8
    assert_same(run(KEY, batch), spread)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Flip, {"probability": 1.5}, "flip: probability is 1.5, expected a number from 0 to 1"),
        (Flip, {"probability": float("nan")}, "flip: probability is nan, expected a number from 0 to 1"),
        (PadCrop, {"pad": -1}, "pad_crop: pad is -1, expected a number of at least 0"),
        (PadCrop, {"pad": "4"}, "pad_crop: pad is '4', expected a number of at least 0"),
        (Affine, {"degrees": 181}, "affine: degrees is 181, expected a number from 0 to 180"),
        (Affine, {"scale": (1.2, 0.8)}, r"affine: scale is \(1.2, 0.8\), expected two numbers, the smaller one first"),
        (Affine, {"translate": (0.1,)}, "affine: translate is .*, expected two numbers, along x and along y"),
        (ColorJitter, {"contrast": -0.1}, "color_jitter: contrast is -0.1, expected a number of at least 0"),
        (ColorJitter, {"hue": 0.6}, "color_jitter: hue is 0.6, expected a number from 0 to 0.5"),
        (Lighting, {"std": -1}, "lighting: std is -1, expected"),
        (RandAugment, {"magnitude": 31}, "rand_augment: magnitude is 31, expected a number from 0 to 30"),
        (RandAugment, {"magnitude": 11, "levels": 10}, "rand_augment: magnitude is 11, expected a number from 0 to 10"),
        (TrivialAugment, {"fill": 256}, "trivial_augment: fill is 256, expected a number from 0 to 255"),
        (Cutout, {"size": -1}, "cutout: size is -1"),
        (Erasing, {"area": 0.3}, "erasing: area is 0.3, expected two numbers"),
        (Erasing, {"aspect": (0, 1)}, "erasing: aspect is .*, expected a number from 0.01 to 100"),
        (Mixup, {"alpha": -0.2}, "mixup: alpha is -0.2, expected a number of at least 0"),
        (CutMix, {"probability": 2}, "cutmix: probability is 2"),
    ],
)
def test_fields_that_cannot_be(kind, fields, message):
    with pytest.raises(UsageError, match=f"^data.augment, {message}"):
        kind(**fields)


def test_images_that_cannot_be():
    two = batch_of(channels=2)
    for transform in (ColorJitter(hue=0.1), Grayscale(), RandAugment(), AutoAugment(), TrivialAugment()):
        with pytest.raises(UsageError, match="the images have 2 channels, expected 1 or 3"):
            augment((transform,), KEY, two, 12)
    with pytest.raises(UsageError, match="lighting: the images have 1 channels, expected 3"):
        augment((Lighting(),), KEY, batch_of(channels=1), 12)
    with pytest.raises(UsageError, match="pad_crop: pad is 32, expected 0 to 31 for 32x32"):
        augment((PadCrop(pad=32, mode="reflect"),), KEY, BATCH, 12)


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
