"""Each operation against Pillow, and what the policies draw."""

from collections import Counter
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.stats import chisquare

from jaxcnn.data.transforms.autoaugment import POLICIES
from jaxcnn.data.transforms.policies import (
    OPERATIONS,
    SIGNED,
    AutoAugment,
    Operation,
    RandAugment,
    TrivialAugment,
    magnitudes,
    operation,
    recolour,
)
from jaxcnn.data.transforms.warps import warp

HEIGHT, WIDTH = 28, 36
MOVING = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


def photographs(channels):
    """Parts of two photographs, where scikit-learn is there, and pictures made here."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 200, WIDTH)[None, :, None] + rng.normal(0, 3, (HEIGHT, WIDTH, 3))
    made = [
        ramp.clip(0, 255),
        rng.integers(0, 256, (HEIGHT, WIDTH, 3)),
        rng.integers(100, 120, (HEIGHT, WIDTH, 3)),
        np.full((HEIGHT, WIDTH, 3), 77),
        np.zeros((HEIGHT, WIDTH, 3)),
        np.minimum(rng.integers(0, 256, (HEIGHT, WIDTH, 3)), 49),
    ]
    photos = pytest.importorskip("sklearn.datasets").load_sample_images().images
    parts = [p[y : y + HEIGHT, x : x + WIDTH] for p in photos for y, x in ((40, 60), (200, 300), (330, 500))]
    return np.stack([*made, *parts]).astype(np.uint8)[..., :channels]


def pillow(name, magnitude, pixels, resample):
    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    fill = (7, 7, 7) if image.mode == "RGB" else 7
    whole = int(magnitude)
    matrices = {
        "shear_x": (1, magnitude, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, magnitude, 1, 0),
        "translate_x": (1, 0, whole, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, whole),
    }
    if name in matrices:
        return image.transform(image.size, Image.Transform.AFFINE, matrices[name], resample, fillcolor=fill)
    if name == "rotate":
        return image.rotate(magnitude, resample, fillcolor=fill)
    if name in ("brightness", "color", "contrast", "sharpness"):
        return getattr(ImageEnhance, name.capitalize())(image).enhance(1 + magnitude)
    if name in ("posterize", "solarize"):
        return getattr(ImageOps, name)(image, whole if name == "posterize" else magnitude)
    return image if name == "identity" else getattr(ImageOps, name)(image)


@partial(jax.jit, static_argnums=(2, 3))
def applied(images, what, fill, interpolation):
    return recolour(warp(images, what.matrix, fill, interpolation), what)


def differences(name, interpolation, channels):
    """How far ours is from Pillow's, over levels, signs, ranges and pictures."""
    images, found = photographs(channels), []
    for level, wide in ((0, False), (9, False), (20, True), (30, False), (30, True)):
        step = 0 if name == "invert" else magnitudes(name, 30, HEIGHT, WIDTH, wide=wide)[level]
        for magnitude in (step, -step) if name in SIGNED else (step,):
            what = operation(name, magnitude, HEIGHT, WIDTH)
            what = Operation(*(np.broadcast_to(column, (len(images), *np.shape(column))) for column in what))
            ours = np.asarray(applied(images, what, 7, interpolation)).astype(int)
            resample = Image.Resampling[interpolation.upper()]
            theirs = [np.asarray(pillow(name, magnitude, image, resample)) for image in images]
            found.append(np.abs(ours - np.stack(theirs).reshape(ours.shape)))
    return np.stack(found)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*OPERATIONS, "invert"])
def test_each_operation_is_pillows_to_the_bit(name, channels):
    assert differences(name, "nearest", channels).max() == 0


@pytest.mark.parametrize("name", MOVING)
def test_bilinear_moves_are_pillows_within_one(name):
    found = differences(name, "bilinear", 3)
    # Fixed point may see a pixel that comes from the very edge on its other side.
    assert (found > 0).mean() < 0.01 and (found > 1).mean() < 0.002


def test_the_ranges():
    """torchvision's for 31 levels and its own for TrivialAugment, at level 9, 30 and in between."""
    assert magnitudes("rotate", 30, 32, 32)[9] == pytest.approx(9) and magnitudes("rotate", 10, 32, 32)[9] == 27
    assert magnitudes("shear_x", 30, 32, 32)[30] == 0.3 and magnitudes("shear_y", 30, 32, 32, wide=True)[30] == 0.99
    assert magnitudes("translate_x", 30, 10, 331)[30] == 150 and magnitudes("translate_y", 30, 331, 10)[15] == 75
    assert magnitudes("translate_x", 30, 10, 331, wide=True)[30] == 32
    assert magnitudes("rotate", 30, 32, 32, wide=True)[30] == 135
    assert [magnitudes("posterize", 30, 1, 1)[n] for n in (0, 9, 30)] == [8, 7, 4]
    assert magnitudes("posterize", 30, 1, 1, wide=True)[30] == 2
    assert [magnitudes("solarize", 30, 1, 1)[n] for n in (0, 10, 30)] == [255, 170, 0]
    assert magnitudes("contrast", 30, 1, 1)[30] == 0.9 and magnitudes("contrast", 30, 1, 1, wide=True)[30] == 0.99


@pytest.mark.parametrize("name", [*sorted(SIGNED), "posterize"])
def test_level_zero_changes_nothing(name):
    """Of solarize it inverts 255 alone, as in torchvision; the others that are missing here have no level."""
    for wide in (False, True):
        found = operation(name, magnitudes(name, 30, HEIGHT, WIDTH, wide=wide)[0], HEIGHT, WIDTH)
        nothing = operation("identity", 0, HEIGHT, WIDTH)
        assert found._replace(matrix=None, base=nothing.base) == nothing._replace(matrix=None), (
            "a factor of 1 is no blend"
        )
        np.testing.assert_array_equal(found.matrix, nothing.matrix)


SIZE = (8000, HEIGHT, WIDTH)


def rows(what):
    """Operations drawn, as plain numbers to count."""
    columns = [np.asarray(column).reshape(len(what.base), -1) for column in what]
    return [tuple(row) for row in np.concatenate(columns, axis=1).tolist()]


def row(name, magnitude):
    what = operation(name, magnitude, HEIGHT, WIDTH)
    return tuple(np.concatenate([np.reshape(column, -1) for column in what]).tolist())


@pytest.mark.parametrize("levels", [10, 30])
def test_randaugment_draws_all_operations_alike(levels):
    transform = RandAugment(operations=2, magnitude=10, levels=levels)
    first, second = map(rows, transform.draw(jax.random.key(0), *SIZE))
    assert len(first) == 8000 and np.mean([a == b for a, b in zip(first, second, strict=True)]) < 0.15
    expected = Counter()
    for name in OPERATIONS:
        step = magnitudes(name, levels, HEIGHT, WIDTH)[10]
        for sign in (1, -1) if name in SIGNED else (1, 1):
            expected[row(name, sign * step)] += 8000 / 28
    for found in (Counter(first), Counter(second)):
        assert found.keys() == expected.keys()
        assert chisquare([found[key] for key in expected], list(expected.values())).pvalue > 1e-4


def test_trivialaugment_draws_all_levels():
    (what,) = TrivialAugment().draw(jax.random.key(1), *SIZE)
    found = Counter(rows(what))
    assert found[row("rotate", 135)] == pytest.approx(8000 / 14 / 62, abs=12)
    assert found[row("identity", 0)] > 8000 / 14 and found[row("posterize", 2)] > 0 and found[row("equalize", 0)] > 450


@pytest.mark.parametrize("policy", POLICIES)
def test_autoaugment_draws_its_pairs(policy):
    """Both operations of a pair together, as often as its probabilities say."""
    first, second = map(rows, AutoAugment(policy=policy).draw(jax.random.key(2), *SIZE))
    found, expected = Counter(zip(first, second, strict=True)), Counter()
    for pair in POLICIES[policy]:
        choices = []
        for name, probability, level in pair:
            step = magnitudes(name, 9, HEIGHT, WIDTH)[level]
            signs = (1, -1) if name in SIGNED else (1,)
            done = [(row(name, sign * step), probability / len(signs)) for sign in signs]
            choices.append([*done, (row("identity", 0), 1 - probability)])
        for one, p in choices[0]:
            for two, q in choices[1]:
                expected[one, two] += p * q * 8000 / 25
    expected = {pair: count for pair, count in expected.items() if count > 1e-9}
    assert found.keys() <= expected.keys()
    assert chisquare([found[pair] for pair in expected], list(expected.values())).pvalue > 1e-4


def test_the_policies_are_whole():
    assert all(len(pairs) == 25 for pairs in POLICIES.values())
    steps = [step for pairs in POLICIES.values() for pair in pairs for step in pair]
    assert {name for name, _, _ in steps} <= {*OPERATIONS, "invert"}
    assert all(0 <= probability <= 1 and 0 <= level <= 9 for _, probability, level in steps)
