import itertools
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.data.order import Order, batches_per_epoch, epoch_permutation
from jaxcnn.data.resident import Stream, batch_indices
from jaxcnn.errors import UsageError

KEY = jax.random.key(7)


def on_device(order, step):
    perms, offset = Stream(order).at(step)
    return np.asarray(batch_indices(perms, offset, order.batch_size))


def on_host(order, step, rows=slice(None)):
    return order.rows(step, rows)[0]


@pytest.mark.parametrize("indices", [on_device, on_host])
@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (5, 5), (7, 3), (12, 4)])
def test_each_epoch_visits_each_example_once(n, batch_size, indices):
    order = Order(KEY, n, batch_size)
    seen = np.concatenate([indices(order, step) for step in range(2 * n)])
    for epoch in range(len(seen) // n):
        visited = seen[epoch * n : (epoch + 1) * n]
        np.testing.assert_array_equal(np.sort(visited), np.arange(n))
        np.testing.assert_array_equal(visited, epoch_permutation(KEY, epoch, n))


@settings(deadline=None, max_examples=15)
@given(batch_size=st.integers(1, 11), steps=st.lists(st.integers(0, 4 * 10**9), min_size=1, max_size=3))
def test_a_batch_depends_on_key_and_step_alone(batch_size, steps):
    n = 11
    order = Order(KEY, n, batch_size)
    for step in steps:  # in any order, far beyond int32
        positions = [step * batch_size + i for i in range(batch_size)]
        expected = [int(epoch_permutation(KEY, np.uint32(p // n), n)[p % n]) for p in positions]
        assert on_device(order, step).tolist() == on_host(order, step).tolist() == expected
        np.testing.assert_array_equal(order.rows(step, slice(None))[1], positions)
        np.testing.assert_array_equal(on_host(Order(KEY, n, batch_size), step, slice(1, None)), expected[1:])


def test_epochs_and_keys_differ():
    orders = [np.asarray(epoch_permutation(jax.random.key(seed), e, 50)).tolist() for seed in (0, 1) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_batches_of_an_epoch_are_counted_exactly():
    """So that 1.1 epochs of 100 batches are 110, not 110.00000000000001, which would be one more."""
    assert batches_per_epoch(1000, 10, "continue") * Fraction("1.1") == 110
    found = [batches_per_epoch(7, 3, last_batch) for last_batch in ("continue", "drop", "pad")]
    assert found == [Fraction(7, 3), 2, 3]


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 12), batch_size=st.integers(1, 12), last_batch=st.sampled_from(["drop", "pad"]))
def test_the_last_batch_of_an_epoch_is_dropped_or_padded(n, batch_size, last_batch):
    if batch_size > n:
        return
    order = Order(KEY, n, batch_size, last_batch)
    per_epoch = int(batches_per_epoch(n, batch_size, last_batch))
    assert per_epoch == (n // batch_size if last_batch == "drop" else -(-n // batch_size))
    for epoch in range(2):
        rows = [order.rows(step, slice(None)) for step in range(epoch * per_epoch, (epoch + 1) * per_epoch)]
        indices, positions, counts = (np.concatenate(column) for column in zip(*rows, strict=True))
        assert len(counts) == per_epoch * batch_size
        visited = epoch_permutation(KEY, epoch, n)[: counts.sum()]
        np.testing.assert_array_equal(indices[counts], visited)
        np.testing.assert_array_equal(positions[counts], epoch * n + np.arange(counts.sum()))
        assert counts.sum() == (n if last_batch == "pad" else n - n % batch_size)


def test_as_many_steps_can_be_scanned_as_promised():
    n, batch_size = 23, 5
    order = Order(KEY, n, batch_size)
    for step in range(20):
        perms, offset = Stream(order).at(step)
        for ahead in range(n // batch_size):
            later = batch_indices(perms, offset + np.int32(ahead * batch_size), batch_size)
            np.testing.assert_array_equal(later, on_host(order, step + ahead))


@pytest.mark.parametrize("batch_size", [0, 8])
def test_batch_size_must_fit(batch_size):
    with pytest.raises(UsageError, match="expected 1 to 7"):
        Order(KEY, 7, batch_size)


def test_the_stream_keeps_its_permutations_within_an_epoch():
    stream = Stream(Order(KEY, 20, 5))
    perms = [stream.at(step)[0] for step in range(8)]
    assert all(a is b for a, b in itertools.pairwise(perms[:4])) and perms[3] is not perms[4]
