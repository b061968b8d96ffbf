"""What is taken away, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data.transforms.erasing import Cutout, Erasing


def changed(transform, count=4000, size=(32, 24), seed=0):
    """Which pixels of images of ones were overwritten, by the value 0."""
    images = jnp.ones((count, *size, 2), jnp.uint8)
    out = np.asarray(jax.jit(transform.images)(jax.random.key(seed), images))
    assert out.dtype == np.uint8 and (out[..., 0] == out[..., 1]).all()
    return out[..., 0] == 0


def sides(mask):
    """Rows and columns of the rectangle that each image lost; it is a rectangle."""
    rows, columns = mask.any(2).sum(1), mask.any(1).sum(1)
    np.testing.assert_array_equal(mask.sum((1, 2)), rows * columns)
    return rows, columns


def test_cutout_is_a_square_that_may_reach_over_the_edge():
    mask = changed(Cutout(size=9, probability=0.75))
    hit = mask.any((1, 2))
    assert hit.mean() == pytest.approx(0.75, abs=0.03)
    rows, columns = (side[hit] for side in sides(mask))
    assert rows.max() == columns.max() == 9 and rows.min() == columns.min() == 5
    # The centre is any pixel: 24 of 32 rows, and 16 of 24 columns, have room for all of it.
    assert (rows == 9).mean() == pytest.approx(24 / 32, abs=0.03)
    assert (columns == 9).mean() == pytest.approx(16 / 24, abs=0.03)


def test_erasing_keeps_its_ranges():
    transform = Erasing(area=(0.1, 0.3), aspect=(0.5, 2.0), fill="constant")
    mask = changed(transform)
    assert mask.any((1, 2)).mean() == pytest.approx(0.5, abs=0.03)
    rows, columns = (side[mask.any((1, 2))] for side in sides(mask))
    assert rows.max() < 32 and columns.max() < 24, "always smaller than the image"
    area, aspect = rows * columns / (32 * 24), rows / columns
    assert 0.08 < area.min() < 0.12 and 0.28 < area.max() < 0.32  # sides are rounded
    assert 0.45 < aspect.min() < 0.6 and 1.7 < aspect.max() < 2.2
    assert area.mean() == pytest.approx(0.2, abs=0.01), "uniform"
    assert np.log(aspect).mean() == pytest.approx(0.0, abs=0.04), "tall as often as wide"


@pytest.mark.slow
def test_every_pixel_may_be_erased():
    mask = changed(Erasing(probability=1.0, area=(0.02, 0.1), fill="constant"))
    assert mask.mean(0)[16, 12] < 0.2 and (mask.mean(0) > 0).all()


@pytest.mark.slow
def test_what_never_fits_leaves_the_image():
    assert not changed(Erasing(probability=1.0, area=(1.0, 1.0), aspect=(1.0, 1.0), fill="constant")).any()


def test_fills():
    images = jnp.full((200, 16, 16, 3), 100, jnp.uint8)
    out = np.asarray(Erasing(probability=1.0, area=(0.5, 0.5), aspect=(1.0, 1.0)).images(jax.random.key(0), images))
    noise = out[out != 100]
    assert noise.mean() == pytest.approx(127.5, abs=2) and noise.std() == pytest.approx(73.9, abs=2)
    grey = Erasing(probability=1.0, area=(0.5, 0.5), aspect=(1.0, 1.0), fill="constant", value=7)
    assert set(np.unique(grey.images(jax.random.key(0), images))) == {7, 100}
