"""Where pixels go: mirrored and cropped as by slices, moved as Pillow moves them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcnn.data.fields import Image as FieldImage
from jaxcnn.data.transforms.warps import Affine, Flip, PadCrop, fixed_matrix, warp
from jaxcnn.errors import UsageError


def distinct(b, h, w, c, dtype=np.uint8):
    """Images in which every pixel differs from its neighbours and none is zero."""
    return (np.arange(b * h * w * c).reshape(b, h, w, c) % 251 + 1).astype(dtype)


def image_after(transform, key, images):
    """The images after a transform."""
    return transform(key, {"image": jnp.asarray(images)}, {"image": FieldImage(images.shape[-1])})["image"]


@settings(deadline=None, max_examples=12)
@given(
    shape=st.sampled_from([(1, 1, 1, 1), (4, 5, 3, 3), (6, 2, 6, 1)]),  # few: each compiles
    pad=st.sampled_from([0, 2, 3]),
    mode=st.sampled_from(["zero", "reflect"]),
    seed=st.integers(0, 2**31 - 1),
)
def test_each_crop_is_a_slice_of_the_padded_image(shape, pad, mode, seed):
    images, transform, key = distinct(*shape), PadCrop(pad=pad, mode=mode), jax.random.key(seed)
    if mode == "reflect" and pad >= min(shape[1:3]):
        with pytest.raises(UsageError, match=r"PadCrop\.pad is"):
            image_after(transform, key, images)
        return
    out = image_after(transform, key, images)
    assert out.shape == images.shape and out.dtype == images.dtype
    edges = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = np.pad(images, edges, mode="constant" if mode == "zero" else "reflect")
    height, width = shape[1:3]
    for image, crop in zip(padded, np.asarray(out), strict=True):
        slices = [image[y : y + height, x : x + width] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        assert any((s == crop).all() for s in slices)


def test_all_offsets_are_equally_likely():
    count = 25 * 400
    image = np.zeros((1, 5, 5, 1), np.uint8)
    image[0, 2, 2] = 1  # where this pixel lands tells the offset
    out = image_after(PadCrop(pad=2), jax.random.key(1), np.repeat(image, count, 0))
    counts = np.bincount(np.asarray(out).reshape(count, 25).argmax(1), minlength=25)
    chi_squared = ((counts - 400) ** 2 / 400).sum()
    assert counts.min() > 0 and chi_squared < 51.2  # 99.9 % of 24 degrees of freedom


@pytest.mark.parametrize(("dtype", "probability"), [(np.uint8, 0.5), (np.float32, 0.1)])
def test_flip_mirrors_its_share_of_the_images(dtype, probability):
    images = distinct(1000, 3, 4, 2, dtype)
    out = np.asarray(image_after(Flip(probability=probability), jax.random.key(0), images))
    assert out.dtype == dtype
    same = (out == images).all((1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all() and abs(mirrored.mean() - probability) < 0.05  # three standard deviations


def test_flipping_twice_by_one_key_changes_nothing():
    images, key = jnp.asarray(distinct(32, 3, 4, 1)), jax.random.key(5)
    np.testing.assert_array_equal(image_after(Flip(), key, image_after(Flip(), key, images)), images)


PHOTO = np.asarray(Image.linear_gradient("L").resize((40, 24)).rotate(20, fillcolor=90).convert("RGB"))
PHOTO = (PHOTO.astype(int) + np.random.default_rng(0).integers(0, 40, PHOTO.shape)).clip(0, 255).astype(np.uint8)
warped = jax.jit(warp, static_argnums=(2, 3))


thousandths = st.integers(-2000, 2000).map(lambda n: n / 1000)


@settings(deadline=None, max_examples=40)
@given(st.tuples(*[thousandths] * 6), st.integers(-20, 60))
def test_nearest_is_pillows_to_the_bit(matrix, move):
    image = Image.fromarray(PHOTO)
    matrix = (matrix[0], matrix[1] or 0.5, matrix[2] + move, *matrix[3:])  # without a shear Pillow goes another way
    expected = image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=(7, 7, 7))
    found = warped(jnp.asarray(PHOTO[None]), jnp.asarray(fixed_matrix(matrix)[None]), 7, "nearest")
    np.testing.assert_array_equal(found[0], expected)


@settings(deadline=None, max_examples=20)
@given(degrees=st.floats(-180, 180))
def test_bilinear_is_pillows_within_one(degrees):
    image = Image.fromarray(PHOTO)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = (cos, sin, 20 - 20 * cos - 12 * sin, -sin, cos, 12 + 20 * sin - 12 * cos)
    expected = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    found = warped(jnp.asarray(PHOTO[None]), jnp.asarray(fixed_matrix(matrix)[None]), 0, "bilinear")
    difference = np.abs(np.asarray(found[0], int) - np.asarray(expected, int)).max(-1)
    # Beyond one only where a pixel comes from the very edge, which fixed point may see on its other side.
    assert (difference > 1).mean() < 0.01


def moved(transform, images, seed=0):
    return np.asarray(image_after(transform, jax.random.key(seed), images))


def test_affine_moves_by_whole_pixels():
    image = np.zeros((300, 9, 9, 1), np.uint8)
    image[:, 4, 4] = 255
    rows, columns = np.divmod(moved(Affine(translate=(2 / 9, 0.0)), image).reshape(300, 81).argmax(1), 9)
    assert (rows == 4).all() and set(columns) == {2, 3, 4, 5, 6}
    rows, columns = np.divmod(moved(Affine(translate=(0.0, 1 / 9)), image).reshape(300, 81).argmax(1), 9)
    assert (columns == 4).all() and set(rows) == {3, 4, 5}


def test_affine_turns_scales_and_shears_about_the_centre():
    disc = (np.hypot(*np.mgrid[-15:16, -15:16]) < 9).astype(np.uint8)[None, ..., None] * 200
    discs = np.repeat(disc, 50, 0)
    turned = moved(Affine(degrees=180), discs)
    assert np.abs(turned.astype(float).mean((1, 2, 3)) / disc.mean() - 1).max() < 0.05, "a disc stays a disc"
    half = discs.copy()
    half[:, :, :15] = 0
    sides = (moved(Affine(degrees=180), half)[:, :, 16:] > 0).mean((1, 2, 3)) / (half[:, :, 16:] > 0).mean()
    assert sides.min() < 0.2 and sides.max() > 0.8 and 0.35 < sides.mean() < 0.65, "every angle"
    areas = (moved(Affine(scale=(0.5, 1.5)), discs) > 0).mean((1, 2, 3)) / (disc > 0).mean()
    assert 0.25 <= areas.min() < 0.4 and 1.9 < areas.max() < 2.35
    sheared = moved(Affine(shear=40), discs) > 0
    np.testing.assert_array_equal(sheared[:, 15], discs[:, 15] > 0)  # the middle row stays
    assert (sheared.sum((2, 3)) == (discs > 0).sum((2, 3))).mean() > 0.9, "rows slide, and keep their length"


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_what_comes_in_is_the_fill(interpolation):
    out = moved(Affine(scale=(0.5, 0.5), fill=9, interpolation=interpolation), np.full((2, 8, 8, 3), 200, np.uint8))
    expected = np.full((8, 8), 9)
    expected[2:6, 2:6] = 200
    np.testing.assert_array_equal(out[0, ..., 0], expected)
