import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn import Flip, PadCrop
from jaxcnn.data import Split
from jaxcnn.data.bad import Bad
from jaxcnn.data.examples import eval_batches
from jaxcnn.data.fields import Image, Label
from jaxcnn.data.norms import Norms
from jaxcnn.data.order import Order
from jaxcnn.data.prepared import training_batch
from jaxcnn.data.resident import Arrays, Stream, gather

KEY = jax.random.key(7)
NORMS = Norms(np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
FIELDS = {"image": Image(), "label": Label(tuple(map(str, range(40))))}


def some_split(n, size=6, channels=3):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, size, size, channels)).astype(np.uint8)
    return Split({"image": images, "label": np.arange(n, dtype=np.int32)})


def make_batch(arrays, perms, offset, key, augment, batch_size, last_batch="continue"):
    batch = gather(arrays, perms, offset, batch_size, last_batch)
    return training_batch(batch, key, NORMS, augment, FIELDS)


def test_plain_batch_holds_the_examples_of_the_stream():
    split, order = some_split(10), Order(KEY, 10, 4)
    perms, offset = Stream(order).at(2)  # straddles epochs 0 and 1
    batch = make_batch(jax.device_put(Arrays.of(split)), perms, offset, jax.random.key(0), (), 4)
    chosen = order.rows(2, slice(None))[0]
    np.testing.assert_array_equal(batch["label"], chosen)
    np.testing.assert_allclose(batch["image"], (split.arrays["image"][chosen] / 255 - 0.5) / 0.25, atol=1e-6)
    assert batch["image"].dtype == np.float32 and batch["label"].dtype == np.int32
    assert batch["mask"].dtype == bool and batch["mask"].all()


def test_what_does_not_count_is_masked():
    split = Split(some_split(10).arrays, {3: Bad("x", "cut off")})
    order = Order(KEY, 10, 4, "pad")
    arrays = Arrays.of(split)
    for step in range(3):
        batch = make_batch(arrays, *Stream(order).at(step), jax.random.key(0), (), 4, "pad")
        chosen, _, counts = order.rows(step, slice(None))
        expected = counts & (chosen != 3)
        np.testing.assert_array_equal(batch["mask"], expected)


def test_augmented_batch_is_the_same_on_one_device_and_on_eight():
    split = some_split(40)
    augment = (PadCrop(pad=2), Flip())
    arrays = Arrays.of(split)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, split_up = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    batches = []
    for place, shardings in ((jax.device_put, None), (lambda tree: jax.device_put(tree, whole), split_up)):
        stream = Stream(Order(KEY, 40, 16), place)
        make = jax.jit(make_batch, static_argnames=("augment", "batch_size"), out_shardings=shardings)
        batches.append(make(place(arrays), *stream.at(2), jax.random.key(1), augment=augment, batch_size=16))
    one, eight = batches
    assert len(eight["image"].sharding.device_set) == 8
    for name in one:
        np.testing.assert_array_equal(one[name], eight[name])
    plain = make_batch(arrays, *Stream(Order(KEY, 40, 16)).at(2), jax.random.key(1), (), 16)
    assert (np.asarray(plain["image"]) != np.asarray(one["image"])).any()
    np.testing.assert_array_equal(plain["label"], one["label"])


@settings(deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_evaluation_counts_each_example_once(n, batch_size):
    split = some_split(n, size=2)
    batches = list(eval_batches(split, batch_size))
    assert {batch["image"].shape for batch in batches} == {(batch_size, 2, 2, 3)}
    assert len(batches) == -(-n // batch_size)
    np.testing.assert_array_equal(np.concatenate([b["label"][b["mask"]] for b in batches]), split.arrays["label"])
    np.testing.assert_array_equal(np.concatenate([b["image"][b["mask"]] for b in batches]), split.arrays["image"])
    assert all(not b["image"][~b["mask"]].any() for b in batches)
    assert {(b["image"].dtype, b["label"].dtype, b["mask"].dtype) for b in batches} == {
        (np.dtype("uint8"), np.dtype("int32"), np.dtype("bool"))
    }


@pytest.mark.parametrize("part", [slice(2, 5), slice(4, 9), slice(0, 3)])
def test_a_slice_keeps_what_is_bad(part):
    split = Split(some_split(9).arrays, {2: Bad("b", "r"), 4: Bad("c", "r")})
    assert [bad.name for bad in split[part].bad] == [name for i, name in ((2, "b"), (4, "c")) if i in range(9)[part]]
    np.testing.assert_array_equal(
        split[part].arrays["label"][~split[part].usable], [i for i in (2, 4) if i in range(9)[part]]
    )
