from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn.data.augment import normalize, random_flip, random_pad_crop
from jaxcnn.errors import UsageError


def distinct(b, h, w, c, dtype=np.uint8):
    """Images in which every pixel differs from its neighbours and none is zero."""
    return (np.arange(b * h * w * c).reshape(b, h, w, c) % 251 + 1).astype(dtype)


@settings(deadline=None, max_examples=12)
@given(
    shape=st.tuples(*(st.integers(1, 6) for _ in range(3)), st.sampled_from([1, 3])),
    pad=st.integers(0, 3),
    mode=st.sampled_from(["zero", "reflect"]),
    seed=st.integers(0, 2**31 - 1),
)
def test_each_crop_is_a_slice_of_the_padded_image(shape, pad, mode, seed):
    images = distinct(*shape)
    if mode == "reflect" and pad >= min(shape[1:3]):
        with pytest.raises(UsageError, match=r"data.pad_crop"):
            random_pad_crop(jax.random.key(seed), jnp.asarray(images), pad, mode)
        return
    out = random_pad_crop(jax.random.key(seed), jnp.asarray(images), pad, mode)
    assert out.shape == images.shape and out.dtype == images.dtype
    edges = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = np.pad(images, edges, mode="constant" if mode == "zero" else "reflect")
    height, width = shape[1:3]
    for image, crop in zip(padded, np.asarray(out), strict=True):
        slices = [image[y : y + height, x : x + width] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        assert any((s == crop).all() for s in slices)


def test_no_padding_changes_nothing():
    images = jnp.asarray(distinct(4, 5, 5, 3))
    np.testing.assert_array_equal(random_pad_crop(jax.random.key(0), images, 0), images)


def test_negative_padding_is_refused():
    with pytest.raises(UsageError, match=r"data.pad_crop is -1"):
        random_pad_crop(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), -1)


def test_all_offsets_are_equally_likely():
    pad, count = 2, 25 * 400
    image = np.zeros((1, 5, 5, 1), np.uint8)
    image[0, 2, 2] = 1  # where this pixel lands tells the offset
    out = random_pad_crop(jax.random.key(1), jnp.asarray(np.repeat(image, count, 0)), pad)
    where = np.asarray(out).reshape(count, 25).argmax(1)
    counts = np.bincount(where, minlength=25)
    chi_squared = ((counts - 400) ** 2 / 400).sum()
    assert counts.min() > 0 and chi_squared < 51.2  # 99.9 % of 24 degrees of freedom


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_flip_mirrors_about_half_of_the_images(dtype):
    images = distinct(400, 3, 4, 2, dtype)
    out = np.asarray(random_flip(jax.random.key(0), jnp.asarray(images)))
    assert out.dtype == dtype
    same = (out == images).all((1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all() and 150 < mirrored.sum() < 250


def test_flipping_twice_by_one_key_changes_nothing():
    images, key = jnp.asarray(distinct(32, 3, 4, 1)), jax.random.key(5)
    np.testing.assert_array_equal(random_flip(key, random_flip(key, images)), images)


def test_keys_decide():
    images = jnp.asarray(distinct(64, 6, 6, 1))
    for augment in (random_flip, partial(random_pad_crop, pad=2)):
        first, again, other = (augment(jax.random.key(seed), images) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert (np.asarray(first) != np.asarray(other)).any()


def augment_all(key, images):
    crop, flip = jax.random.split(key)
    mean, std = jnp.array([0.4, 0.5, 0.6]), jnp.array([0.2, 0.25, 0.3])
    return normalize(random_flip(flip, random_pad_crop(crop, images, 2)), mean, std)


def test_jitted_and_sharded_give_the_same_images():
    images, key = jnp.asarray(distinct(32, 8, 8, 3)), jax.random.key(3)
    expected = augment_all(key, images)
    jitted = jax.jit(augment_all)(key, images)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    spread = jax.jit(augment_all, out_shardings=sharding)(key, jax.device_put(images, sharding))
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_array_equal(jitted, spread)
    # Eager and jitted differ at most by how the division is rounded.
    np.testing.assert_allclose(expected, jitted, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), per_pixel=st.booleans())
def test_normalize_against_float64(seed, per_pixel):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    mean = rng.random((3, 4, 3) if per_pixel else 3).astype(np.float32)
    std = rng.uniform(0.1, 1, 3).astype(np.float32)
    out = normalize(jnp.asarray(images), jnp.asarray(mean), jnp.asarray(std))
    assert out.dtype == jnp.float32
    expected = (images / 255 - mean.astype(np.float64)) / std.astype(np.float64)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
