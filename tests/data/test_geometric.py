"""What moves with an image: further images, class maps, boxes; what stays: labels and values."""

from dataclasses import dataclass, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn.data.augment import (
    Affine,
    Augmentation,
    AutoAugment,
    Flip,
    Geometric,
    PadCrop,
    RandAugment,
    TrivialAugment,
    augment,
)
from jaxcnn.data.fields import Boxes, ClassMap, Image, Label, Value
from jaxcnn.data.transforms.policies import Policy, operation
from jaxcnn.errors import UsageError
from jaxcnn.typed import variants

COUNT, IGNORED = 16, 200
FIELDS = {
    "image": Image(3),
    "label": Label(("a", "b")),
    "second": Image(1),
    "depth": Image(1),
    "ones": Image(1),
    "map": ClassMap(("nothing", "thing"), ignored=IGNORED),
    "boxes": Boxes(("thing",), most=3, least_share=0.0),
    "angle": Value((2,)),
}


@dataclass(frozen=True, kw_only=True)
class Moves(Policy):
    """The operations of the policies that move pixels, and nothing that changes their colours."""

    operations: int = 1

    def draw(self, key, count, height, width):
        sizes = {"shear_x": 0.3, "shear_y": -0.3, "translate_x": 3, "translate_y": -2, "rotate": 40}
        table = jnp.stack([jnp.asarray(operation(name, size, height, width).matrix) for name, size in sizes.items()])
        rows = jax.random.randint(key, (self.operations, count), 0, len(table))
        plain = operation("identity", 0, height, width)._replace(matrix=0)
        return [jax.tree.map(lambda value: jnp.full(count, value), plain)._replace(matrix=table[row]) for row in rows]


@dataclass(frozen=True)
class UpsideDown(Geometric):
    """A user's own."""

    def draw(self, key, count, height, width):
        return jax.random.bernoulli(key, 0.5, (count,))

    def move(self, drawn, images, fill, interpolation):
        return jnp.where(drawn[:, None, None, None], images[:, ::-1], images)

    def points(self, drawn, xy, height, width):
        return xy.at[..., 1].set(jnp.where(drawn[:, None], height - xy[..., 1], xy[..., 1]))


AFFINE = Affine(degrees=60, shear=15, scale=(0.6, 1.6), translate=(0.2, 0.3))
ALL = {
    "flip": Flip(),
    "pad_crop": PadCrop(pad=3),
    "pad_crop, reflected": PadCrop(pad=3, mode="reflect"),
    "affine": AFFINE,
    "affine, bilinear": replace(AFFINE, interpolation="bilinear"),
    "moves": Moves(),
    "moves twice": Moves(operations=2),
    "own": UpsideDown(),
    "rand_augment": RandAugment(magnitude=25),
    "trivial_augment": TrivialAugment(),
    "auto_augment": AutoAugment(policy="svhn"),
}
COLOURED = (RandAugment, TrivialAugment, AutoAugment)
# Where pixels are read twice by nearest neighbour they may be off by half a pixel, turned and sheared, in the end.
TWICE = ("moves twice", "rand_augment", "auto_augment")
each = pytest.mark.parametrize("name", ALL)


def planted(height, width, seed, bright=255):
    """A batch of dark images with one bright pixel each, which is a class of its own and an object of its own."""
    rng = np.random.default_rng(seed)
    y, x = rng.integers(0, height, COUNT), rng.integers(0, width, COUNT)
    pixel = np.zeros((COUNT, height, width, 1), np.uint8)
    pixel[np.arange(COUNT), y, x] = 1
    own = np.stack([x, y, x + 1, y + 1], axis=-1)
    everything = np.broadcast_to([0, 0, width, height], own.shape)
    return {
        "image": jnp.asarray(np.repeat(bright * pixel, 3, axis=-1)),
        "label": jnp.arange(COUNT, dtype=jnp.int32) % 2,
        "second": jnp.asarray(bright * pixel),
        "depth": jnp.asarray(1e4 * pixel, jnp.float32),
        "ones": jnp.ones((COUNT, height, width, 1), jnp.uint8),
        "map": jnp.asarray(pixel[..., 0]),
        "boxes": {
            "corners": jnp.asarray(np.stack([own, everything, own], axis=1), jnp.float32),
            "label": jnp.asarray(rng.integers(0, 9, (COUNT, 3)), jnp.int32),
            "mask": jnp.asarray([[True, True, False]] * COUNT),
        },
        "angle": jnp.asarray(rng.normal(size=(COUNT, 2)), jnp.float32),
        "mask": jnp.asarray(rng.random(COUNT) > 0.3),
    }


@cache
def compiled(name):
    return jax.jit(lambda key, batch: augment((ALL[name],), key, batch, FIELDS))


def moved(name, seed, batch):
    return jax.tree.map(np.asarray, compiled(name)(jax.random.key(seed), batch))


def test_all_that_move_are_here():
    kinds = {kind for kind in variants(Augmentation).values() if issubclass(kind, Geometric)}
    assert kinds <= {type(transform) for transform in ALL.values()} and len(kinds) == 6


@settings(deadline=None, max_examples=8)
@given(size=st.sampled_from([(16, 16), (9, 21)]), seed=st.integers(0, 2**31 - 1))
@each
def test_a_pixel_its_class_and_its_box_stay_together(name, size, seed):
    (height, width), transform = size, ALL[name]
    before = planted(height, width, seed)
    after = moved(name, seed, before)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and np.isfinite(one).all()
    for field in ("label", "angle", "mask"):
        np.testing.assert_array_equal(after[field], before[field])
    np.testing.assert_array_equal(after["boxes"]["label"], before["boxes"]["label"])
    there, outside = after["map"] == 1, after["map"] == IGNORED
    assert set(np.unique(after["map"])) <= {0, 1, IGNORED}
    np.testing.assert_array_equal(after["depth"][..., 0], 1e4 * there)  # read by nearest neighbour, always
    if transform.interpolation == "nearest":
        np.testing.assert_array_equal(after["second"][..., 0], 255 * there)
        np.testing.assert_array_equal(after["ones"][..., 0] == 0, outside)
    else:
        assert (after["second"][there] >= 60).all() and (after["second"][outside] == 0).all()
    if not isinstance(transform, COLOURED):
        np.testing.assert_array_equal(after["image"], np.repeat(after["second"], 3, axis=-1))
    corners, mask = after["boxes"]["corners"], after["boxes"]["mask"]
    assert (corners[..., :2] <= corners[..., 2:]).all() and not mask[:, 2].any()
    assert corners.min() >= 0 and (corners[..., 2] <= width).all() and (corners[..., 3] <= height).all()
    example, row, column = np.nonzero(there)
    if getattr(transform, "mode", "") != "reflect":  # a mirror image has no box
        kept, off = mask[example, 0], 0.75 if name in TWICE else 1e-3
        middle = np.stack([column, row], axis=-1) + 0.5
        assert (corners[example, 0, :2] - off <= middle)[kept].all()
        assert (corners[example, 0, 2:] + off >= middle)[kept].all()
        edge = np.minimum(middle, np.array([width, height]) - middle).min(-1)
        assert (kept | ((name in TWICE) & (edge < 0.75))).all()
    if isinstance(transform, Flip | UpsideDown) or (isinstance(transform, PadCrop) and transform.mode == "zero"):
        np.testing.assert_array_equal(mask[:, 0], there.any((1, 2)))
        own = np.stack([column, row, column + 1, row + 1], axis=-1)
        np.testing.assert_array_equal(corners[example, 0], own)


@each
def test_something_moves(name):
    """So that the test above says something: pixels move for most examples, also out of the image."""
    before = planted(16, 16, 0)
    after = [moved(name, seed, before) for seed in range(4)]
    share = np.mean([(one["map"] != before["map"]).any((1, 2)) for one in after])
    assert share > (0.3 if isinstance(ALL[name], (*COLOURED, Flip, UpsideDown)) else 0.8)
    corners = np.mean([(one["boxes"]["corners"] != before["boxes"]["corners"]).any((1, 2)) for one in after])
    assert corners > (0.2 if isinstance(ALL[name], (*COLOURED, Flip, UpsideDown)) else 0.8)


@each
def test_the_image_moves_as_it_does_alone(name):
    batch = {name: value for name, value in planted(16, 16, 3, bright=90).items() if name in ("image", "label", "mask")}
    alone = augment((ALL[name],), jax.random.key(5), batch, {name: FIELDS[name] for name in ("image", "label")})
    together = moved(name, 5, planted(16, 16, 3, bright=90))
    assert alone.keys() == batch.keys()
    for field, values in alone.items():
        np.testing.assert_array_equal(values, together[field])


def leaves_equal(ours, theirs):
    for (path, one), other in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=jax.tree_util.keystr(path))


@each
def test_sharded_over_eight_devices(name):
    batch, key = planted(16, 16, 1), jax.random.key(2)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    run = jax.jit(lambda key, batch: augment((ALL[name],), key, batch, FIELDS), out_shardings=sharding)
    spread = run(key, jax.device_put(batch, sharding))
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(spread))
    leaves_equal(compiled(name)(key, batch), spread)


def eager_and_mapped(name):
    batches, keys = [planted(16, 16, seed) for seed in (7, 8)], jax.random.split(jax.random.key(2))
    ours = [compiled(name)(key, batch) for key, batch in zip(keys, batches, strict=True)]
    leaves_equal(ours[0], augment((ALL[name],), keys[0], batches[0], FIELDS))
    mapped = jax.vmap(lambda key, batch: augment((ALL[name],), key, batch, FIELDS))
    both = jax.jit(mapped)(keys, jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches))
    leaves_equal(jax.tree.map(lambda *leaves: jnp.stack(leaves), *ours), both)


QUICK = [name for name in ALL if not isinstance(ALL[name], Policy)]


@pytest.mark.parametrize("name", QUICK)
def test_jitted_eager_and_mapped_are_the_same_bits(name):
    eager_and_mapped(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in QUICK])
def test_jitted_eager_and_mapped_are_the_same_bits_for_the_policies(name):
    eager_and_mapped(name)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1))
@pytest.mark.parametrize("name", ["flip", "own"])
def test_mirrored_twice_is_as_before(name, seed):
    before = planted(9, 21, seed)
    leaves_equal(before, moved(name, seed, moved(name, seed, before)))


@pytest.mark.parametrize("transform", [Flip(probability=0.0), PadCrop(pad=0), Affine(), RandAugment(magnitude=0)])
def test_what_does_not_move_keeps_its_bits(transform):
    batch = planted(16, 16, 0)
    corners = np.sort(np.random.default_rng(0).uniform(0, 16, (COUNT, 3, 2, 2)).astype(np.float32), axis=2)
    batch["boxes"]["corners"] = jnp.asarray(corners.reshape(COUNT, 3, 4))
    found = augment((transform,), jax.random.key(0), batch, FIELDS)
    leaves_equal(batch["boxes"], found["boxes"])
    np.testing.assert_array_equal(found["map"], batch["map"])


@dataclass(frozen=True)
class Right(Geometric):
    """Moves all to the right."""

    by: float = 1.0

    def draw(self, key, count, height, width):
        return jnp.full(count, self.by)

    def move(self, drawn, images, fill, interpolation):
        return images

    def points(self, drawn, xy, height, width):
        return xy + drawn[:, None, None] * jnp.array([1.0, 0.0])


@pytest.mark.parametrize(
    ("least", "by", "left"),
    [(0.1, 0, True), (0.1, 8.75, True), (0.1, 9.25, False), (0.5, 5, True), (0.5, 5.25, False), (0, 9.75, True)],
)
def test_objects_of_which_too_little_is_left(least, by, left):
    """Of a box ten pixels wide, ten less `by` are left; one that ends within the image loses nothing."""
    batch = {
        "image": jnp.zeros((1, 20, 20, 3), jnp.uint8),
        "boxes": {
            "corners": jnp.array([[[10, 4, 20, 8], [-5 - by, 4, 5 - by, 8], [0, 4, 10, 8]]], jnp.float32),
            "label": jnp.array([[1, 2, 3]]),
            "mask": jnp.array([[True, True, True]]),
        },
        "mask": jnp.ones(1, bool),
    }
    fields = {"image": Image(), "boxes": Boxes(("a",), most=3, least_share=least)}
    found = augment((Right(by=by),), jax.random.key(0), batch, fields)["boxes"]
    assert found["mask"].tolist() == [[left, True, True]]
    assert found["corners"].tolist() == [[[10 + by, 4, 20, 8], [0, 4, 5, 8], [by, 4, min(10 + by, 20), 8]]]


def test_an_object_of_which_nothing_is_left():
    batch = planted(8, 8, 0)
    found = augment((Right(by=8.0),), jax.random.key(0), batch, FIELDS)["boxes"]
    assert not found["mask"].any() and np.isfinite(found["corners"]).all()


def test_what_moves_together_is_of_one_size():
    batch = planted(8, 8, 0)
    for name, value in {"second": batch["second"][:, :4], "map": batch["map"][:, :, :5]}.items():
        rows, columns = value.shape[1:3]
        message = f"Affine: field '{name}' is {rows}x{columns}: expected 8x8 as the image"
        with pytest.raises(UsageError, match=message):
            augment((AFFINE,), jax.random.key(0), {**batch, name: value}, FIELDS)


def test_class_maps_of_many_classes():
    fields = {"image": Image(), "map": ClassMap(tuple(map(str, range(1000))), ignored=-1)}
    batch = {
        "image": jnp.zeros((4, 6, 6, 3), jnp.uint8),
        "map": jnp.full((4, 6, 6), 999, jnp.int32),
        "mask": jnp.ones(4, bool),
    }
    found = augment((Affine(scale=(0.5, 0.5)), PadCrop(pad=2)), jax.random.key(0), batch, fields)["map"]
    assert found.dtype == jnp.int32 and set(np.unique(found)) == {-1, 999}
