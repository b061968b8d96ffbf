"""Training examples as the network meets them, to look at: no model is built, and no more is decoded than needed."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxcnn.data.prepared import Norms, training_batch
from jaxcnn.data.slicing import parse
from jaxcnn.data.sources import open_store, streams, take
from jaxcnn.data.streaming import Reader
from jaxcnn.errors import UsageError
from jaxcnn.experiment import Experiment
from jaxcnn.runs.session import crop_key, order_of
from jaxcnn.train.step import AUGMENT_KEY, step_key


@dataclass(frozen=True)
class Samples:
    """The first examples of a training batch."""

    images: UInt8[np.ndarray, "n height width channels"]
    """As the network sees them, but not normalised: after the crop on the host and all that is random."""
    views: UInt8[np.ndarray, "n height width channels"]
    """The same examples as they are evaluated."""
    captions: list[str]
    """Class names, "0.70 tench + 0.30 church" where labels are mixed, or why the example does not count."""
    counts: Bool[np.ndarray, " n"]
    """False: a bad example, or one that fills a batch up."""


def training_samples(
    experiment: Experiment,
    step: int,
    count: int,
    poll: Callable[[], None] = lambda: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Samples:
    """Return the first `count` examples of the batch that training step `step` gets, fewer where it has fewer.

    Args:
        experiment: whose batches; of several seeds the first.
        step: 0 to 2^31 - 1.
        count: 1 or more.
        poll: called for each image where all are decoded, and once the batch is; what it raises ends the work.
        progress: told what is decoded, how many images are and how many there are.

    Raises:
        UsageError, RunError: the data cannot be loaded, as in training.
    """
    if not 0 <= step < 2**31:
        raise UsageError(f"step is {step}: expected 0 to {2**31 - 1}")
    data = experiment.data
    store = open_store(data, poll)
    # Both pipelines give the same batches, and this one reads no more than the batch.
    streamed = data.image_size is not None or streams(data, store)
    total, done = sum(store.sizes[name] for name in {p.split for p in parse(data.train_split, store.sizes)}), _counter()

    def decoded() -> None:
        poll()
        progress("decoding", done(), total)

    # As if the other splits were the training split, which is then the only one to be decoded.
    only_train = replace(data, val_split=None, test_split=data.train_split)
    dataset = take(only_train, store, streamed, decoded)
    key, train = jax.random.key(experiment.seed), dataset.train
    rows = slice(0, experiment.train.batch_size)
    order = order_of(experiment, len(train))
    indices, _, counted = order.rows(step, rows)
    if isinstance(train, Reader):
        feed = train.stream(order, rows, step + 1, crop_key(experiment))
        batch = feed.at(step)
        feed.close()
    else:
        (batch,) = train.batches([indices])
        batch["mask"] = batch["mask"] & counted
    poll()
    num_classes = experiment.model.num_classes or len(dataset.class_names)
    norms = Norms(np.zeros(1, np.float32), np.ones(1, np.float32))  # what normalises would only have to be undone
    prepare = jax.jit(partial(training_batch, norms=norms, config=data, num_classes=num_classes))
    stored = {name: batch[name] for name in ("image", "label", "mask")}
    prepared = prepare(stored, step_key(jax.random.key_data(key), AUGMENT_KEY, step))
    images = np.clip(np.round(255 * np.asarray(prepared["image"][:count])), 0, 255).astype(np.uint8)
    (views,) = train.batches([indices[:count]])
    shown = {name: np.asarray(values)[:count] for name, values in prepared.items()}
    targets = shown.get("target", np.eye(num_classes, dtype=np.float32)[shown["label"]])
    captions = [
        _caption(target, dataset.class_names) if mask else "cannot be used" if wanted else "filler"
        for target, mask, wanted in zip(targets, shown["mask"], counted, strict=False)
    ]
    return Samples(images, views["image"], captions, shown["mask"])


def _counter() -> Callable[[], int]:
    """Return what counts from 1, whichever thread calls it."""
    return partial(next, itertools.count(1))


def _caption(target: Float[np.ndarray, " classes"], class_names: Sequence[str]) -> str:
    """Return the classes that an example is of, the first ones first."""
    parts = [int(label) for label in np.argsort(-target, kind="stable") if target[label] >= 0.005]
    if len(parts) == 1:
        return class_names[parts[0]]
    return " + ".join(f"{target[label]:.2f} {class_names[label]}" for label in parts)
