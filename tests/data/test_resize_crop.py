import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcnn.data.resampling import Box, resize_crop
from jaxcnn.errors import UsageError


def picture(height, width, channels=3, seed=0):
    """Smooth in places, and sharp in others."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 9 + 2, width // 9 + 2, channels)).astype(np.uint8)
    planes = [np.asarray(Image.fromarray(coarse[..., c]).resize((width, height))) for c in range(channels)]
    pixels = np.stack(planes, -1)
    pixels[height // 3 : height // 2, width // 4 :] = 255 - pixels[height // 3 : height // 2, width // 4 :]
    return pixels


def with_pillow(pixels, box, size, method):
    part = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    planes = [Image.fromarray(part[..., c].copy()).resize(size[::-1], method) for c in range(pixels.shape[-1])]
    return np.stack([np.asarray(plane) for plane in planes], -1)


boxes = st.builds(Box, st.integers(0, 20), st.integers(0, 20), st.integers(1, 130), st.integers(1, 130))
sizes = st.tuples(st.integers(1, 120), st.integers(1, 120))


@settings(deadline=None, max_examples=60)
@given(box=boxes, size=sizes, channels=st.sampled_from([1, 3]))
def test_all_but_bilinear_are_pillows_to_the_bit(box, size, channels):
    pixels = picture(150, 150, channels)
    for name in ("nearest", "bicubic", "lanczos", "box"):
        expected = with_pillow(pixels, box, size, Image.Resampling[name.upper()])
        np.testing.assert_array_equal(resize_crop(pixels, box, size, name), expected)


@settings(deadline=None, max_examples=60)
@given(box=boxes, size=st.tuples(st.integers(8, 120), st.integers(8, 120)), channels=st.sampled_from([1, 3]))
def test_bilinear_is_near_pillows(box, size, channels):
    pixels = picture(150, 150, channels)
    found = resize_crop(pixels, box, size).astype(int)
    differences = np.abs(found - with_pillow(pixels, box, size, Image.Resampling.BILINEAR))
    assert differences.mean() < 2.5
    if box.height <= size[0] and box.width <= size[1]:  # growing, both take two pixels
        assert differences.max() <= 1
    if box.height > 4 * size[0] or box.width > 4 * size[1] or box[2:] == size:
        assert differences.max() == 0


@pytest.mark.parametrize("ratio", [1.1, 1.3, 1.7, 2, 2.6, 3, 3.9])
def test_stripes_too_fine_to_keep_become_grey(ratio):
    """Antialiasing: unfiltered, stripes of one pixel return as broad ones. Up to 1.25 there is none."""
    pixels = np.zeros((400, 400, 3), np.uint8)
    pixels[:, ::2] = 255
    size = (round(400 / ratio),) * 2
    contrast = np.ptp(resize_crop(pixels, Box(0, 0, 400, 400), size)[5:-5, 5:-5].astype(int))
    expected = np.ptp(with_pillow(pixels, Box(0, 0, 400, 400), size, Image.Resampling.BILINEAR)[5:-5, 5:-5].astype(int))
    assert abs(contrast - expected) < (256 if ratio < 1.25 else 150 if ratio < 2 else 30)


def test_brightness_is_kept():
    for value in (0, 1, 128, 254, 255):
        pixels = np.full((300, 200, 3), value, np.uint8)
        for size in ((300, 200), (224, 224), (100, 70), (80, 190), (60, 60)):
            assert (resize_crop(pixels, Box(0, 0, 300, 200), size) == value).all()


def test_reads_mapped_files_and_writes_into_batches(tmp_path):
    pixels = picture(90, 80)
    pixels.tofile(tmp_path / "pixels")
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "r", shape=(90, 80, 3))
    batch = np.zeros((2, 40, 50, 3), np.uint8)
    for interpolation in ("nearest", "bilinear", "bicubic"):
        for box in (Box(3, 4, 80, 70), Box(5, 5, 40, 50), Box(0, 0, 20, 9)):
            expected = resize_crop(pixels, box, (40, 50), interpolation)
            resize_crop(mapped, box, (40, 50), interpolation, out=batch[1])
            np.testing.assert_array_equal(batch[1], expected)
    assert not batch[0].any() and type(resize_crop(mapped, box, (5, 5))) is np.ndarray


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((5, 6, 3), np.uint8),
        np.zeros((6, 5, 1), np.uint8),
        np.zeros((6, 5, 3), np.float32),
        np.zeros((6, 5, 6), np.uint8)[..., ::2],
    ],
)
def test_an_out_that_does_not_fit(out):
    with pytest.raises(ValueError, match=r"expected contiguous uint8 of \(6, 5, 3\)"):
        resize_crop(picture(20, 20), Box(0, 0, 9, 9), (6, 5), out=out)


def test_mistakes():
    with pytest.raises(ValueError, match="is not inside an image of 20x30"):
        resize_crop(picture(20, 30), Box(10, 10, 11, 5), (6, 5))
    with pytest.raises(UsageError, match="unknown interpolation 'bicubik': did you mean 'bicubic'"):
        resize_crop(picture(20, 30), Box(0, 0, 11, 5), (6, 5), "bicubik")
