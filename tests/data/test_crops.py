import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxcnn.data.crops import RandomResizedCrop, ScaleJitter, generator, mirrored, ten_crop
from jaxcnn.data.resampling import Box
from jaxcnn.errors import UsageError


def plain_random_resized_crop(rng, height, width, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)):
    """The documented distribution, with nothing shared: all tries at once, numpy's own uniform and integers."""
    targets = rng.uniform(*area, 10) * height * width
    aspects = np.exp(rng.uniform(*np.log(aspect), 10))
    widths, heights = np.round(np.sqrt(targets * aspects)).astype(int), np.round(np.sqrt(targets / aspects)).astype(int)
    fits = np.flatnonzero((widths > 0) & (heights > 0) & (widths <= width) & (heights <= height))
    if len(fits):
        w, h = widths[fits[0]], heights[fits[0]]
        return rng.integers(0, height - h, endpoint=True), rng.integers(0, width - w, endpoint=True), h, w
    ratio = width / height
    if ratio < aspect[0]:
        w, h = width, round(width / aspect[0])
    elif ratio > aspect[1]:
        w, h = round(height * aspect[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (224, 224), (100, 400)])
def test_boxes_follow_the_documented_distribution(height, width):
    crop, reference = RandomResizedCrop(), np.random.default_rng(1)
    found = np.array([crop.box(generator((7, 0), i), height, width, 224) for i in range(4000)]).astype(float)
    expected = np.array([plain_random_resized_crop(reference, height, width) for _ in range(4000)]).astype(float)

    def statistics(boxes):
        top, left, h, w = boxes.T
        share = (top / np.maximum(height - h, 1), left / np.maximum(width - w, 1))
        return {"area": h * w, "aspect": np.log(w / h), "height": h, "width": w, "top": share[0], "left": share[1]}

    for name, values in statistics(found).items():
        assert stats.ks_2samp(values, statistics(expected)[name]).pvalue > 1e-3, name
    # Where nothing has to be drawn again the marginals are known.
    if height == width:
        free = found[found[:, 2] * found[:, 3] < 0.7 * height * width]
        area = free[:, 2] * free[:, 3] / (height * width)
        assert stats.kstest(area, stats.uniform(0.08, 0.62).cdf).pvalue > 1e-3
        slope = np.log(free[:, 3] / free[:, 2])
        assert stats.kstest(slope, stats.uniform(-math.log(4 / 3), 2 * math.log(4 / 3)).cdf).pvalue > 1e-3
    top, _, h, _ = found[found[:, 2] < height - 20].T
    tenths = np.bincount((10 * top / (height - h + 1)).astype(int), minlength=10)
    assert stats.chisquare(tenths).pvalue > 1e-3


@settings(deadline=None)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    area=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted).map(tuple),
    aspect=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted).map(tuple),
    position=st.integers(0, 2**64 - 1),
)
def test_boxes_lie_inside(height, width, area, aspect, position):
    crop = RandomResizedCrop(area=area, aspect=aspect)
    top, left, rows, columns = crop.box(generator((1, 2), position), height, width, 224)
    assert 0 <= top < top + rows <= height and 0 <= left < left + columns <= width


def test_a_panorama_falls_back_to_its_centre():
    """Nothing of 90 % of the area and an aspect below 4/3 fits into 4:1; nor into 1:4."""
    crop = RandomResizedCrop(area=(0.9, 1.0))
    assert crop.box(generator((0, 0), 0), 100, 400, 224) == Box(0, 133, 100, 133)
    assert crop.box(generator((0, 0), 0), 400, 100, 224) == Box(133, 0, 133, 100)
    whole = RandomResizedCrop(area=(1.0, 1.0), aspect=(1.5, 1.5))
    assert whole.box(generator((0, 0), 0), 10, 15, 224) == Box(0, 0, 10, 15)


def test_scale_jitter():
    """Each length as likely; then each place."""
    crop = ScaleJitter(short_side=(256, 480))
    boxes = np.array([crop.box(generator((3, 0), i), 960, 1300, 224) for i in range(6000)])
    assert (boxes[:, 2] == boxes[:, 3]).all()
    assert set(boxes[:, 2]) <= {round(224 * 960 / side) for side in range(256, 481)}
    sides = 224 * 960 / boxes[:, 2]
    assert stats.kstest(sides, stats.uniform(256, 224).cdf).pvalue > 1e-3
    for place, room in ((boxes[:, 0], 960 - boxes[:, 2]), (boxes[:, 1], 1300 - boxes[:, 2])):
        assert stats.kstest((place + 0.5) / (room + 1), "uniform").pvalue > 1e-3
        assert place.min() >= 0 and (place <= room).all()
    fixed = ScaleJitter(short_side=(256, 256))
    assert {fixed.box(generator((3, 0), i), 256, 256, 256) for i in range(9)} == {Box(0, 0, 256, 256)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RandomResizedCrop(area=(0.0, 1.0)),
            r"data.train_crop.area is \(0.0, 1.0\): expected a list of finite numbers in \(0, 1\]",
        ),
        (lambda: RandomResizedCrop(area=(0.5, 0.2)), "data.train_crop.area"),
        (lambda: RandomResizedCrop(area=(0.5, 1.2)), "data.train_crop.area"),
        (lambda: RandomResizedCrop(area=(0.5,)), "data.train_crop.area"),
        (lambda: RandomResizedCrop(aspect=(2.0, 1.0)), "data.train_crop.aspect"),
        (lambda: RandomResizedCrop(aspect=(0.0, 1.0)), "data.train_crop.aspect"),
        (lambda: ScaleJitter(short_side=(480, 256)), "data.train_crop.short_side"),
        (lambda: ScaleJitter(short_side=(0, 256)), "data.train_crop.short_side"),
        (lambda: ScaleJitter().box(generator((0, 0), 0), 99, 99, 299), "data.image_size, which is 299"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_numbers_depend_on_key_and_position_alone():
    def draws(key, position):
        found = generator(key, position)
        return tuple(found.random(3)), int(found.integers(1000, dtype=np.uint32)), found.normal()

    keys = [((seed, epoch), position) for seed in (0, 2**64 - 1) for epoch in (0, 1) for position in (0, 1, 2**64 - 1)]
    expected = {key: draws(*key) for key in keys}
    assert len({value[0] for value in expected.values()}) == len(keys)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            assert dict(zip(keys, pool.map(lambda key: draws(*key), keys), strict=True)) == expected
    fresh = np.random.Generator(np.random.Philox(key=[5, 6], counter=[0, 0, 0, 9]))
    assert generator((5, 6), 9).random() == fresh.random()
    first = [generator((1, 2), position).random() for position in range(4000)]
    assert stats.kstest(first, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.05


def image(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.uint8)


def test_ten_crops():
    pixels = image(9, 11)
    crops = ten_crop(pixels, 6)
    places = [(0, 0), (0, 5), (3, 0), (3, 5), (2, 2)]
    for found, (top, left) in zip(crops, places, strict=False):
        np.testing.assert_array_equal(found, pixels[top : top + 6, left : left + 6])
    np.testing.assert_array_equal(crops[5:], ten_crop(pixels[:, ::-1], 6)[:5])
    np.testing.assert_array_equal(crops[5], crops[1][:, ::-1])
    assert crops.shape == (10, 6, 6, 3)
    with pytest.raises(UsageError, match=r"an image of 9x11 has no ten crops of 10x10"):
        ten_crop(pixels, 10)


def test_mirrored():
    pixels = image(50, 70)
    for scale, size in ((24, (24, 24)), (50, (50, 64)), (60, (60, 84))):
        view, mirror = mirrored(pixels, scale, size)
        assert view.shape == (*size, 3)
        np.testing.assert_array_equal(mirror, view[:, ::-1])
    np.testing.assert_array_equal(mirrored(pixels, 50, (50, 64))[0], pixels[:, 3:67])
