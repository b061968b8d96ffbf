"""Colours against Pillow's, to the bit where that is possible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from jaxcnn.data.transforms.colour import ColorJitter, Grayscale, Lighting, enhance, grey, turn_hue

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color, ImageEnhance.Sharpness)


def pictures(channels=3):
    """A smooth picture, a noisy one, a dark one, a flat one, a saturated one."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(10, 240, 40)[None, :, None] + rng.normal(0, 4, (24, 40, 3)) + np.arange(24)[:, None, None] / 3
    noise, flat = rng.integers(0, 256, (24, 40, 3)), np.full((24, 40, 3), 77)
    stack = np.stack([ramp, noise, noise // 8, flat, noise // 128 * 255]).clip(0, 255).astype(np.uint8)
    return stack[..., :channels]


def pillow(pixels):
    return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])


enhanced, turned = jax.jit(enhance), jax.jit(turn_hue)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(range(4)), st.one_of(st.floats(0, 3, width=32), st.integers(0, 30).map(lambda n: n / 10)))
@pytest.mark.parametrize("channels", [1, 3])
def test_enhancements_are_pillows_to_the_bit(channels, base, factor):
    images = pictures(channels)
    found = enhanced(jnp.asarray(images), jnp.full(5, base, jnp.int32), jnp.full(5, factor, jnp.float32))
    for ours, image in zip(np.asarray(found), images, strict=True):
        theirs = np.asarray(ENHANCERS[base](pillow(image)).enhance(factor)).reshape(image.shape)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3)])
def test_small_pictures_are_smoothed_as_pillow_does(size):
    image = pictures()[1, : size[0], : size[1]]
    found = enhance(jnp.asarray(image[None]), jnp.array([3]), jnp.zeros(1))[0]
    np.testing.assert_array_equal(found, ImageEnhance.Sharpness(pillow(image)).enhance(0.0))


def test_grey_is_pillows_to_the_bit():
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (1, 256, 256, 3)).astype(np.uint8)
    np.testing.assert_array_equal(grey(jnp.asarray(pixels))[0, ..., 0], pillow(pixels[0]).convert("L"))
    one = jnp.asarray(pixels[..., :1])
    assert grey(one) is one


@pytest.mark.parametrize("turn", [1, -25, 127])
def test_hue_is_pillows_but_for_its_rounding(turn):
    pixels = np.random.default_rng(2).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    pixels[0] = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8).repeat(32, 0)
    hue, saturation, value = Image.fromarray(pixels).convert("HSV").split()
    hue = Image.fromarray((np.asarray(hue).astype(int) + turn & 255).astype(np.uint8))
    expected = np.asarray(Image.merge("HSV", (hue, saturation, value)).convert("RGB"))
    found = np.asarray(turned(jnp.asarray(pixels[None]), jnp.array([turn])))[0]
    difference = np.abs(found.astype(int) - expected.astype(int)).max(-1)
    assert difference.max() <= 6 and (difference > 0).mean() < 0.005
    np.testing.assert_array_equal(turned(jnp.asarray(pixels[None]), jnp.array([0]))[0], pixels)


def jitter(transform, images, seed=0):
    return np.asarray(jax.jit(transform.images)(jax.random.key(seed), jnp.asarray(images)))


def test_jitter_draws_factors_from_their_range():
    images = np.full((4000, 1, 1, 3), 100, np.uint8)
    values = jitter(ColorJitter(brightness=0.4), images)[:, 0, 0, 0]
    assert values.min() == 60 and values.max() == 139 and abs(values.mean() - 99.5) < 1.5
    values = jitter(ColorJitter(brightness=2.0), images)[:, 0, 0, 0]
    assert values.min() == 0 and values.max() == 255 and (values < 100).mean() == pytest.approx(1 / 3, abs=0.03)
    some = jitter(ColorJitter(brightness=0.4, probability=0.3), images)[:, 0, 0, 0]
    assert (some == 100).mean() == pytest.approx(0.7, abs=0.03)


def test_jitter_takes_every_order():
    """Brightness at 0 or 1 and contrast do not commute: an image tells which came first."""
    images = np.tile(np.array([40, 200], np.uint8).repeat(3).reshape(1, 1, 2, 3), (3000, 1, 1, 1))
    both = jitter(ColorJitter(brightness=0.9, contrast=0.9), images)[..., 0].reshape(3000, 2).astype(int)
    # Contrast around the mean before brightness keeps the mean's ratio; clipped ones tell nothing.
    inner = (both > 0).all(1) & (both < 255).all(1)
    assert inner.mean() > 0.4 and np.unique(both[inner], axis=0).shape[0] > 300


def test_one_channel():
    images = pictures(1)
    np.testing.assert_array_equal(jitter(ColorJitter(saturation=0.9, hue=0.5), images), images)
    np.testing.assert_array_equal(jitter(Grayscale(probability=1.0), images), images)
    assert (jitter(ColorJitter(brightness=0.5, contrast=0.5), images) != images).any()


def test_grayscale_takes_its_share():
    images = np.tile(pictures()[1:2, :2, :2], (2000, 1, 1, 1))
    out = jitter(Grayscale(probability=0.2), images)
    colourless = (out == out[..., :1]).all((1, 2, 3))
    assert abs(colourless.mean() - 0.2) < 0.03
    np.testing.assert_array_equal(out[~colourless], images[~colourless])
    np.testing.assert_array_equal(out[colourless][0, ..., 0], pillow(images[0]).convert("L"))


def test_lighting_shifts_along_the_components():
    """The shifts of many images have the covariance that is asked for, for RGB in 0..255."""
    images = np.full((20_000, 1, 1, 3), 128.0, np.float32)
    shifts = (jitter(Lighting(std=0.1), images) - 128)[:, 0, 0]
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    expected = vectors @ np.diag((25.5 * values) ** 2) @ vectors.T
    np.testing.assert_allclose(np.cov(shifts.T), expected, rtol=0.05, atol=0.05)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-3)
    whole = jitter(Lighting(std=0.1), images.astype(np.uint8))[:, 0, 0].astype(int) - 128
    assert np.abs(whole - shifts).max() <= 0.5 + 1e-4
    assert jitter(Lighting(std=5.0), np.full((50, 1, 1, 3), 250, np.uint8)).max() == 255
