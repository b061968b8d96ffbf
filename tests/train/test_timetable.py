"""How many steps so many epochs are: counted with the number as it is written."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn import CheckpointConfig, EvalConfig, TrainConfig
from jaxcnn.runs.trainer import timetable


def total_steps(epochs, examples, batch_size, last_batch):
    data = SimpleNamespace(sizes={"train": examples}, last_batch=last_batch)
    train = TrainConfig(batch_size=batch_size, epochs=epochs)
    return timetable(train, EvalConfig(), CheckpointConfig(), data).total_steps


@pytest.mark.parametrize(
    ("epochs", "examples", "batch_size", "last_batch", "steps"),
    [
        (1.1, 50_000, 128, "drop", 429),
        (2.2, 50_000, 100, "continue", 1100),
        (1.1, 50_000, 128, "continue", 430),
        (0.07, 10_000, 100, "pad", 7),
        (1e-9, 50_000, 128, "drop", 1),
    ],
)
def test_known_numbers(epochs, examples, batch_size, last_batch, steps):
    assert total_steps(epochs, examples, batch_size, last_batch) == steps


@settings(deadline=None, max_examples=200, database=None)
@given(
    hundredths=st.integers(1, 30_000),
    batches=st.integers(1, 5_000),
    batch_size=st.integers(1, 512),
    last_batch=st.sampled_from(["continue", "drop", "pad"]),
)
def test_hundredths_of_an_epoch_of_whole_batches(hundredths, batches, batch_size, last_batch):
    steps = -(-hundredths * batches // 100)
    assert total_steps(hundredths / 100, batches * batch_size, batch_size, last_batch) == steps
