"""The numbers that normalise images: measured, given, or wrong."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.data import DataConfig, Image, Norms, Split, eval_batch, load, normalisation, training_batch
from jaxcnn.data.fields import Value
from jaxcnn.errors import UsageError


def split(images):
    return Split({"image": images, "label": np.zeros(len(images), np.int32)})


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


def test_images_of_float32_keep_their_unit():
    images = np.random.default_rng(0).normal(1000, 20, (300, 4, 4, 2)).astype(np.float32)
    norms = normalisation(DataConfig(), split(images))
    np.testing.assert_allclose(norms.mean, images.mean((0, 1, 2), np.float64), rtol=1e-6)
    np.testing.assert_allclose(norms.std, images.std((0, 1, 2), np.float64), rtol=1e-6)
    batch = {"image": images[:8], "mask": np.ones(8, bool)}
    expected = (images[:8] - norms.mean) / norms.std
    np.testing.assert_allclose(eval_batch(batch, norms)["image"], expected, rtol=1e-6)
    trained = training_batch(batch, jax.random.key(0), norms, (), {"image": Image(2, "float32")})
    np.testing.assert_allclose(trained["image"], expected, rtol=1e-6)


def test_only_the_image_is_normalised():
    arrays = {"image": np.full((4, 2, 2, 1), 51, np.uint8), "second": np.full((4, 2, 2, 1), 51, np.uint8)}
    norms = Norms(np.float32([0.1]), np.float32([0.5]))
    batch = eval_batch({**arrays, "mask": np.ones(4, bool)}, norms)
    np.testing.assert_allclose(batch["image"], 0.2, rtol=1e-6)
    assert batch["second"].dtype == np.uint8 and batch["mask"].all()
    data = load(DataConfig(test_split="train[2:]", train_split="train[:2]"), source={"x": np.arange(4.0)})
    assert data.norms is None and data.fields == {"x": Value()}
    assert eval_batch({"x": 1}, data.norms) == {"x": 1}


def test_given_normalisation():
    config = DataConfig(source="digits", mean=(0.5,), std=(0.25,))
    mean, std = normalisation(config, split(np.zeros((1, 2, 2, 1), np.uint8)))
    assert mean.tolist() == [0.5] and std.tolist() == [0.25]
    data = load(DataConfig(source="digits"), norms=(np.ones(1), np.full(1, 2)))
    assert [norm.tolist() for norm in data.norms] == [[1.0], [2.0]]
    assert data.preprocessing.mean == (1.0,) and data.preprocessing.std == (2.0,)
    with pytest.raises(UsageError, match=r"a mean of shape \(3,\) and deviations of \(3,\) do not fit .*\(8, 8, 1\)"):
        load(DataConfig(source="digits"), norms=(np.ones(3), np.ones(3)))


@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_files_are_named_where_none_can_be_used(tmp_path, pipeline):
    """With data.bad_limit 1, and a size that no image need tell."""
    for number in range(4):
        path = tmp_path / ("train" if number < 3 else "test") / "ant" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"text")
    given = DataConfig(source="folder", path=tmp_path, image_size=4, bad_limit=1.0, pipeline=pipeline)
    message = r"none of the 3 examples can be used, such as .*/train/ant/\d.jpg: begins with b'text': expected JPEG"
    with pytest.raises(UsageError, match=message):
        load(given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.5, 0.5)}, "data.mean has 2 numbers, the images have 1 channels"),
        ({"std": (0.0,)}, "data.std is .*0.0.*: expected a list of finite numbers above 0"),
        ({}, "one value only"),
        ({"mean": (0.5,), "per_pixel_mean": True}, "not both"),
    ],
)
def test_normalisation_errors(fields, message):
    with pytest.raises(UsageError, match=message):
        normalisation(DataConfig(source="digits", **fields), split(np.zeros((2, 2, 2, 1), np.uint8)))
