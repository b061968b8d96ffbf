import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn.data import DataConfig, Split
from jaxcnn.data.resident import Arrays, Stream, batch_indices, epoch_permutation, eval_batches, make_batch
from jaxcnn.errors import UsageError

KEY = jax.random.key(7)


def indices(stream, step):
    perms, offset = stream.at(step)
    return np.asarray(batch_indices(perms, offset, stream.batch_size))


@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (5, 5), (7, 3), (12, 4), (30, 29)])
def test_each_epoch_visits_each_example_once(n, batch_size):
    stream = Stream(KEY, n, batch_size)
    seen = np.concatenate([indices(stream, step) for step in range(3 * n)])
    for epoch in range(len(seen) // n):
        order = seen[epoch * n : (epoch + 1) * n]
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
        np.testing.assert_array_equal(order, epoch_permutation(KEY, epoch, n))


@settings(deadline=None, max_examples=15)
@given(batch_size=st.integers(1, 11), steps=st.lists(st.integers(0, 4 * 10**9), min_size=1, max_size=3))
def test_a_batch_depends_on_key_and_step_alone(batch_size, steps):
    n = 11
    stream = Stream(KEY, n, batch_size)
    for step in steps:  # in any order, far beyond int32
        positions = [step * batch_size + i for i in range(batch_size)]
        expected = [int(epoch_permutation(KEY, np.uint32(p // n), n)[p % n]) for p in positions]
        found = indices(stream, step)
        assert found.tolist() == expected
        np.testing.assert_array_equal(indices(Stream(KEY, n, batch_size), step), found)


def test_epochs_and_keys_differ():
    orders = [np.asarray(epoch_permutation(jax.random.key(seed), e, 50)).tolist() for seed in (0, 1) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_as_many_steps_can_be_scanned_as_promised():
    n, batch_size = 23, 5
    stream = Stream(KEY, n, batch_size)
    for step in range(40):
        perms, offset = stream.at(step)
        for ahead in range(n // batch_size):
            later = batch_indices(perms, offset + np.int32(ahead * batch_size), batch_size)
            np.testing.assert_array_equal(later, indices(Stream(KEY, n, batch_size), step + ahead))


@pytest.mark.parametrize("batch_size", [0, 8])
def test_batch_size_must_fit(batch_size):
    with pytest.raises(UsageError, match="expected 1 to 7"):
        Stream(KEY, 7, batch_size)


def some_split(n, size=6, channels=3):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, size, size, channels)).astype(np.uint8)
    return Split(images, np.arange(n, dtype=np.int32))


def test_plain_batch_holds_the_examples_of_the_stream():
    split, stream = some_split(10), Stream(KEY, 10, 4)
    mean, std = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
    arrays = jax.device_put(Arrays(split.images, split.labels, mean, std))
    perms, offset = stream.at(2)  # straddles epochs 0 and 1
    batch = make_batch(arrays, perms, offset, jax.random.key(0), DataConfig(source="digits"), 4)
    chosen = indices(stream, 2)
    np.testing.assert_array_equal(batch["label"], chosen)
    np.testing.assert_allclose(batch["image"], (split.images[chosen] / 255 - 0.5) / 0.25, atol=1e-6)
    assert batch["image"].dtype == np.float32 and batch["label"].dtype == np.int32
    assert batch["mask"].dtype == bool and batch["mask"].all()


def test_augmented_batch_is_the_same_on_one_device_and_on_eight():
    split = some_split(40)
    config = DataConfig(source="digits", pad_crop=2, flip=True)
    arrays = Arrays(split.images, split.labels, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, split_up = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    batches = []
    for place, shardings in ((jax.device_put, None), (lambda tree: jax.device_put(tree, whole), split_up)):
        stream = Stream(KEY, 40, 16, place)
        make = jax.jit(make_batch, static_argnames=("config", "batch_size"), out_shardings=shardings)
        batches.append(make(place(arrays), *stream.at(2), jax.random.key(1), config=config, batch_size=16))
    one, eight = batches
    assert len(eight["image"].sharding.device_set) == 8
    for name in one:
        np.testing.assert_array_equal(one[name], eight[name])
    plain = make_batch(
        arrays, *Stream(KEY, 40, 16).at(2), jax.random.key(1), DataConfig(source="digits"), batch_size=16
    )
    assert (np.asarray(plain["image"]) != np.asarray(one["image"])).any()
    np.testing.assert_array_equal(plain["label"], one["label"])


@settings(deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_evaluation_counts_each_example_once(n, batch_size):
    split = some_split(n, size=2)
    batches = list(eval_batches(split, batch_size))
    assert {batch["image"].shape for batch in batches} == {(batch_size, 2, 2, 3)}
    assert len(batches) == -(-n // batch_size)
    np.testing.assert_array_equal(np.concatenate([b["label"][b["mask"]] for b in batches]), split.labels)
    np.testing.assert_array_equal(np.concatenate([b["image"][b["mask"]] for b in batches]), split.images)
    assert all(not b["image"][~b["mask"]].any() for b in batches)
    assert {(b["image"].dtype, b["label"].dtype, b["mask"].dtype) for b in batches} == {
        (np.dtype("uint8"), np.dtype("int32"), np.dtype("bool"))
    }


def test_the_stream_keeps_its_permutations_within_an_epoch():
    stream = Stream(KEY, 20, 5)
    perms = [stream.at(step)[0] for step in range(8)]
    assert all(a is b for a, b in itertools.pairwise(perms[:4])) and perms[3] is not perms[4]
