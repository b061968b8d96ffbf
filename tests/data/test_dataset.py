import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.data import DataConfig, normalisation
from jaxcnn.data.dataset import Split, check_split
from jaxcnn.errors import UsageError

LABELS = np.arange(4)


def test_accepts_what_means_the_same():
    images = np.arange(4 * 3 * 3).reshape(4, 3, 3)
    split = check_split(images, LABELS, "x")
    assert split.images.shape == (4, 3, 3, 1) and split.images.dtype == np.uint8
    assert split.labels.dtype == np.int32 and len(split) == 4
    np.testing.assert_array_equal(split.images[..., 0], images)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((4, 9), np.uint8), LABELS, r"shape \(4, 9\)"),
        (np.zeros((0, 3, 3, 1), np.uint8), LABELS[:0], r"shape \(0, 3, 3, 1\)"),
        (np.full((4, 3, 3), 256), LABELS, "values from 256 to 256, expected 0 to 255"),
        (np.full((4, 3, 3), -1), LABELS, "values from -1 to -1"),
        (np.full((4, 3, 3), np.nan), LABELS, "NaN"),
        (np.full((4, 3, 3), 0.5), LABELS, "float64 from 0.5 to 0.5, expected uint8; multiply by 255"),
        (np.zeros((4, 3, 3), bool), LABELS, "images are bool"),
        (np.zeros((4, 3, 3), np.uint8), LABELS[:3], r"labels have shape \(3,\) for 4 images"),
        (np.zeros((4, 3, 3), np.uint8), LABELS - 1, "label -1 found"),
        (np.zeros((4, 3, 3), np.uint8), LABELS / 2, "labels are float64"),
    ],
)
def test_errors(images, labels, message):
    with pytest.raises(UsageError, match=message):
        check_split(images, labels, "x")


def split(images):
    return Split(images, np.zeros(len(images), np.int32))


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 1200), channels=st.sampled_from([1, 3]), per_pixel=st.booleans(), seed=st.integers(0, 99))
def test_measured_normalisation(n, channels, per_pixel, seed):
    images = np.random.default_rng(seed).integers(0, 256, (n, 3, 2, channels)).astype(np.uint8)
    images[0, 0, :2] = [[0], [255]]  # no channel is constant
    mean, std = normalisation(DataConfig(source="digits", per_pixel_mean=per_pixel), split(images))
    exact = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, exact.mean(0 if per_pixel else (0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, exact.std((0, 1, 2)), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32
    shuffled = normalisation(DataConfig(source="digits", per_pixel_mean=per_pixel), split(images[::-1]))
    np.testing.assert_array_equal(mean, shuffled[0])
    np.testing.assert_array_equal(std, shuffled[1])


def test_given_normalisation():
    config = DataConfig(source="digits", mean=(0.5,), std=(0.25,))
    mean, std = normalisation(config, split(np.zeros((1, 2, 2, 1), np.uint8)))
    assert mean.tolist() == [0.5] and std.tolist() == [0.25]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.5, 0.5)}, "data.mean has 2 numbers, the images have 1 channels"),
        ({"std": (0.0,)}, "given as 0"),
        ({}, "one value only"),
        ({"mean": (0.5,), "per_pixel_mean": True}, "not both"),
    ],
)
def test_normalisation_errors(fields, message):
    with pytest.raises(UsageError, match=message):
        normalisation(DataConfig(source="digits", **fields), split(np.zeros((2, 2, 2, 1), np.uint8)))
