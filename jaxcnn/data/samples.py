"""Training examples as the network meets them, to look at: no model is built, and no more is decoded than needed."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Shaped, UInt8

from jaxcnn.data.config import DataConfig
from jaxcnn.data.dataset import Dataset, streams, take
from jaxcnn.data.fields import Batch, Boxes, ClassMap, Fields, Image, Label, Value, frame_of
from jaxcnn.data.prepared import training_batch
from jaxcnn.data.slicing import parse
from jaxcnn.data.sources import open_store
from jaxcnn.data.training import training_batches, training_order
from jaxcnn.errors import UsageError
from jaxcnn.keys import AUGMENT, step_key
from jaxcnn.parts import Finder, made

_COLOURS = np.array([(31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75)])


@dataclass(frozen=True)
class Samples:
    """The first examples of a training batch. Class maps are laid over the images in colours, boxes drawn into them."""

    images: UInt8[np.ndarray, "n height width channels"]
    """As the network sees them, but not normalised: after the crop on the host and all that is random."""
    views: UInt8[np.ndarray, "n height width channels"]
    """The same examples as they are evaluated."""
    captions: list[str]
    """Class names, "0.70 tench + 0.30 church" where labels are mixed, numbers, or why the example does not count."""
    counts: Bool[np.ndarray, " n"]
    """False: a bad example, or one that fills a batch up."""


def training_samples(
    config: DataConfig,
    key: Key[Array, ""],
    batch_size: int,
    step: int,
    count: int,
    *,
    finder: Finder = Finder(),  # noqa: B008
    poll: Callable[[], None] = lambda: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Samples:
    """Return the first `count` examples of the batch that training step `step` gets, fewer where it has fewer.

    Args:
        config: the data set.
        key: the experiment's.
        batch_size: of training.
        step: 0 to 2^31 - 1.
        count: 1 or more.
        finder: of what `config` names of a user's own.
        poll: called for each image where all are decoded, and once the batch is; what it raises ends the work.
        progress: told what is decoded, how many images are and how many there are.

    Raises:
        UsageError, RunError: the data cannot be loaded, as in training, or are no images.
    """
    if not 0 <= step < 2**31:
        raise UsageError(f"step is {step}: expected 0 to {2**31 - 1}")
    store = open_store(config, finder=finder, poll=poll)
    frame = frame_of(store.fields)
    if frame is None:
        raise UsageError(f"there is nothing to draw: the data set holds {', '.join(store.fields)}")
    # Both pipelines give the same batches, and this one reads no more than the batch.
    streamed = config.image_size is not None or streams(config, store)
    total = sum(store.sizes[name] for name in {part.split for part in parse(config.train_split, store.sizes)})
    done = itertools.count(1)

    def decoded() -> None:
        poll()
        progress("decoding", next(done), total)

    # As if the training split were the test split, too: no other is then decoded.
    only_train = replace(config, val_split=None, test_split=config.train_split)
    train = take(only_train, store, made(config.train_crop, finder), streamed, decoded)["train"]
    augment = tuple(made(transform, finder) for transform in config.augment)
    data = Dataset(train, None, train, store.fields, augment=augment, last_batch=config.last_batch)
    (stored,) = training_batches(data, key, batch_size, step + 1, start=step)
    poll()
    indices, _, wanted = training_order(data, key, batch_size).rows(step, slice(0, count))
    change = jax.jit(partial(training_batch, norms=None, augment=augment, fields=data.fields))
    trained = jax.tree.map(
        lambda array: np.asarray(array)[:count], change(stored, step_key(jax.random.key_data(key), AUGMENT, step))
    )
    (scored,) = train.batches([indices])
    captions = [
        ", ".join(filter(None, (_caption(trained, row, name, field) for name, field in data.fields.items())))
        if counts
        else "cannot be used"
        if wanted[row]
        else "filler"
        for row, counts in enumerate(trained["mask"])
    ]
    images, views = (_picture(batch, frame, data.fields) for batch in (trained, scored))
    return Samples(images, views, captions, trained["mask"])


def _caption(batch: Batch, row: int, name: str, field: Any) -> str:
    match field:
        case Label(class_names):
            target = batch["target"][row] if "target" in batch else np.eye(len(class_names))[batch[name][row]]
            return _classes(target, class_names)
        case Value():
            return f"{name} {np.array2string(batch[name][row], precision=4, threshold=4)}"
    return ""


def _classes(target: Float[np.ndarray, " classes"], class_names: Sequence[str]) -> str:
    """Return the classes that an example is of, the first ones first."""
    parts = [int(label) for label in np.argsort(-target, kind="stable") if target[label] >= 0.005]
    if len(parts) == 1:
        return class_names[parts[0]]
    return " + ".join(f"{target[label]:.2f} {class_names[label]}" for label in parts)


def _picture(batch: Batch, frame: str, fields: Fields) -> UInt8[np.ndarray, "n height width channels"]:
    """Return the images of a batch, with what is known of places in them."""
    pixels: Any = np.asarray(batch[frame], np.float32)
    kind = fields[frame]
    if not isinstance(kind, Image):  # a class map alone
        pixels = np.zeros((*pixels.shape, 1), np.float32)
    elif kind.dtype == "float32":  # in whatever unit
        low, high = pixels.min(), pixels.max()
        pixels = 255 * (pixels - low) / max(high - low, 1e-12)
    for name, field in fields.items():
        if isinstance(field, ClassMap):
            pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
            known = (batch[name] != field.ignored) & (batch[name] > 0)
            colours = _COLOURS[batch[name].astype(np.int64) % len(_COLOURS)]
            pixels = np.where(known[..., None], 0.5 * pixels + 0.5 * colours, pixels)
        if isinstance(field, Boxes):
            pixels = _outlined(np.broadcast_to(pixels, (*pixels.shape[:3], 3)).copy(), batch[name])
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def _outlined(pixels: Shaped[np.ndarray, "n h w 3"], boxes: Batch) -> Shaped[np.ndarray, "n h w 3"]:
    height, width = pixels.shape[1:3]
    for row, corners, label in zip(
        *np.nonzero(boxes["mask"])[:1], boxes["corners"][boxes["mask"]], boxes["label"][boxes["mask"]], strict=True
    ):
        left, top, right, bottom = np.clip(np.round(corners).astype(int), 0, [width, height, width, height])
        if right > left and bottom > top:
            colour = _COLOURS[label % len(_COLOURS)]
            pixels[row, top:bottom, [left, right - 1]] = colour
            pixels[row, [top, bottom - 1], left:right] = colour
    return pixels
