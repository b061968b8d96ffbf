"""Large data sets: examples decoded by threads while the network trains, sent ahead to the devices.

The batches are those of the resident path: the same order (order.py), and the same pixels where nothing is random on
the host. What is random is drawn from (key, position in the stream), so a batch depends neither on threads nor on how
far ahead they work, nor on which process makes which of its rows.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from jaxcnn.data import images as imaging
from jaxcnn.data.bad import Bad, BadExamples, labelled
from jaxcnn.data.config import DataConfig
from jaxcnn.data.crops import RandomResizedCrop, ScaleJitter, generator
from jaxcnn.data.dataset import Batch
from jaxcnn.data.decode import BadImage, decode_crop, image_size, one_thread, resize_crop
from jaxcnn.data.order import Order
from jaxcnn.data.stores.records import Records

# Puts the pixels of an example at a position of the stream into `out`.
Draw = Callable[[bytes | np.ndarray, int, np.ndarray], None]
Rows = tuple[Int32[np.ndarray, " rows"], Int64[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]

# Batches made ahead of the one that is asked for; the loop asks before the devices are done. More would not stay in the
# processor's cache: 2 took a tenth of the speed.
_AHEAD = 1
# Examples that a thread decodes at a stretch: enough that handing them over costs nothing.
_CHUNK = 32


class Reader:
    """One split, from whose files batches are decoded."""

    def __init__(
        self,
        records: Records,
        shape: tuple[int, ...],
        class_names: Sequence[str],
        config: DataConfig,
        bad: BadExamples,
    ) -> None:
        """Note where the examples are.

        Args:
            records: the examples.
            shape: height, width, channels that images are brought to.
            class_names: labels index them.
            config: `resize`, `threads` and `train_crop` are read.
            bad: is told of the examples that cannot be used.
        """
        self.records, self.image_shape = records, shape
        self._bad, self._class_names, self._config = bad, class_names, config

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.records)

    @property
    def shapes(self):
        import jax

        return {"image": jax.ShapeDtypeStruct(self.image_shape, np.uint8), "label": jax.ShapeDtypeStruct((), np.int32)}

    @property
    def bad(self) -> Sequence[Bad]:
        """The examples that cannot be used, among those decoded so far."""
        return self._bad.in_order()

    @property
    def unusable(self) -> Mapping[int, Bad]:
        """The same, by their indices."""
        return dict(self._bad.found)

    def restore_unusable(self, found: Mapping[int, Bad]) -> None:
        """Take up the bad examples that an earlier sitting found."""
        self._bad.restore(found)

    def fingerprint(self) -> str:
        """Return what tells this split from another: a SHA-256 over names, sizes and labels, not over pixels."""
        return self.records.fingerprint()

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of an image as it is stored; (1, 1) where it cannot be told."""
        try:
            return image_size(self.records[index].image)
        except BadImage:
            return 1, 1

    def batches(self, indices: Sequence[Int64[np.ndarray, " rows"]]) -> Iterator[Batch]:
        """Yield batches of the examples given by their indices, as they are scored.

        Yields:
            image uint8 [rows, height, width, channels], label int32, mask bool: False where an example is bad, whose
            image and label are 0.
        """
        yield from self.drawn(indices, self.image_shape, self._fitted)

    def drawn(
        self, indices: Sequence[Int64[np.ndarray, " rows"]], shape: tuple[int, ...], draw: Draw
    ) -> Iterator[Batch]:
        """Yield batches as `batches` does, whose images `draw` makes, of another shape."""
        rows = [(chosen, chosen, np.ones(len(chosen), bool)) for chosen in indices]
        feed = Feed(self, rows.__getitem__, len(rows), draw, shape)
        try:
            yield from (feed.at(step) for step in range(len(rows)))
        finally:
            feed.close()

    def stream(self, order: Order, rows: slice, steps: int, key: tuple[int, int]) -> "Feed":
        """Return some rows of each training batch, cropped at random as the configuration says.

        Args:
            order: of the examples.
            rows: of each batch that this process makes.
            steps: how many batches there are.
            key: what is random is drawn from it.
        """
        crop = self._config.train_crop
        draw = self._fitted if crop is None else self._cropped(crop, key)
        return Feed(self, lambda step: order.rows(step, rows), steps, draw, self.image_shape)

    def read(self, index: int, position: int, draw: Draw, out: UInt8[np.ndarray, "*shape"]) -> int | None:
        """Decode one example into `out` and return its label; None where it is bad, and `out` black."""
        try:
            image, label = labelled(self.records, index, self._class_names)
            draw(image, position, out)
            return label
        except BadImage as error:
            self._bad.add(index, self.records.name(index), str(error))
            out[...] = 0
            return None

    def _fitted(self, image: bytes | np.ndarray, position: int, out: np.ndarray) -> None:
        out[...] = imaging.fitted(image, out.shape[-1], self._config)

    def _cropped(self, crop: RandomResizedCrop | ScaleJitter, key: tuple[int, int]) -> Draw:
        def draw(image: bytes | np.ndarray, position: int, out: np.ndarray) -> None:
            side, *_, channels = out.shape
            box = crop.box(generator(key, position), *image_size(image), side)
            if isinstance(image, bytes):
                decode_crop(image, box, (side, side), channels, crop.interpolation, out)
            else:
                resize_crop(image, box, (side, side), crop.interpolation, out)

        return draw

    @property
    def threads(self) -> int:
        """How many threads decode."""
        return self._config.threads or imaging.cores()


class Feed:
    """Batches in the order of their steps, made ahead of time by Grain's threads; or again from any step on."""

    def __init__(
        self, reader: Reader, rows: Callable[[int], Rows], steps: int, draw: Draw, shape: tuple[int, ...]
    ) -> None:
        """Start nothing before the first batch is asked for.

        Args:
            reader: decodes.
            rows: returns the examples of a step, their positions in the stream, and whether they count.
            steps: batches in all.
            draw: brings an image to its size.
            shape: of what it makes.
        """
        self._reader, self._rows, self._steps, self._draw, self._shape = reader, rows, steps, draw, shape
        self._iterator: Any = None
        self._making = _Making()
        self._next = 0
        self._last: tuple[int, Batch] = (-1, {})

    def at(self, step: int) -> Batch:
        """Return the batch of a step, waiting for it if need be.

        Returns:
            image uint8 [rows, height, width, channels], label int32, mask bool, and index int32: the examples.

        Raises:
            RunError: more examples are bad than allowed.
        """
        if self._last[0] == step:
            return self._last[1]
        if self._iterator is None or step != self._next:
            self._start(step)
        try:
            for _ in range(self._parts):
                next(self._iterator)
        except BaseException:
            self.close()
            raise
        _, batch = self._making.begun.pop(step)
        self._next, self._last = step + 1, (step, batch)
        return batch

    def close(self) -> None:
        """Stop the threads."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _start(self, step: int) -> None:
        import grain

        self.close()
        one_thread()
        size, threads = len(self._rows(step)[0]), self._reader.threads
        self._chunk = min(_CHUNK, -(-size // threads))
        self._parts = -(-size // self._chunk)
        self._making = _Making()  # threads that are not done yet write to the one before
        parts = grain.MapDataset.range(step * self._parts, self._steps * self._parts)
        parts = parts.map(partial(self._make, self._making))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, _AHEAD * self._parts))
        self._iterator = iter(parts.to_iter_dataset(options))

    def _make(self, making: "_Making", number: int) -> bool:
        """Decode one chunk of a batch; Grain calls it in its threads."""
        step, part = divmod(int(number), self._parts)
        (indices, positions, counts), batch = self._begun(making, step)
        for row in range(part * self._chunk, min(len(indices), (part + 1) * self._chunk)):
            # What does not count is decoded, too: BatchNorm is to see images.
            label = self._reader.read(int(indices[row]), int(positions[row]), self._draw, batch["image"][row])
            batch["label"][row], batch["mask"][row] = label or 0, counts[row] and label is not None
        return True

    def _begun(self, making: "_Making", step: int) -> tuple[Rows, Batch]:
        with making.lock:
            if step not in making.begun:
                rows = self._rows(step)
                size = len(rows[0])
                making.begun[step] = (
                    rows,
                    {
                        "image": np.empty((size, *self._shape), np.uint8),
                        "label": np.empty(size, np.int32),
                        "mask": np.empty(size, bool),
                        "index": rows[0].astype(np.int32),
                    },
                )
            return making.begun[step]


@dataclass
class _Making:
    """The batches that threads are at work on, by step."""

    begun: dict[int, tuple[Rows, Batch]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
