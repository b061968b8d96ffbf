"""Large data sets: examples decoded by threads while the network trains, sent ahead to the devices.

The batches are those of the resident path: the same order (order.py), and the same pixels where nothing is random on
the host. What is random is drawn from (key, position in the stream), so a batch depends neither on threads nor on how
far ahead they work, nor on which process makes which of its rows.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int32, Int64, Shaped

from jaxcnn.data.bad import Bad, BadExamples
from jaxcnn.data.config import DataConfig
from jaxcnn.data.crops import AnyCrop
from jaxcnn.data.fields import Batch, Fields, Label, Value, frame_of
from jaxcnn.data.framing import Cut, Fit, Framing, Move, Size, Stored
from jaxcnn.data.order import Order
from jaxcnn.data.reading import Reading
from jaxcnn.data.resampling import one_thread
from jaxcnn.data.stores.records import Records
from jaxcnn.data.threads import InOrder, cores, in_order
from jaxcnn.errors import BadExample
from jaxcnn.images.pixels import image_size

Rows = tuple[Int32[np.ndarray, " rows"], Int64[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]
"""Of a batch: the examples, their positions in the stream, and whether they count."""

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
        fields: Fields,
        config: DataConfig,
        bad: BadExamples,
        crop: AnyCrop | None = None,
    ) -> None:
        """Note where the examples are.

        Args:
            records: the examples.
            fields: what they hold.
            config: `image_size`, `resize`, `resize_to` and `threads` are read.
            bad: is told of the examples that cannot be used.
            crop: what `stream` cuts out; None: as examples are scored.

        Raises:
            UsageError: no example can be used, which is to say how large images are.
        """
        self.records, self.fields = records, fields
        self._bad, self._threads, self._crop = bad, config.threads or cores(), crop
        self._fit = Fit.of(config)
        self.shapes: Mapping[str, Any] = Reading(records, fields, self._fit, bad).shapes()

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.records)

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

    def size(self, index: int) -> Size:
        """Return height and width of an image as it is stored; (1, 1) where it cannot be told."""
        try:
            return image_size(self.records[index][frame_of(self.fields) or ""])
        except BadExample:
            return 1, 1

    def batches(self, indices: Sequence[Int64[np.ndarray, " rows"]]) -> Iterator[Batch]:
        """Yield batches of the examples given by their indices, as they are scored; see `Examples`."""
        yield from self._batches(indices, self.fields, self._fit, self.shapes)

    def drawn(
        self,
        indices: Sequence[Int64[np.ndarray, " rows"]],
        shape: tuple[int, ...],
        draw: Callable[[Stored, Shaped[np.ndarray, "*shape"]], None],
    ) -> Iterator[Batch]:
        """Yield batches as `batches` does, whose images `draw` makes, of another shape.

        They hold the first image, and what no move of it changes: labels and values.
        """
        frame = frame_of(self.fields)
        fields = {name: one for name, one in self.fields.items() if name == frame or isinstance(one, Label | Value)}
        shapes = {name: self.shapes[name] for name in fields}
        shapes |= {name: jax.ShapeDtypeStruct(shape, one.dtype) for name, one in shapes.items() if name == frame}
        yield from self._batches(indices, fields, _Drawn(draw), shapes)

    def stream(self, order: Order, rows: slice, steps: int, key: tuple[int, int]) -> "Feed":
        """Return some rows of each training batch, cropped at random as the configuration says.

        Args:
            order: of the examples.
            rows: of each batch that this process makes.
            steps: how many batches there are.
            key: what is random is drawn from it.
        """
        framing: Framing = self._fit
        if self._crop is not None:
            height, width, *_ = self.shapes[frame_of(self.fields) or ""].shape
            framing = Cut(self._crop, (height, width), key)
        reading = Reading(self.records, self.fields, framing, self._bad)
        return Feed(_Making(reading, lambda step: order.rows(step, rows), self.shapes), steps, self._threads)

    def _batches(
        self, indices: Sequence[np.ndarray], fields: Fields, framing: Framing, shapes: Mapping[str, Any]
    ) -> Iterator[Batch]:
        rows = [(chosen, chosen, np.ones(len(chosen), bool)) for chosen in indices]
        reading = Reading(self.records, fields, framing, self._bad)
        feed = Feed(_Making(reading, rows.__getitem__, shapes), len(rows), self._threads)
        try:
            yield from (feed.at(step) for step in range(len(rows)))
        finally:
            feed.close()


class Feed:
    """Batches in the order of their steps, made ahead of time by threads; or again from any step on."""

    def __init__(self, making: "_Making", steps: int, threads: int) -> None:
        """Start nothing before the first batch is asked for.

        Args:
            making: makes parts of batches.
            steps: batches in all.
            threads: that make them.
        """
        self._making, self._steps, self._threads = making, steps, threads
        self._parts: InOrder[None] | None = None
        self._next = 0
        self._last: tuple[int, Batch] = (-1, {})

    def at(self, step: int) -> Batch:
        """Return the batch of a step, waiting for it if need be.

        Returns:
            All fields, mask bool, and index int32: the examples.

        Raises:
            RunError: more examples are bad than allowed.
        """
        if self._last[0] == step:
            return self._last[1]
        if self._parts is None or step != self._next:
            self._start(step)
        assert self._parts is not None
        try:
            self._parts.take(self._making.parts)
        except BaseException:
            self.close()
            raise
        self._next, self._last = step + 1, (step, self._making.finished(step))
        return self._last[1]

    def close(self) -> None:
        """Stop the threads."""
        if self._parts is not None:
            self._parts.close()
            self._parts = None

    def _start(self, step: int) -> None:
        self.close()
        one_thread()
        self._making = making = self._making.anew(step, self._threads)
        numbers = range(step * making.parts, self._steps * making.parts)
        self._parts = in_order(making.make, numbers, self._threads, (1 + _AHEAD) * making.parts)


class _Making:
    """The batches that threads are at work on."""

    def __init__(self, reading: Reading, rows: Callable[[int], Rows], shapes: Mapping[str, Any]) -> None:
        self._reading, self._rows, self._shapes = reading, rows, shapes
        self._begun: dict[int, tuple[Rows, Batch]] = {}
        self._lock = threading.Lock()
        self._chunk, self.parts = 1, 1
        """Rows of one part of a batch, and parts of a batch."""

    def anew(self, step: int, threads: int) -> "_Making":
        """Return the same without what was begun: threads that are not done yet write to the one before."""
        making = _Making(self._reading, self._rows, self._shapes)
        size = len(self._rows(step)[0])
        making._chunk = min(_CHUNK, -(-size // threads))
        making.parts = -(-size // making._chunk)
        return making

    def make(self, number: int) -> None:
        """Make one part of a batch; called by several threads."""
        step, part = divmod(number, self.parts)
        (indices, positions, counts), batch = self._batch(step)
        rows = slice(part * self._chunk, (part + 1) * self._chunk)
        # What does not count is decoded, too: BatchNorm is to see images.
        self._reading.fill(batch, rows.start, indices[rows].tolist(), positions[rows].tolist())
        batch["mask"][rows] &= counts[rows]

    def finished(self, step: int) -> Batch:
        """Return a batch all of whose parts are made."""
        return self._begun.pop(step)[1]

    def _batch(self, step: int) -> tuple[Rows, Batch]:
        with self._lock:
            if step not in self._begun:
                rows = self._rows(step)
                size = len(rows[0])
                fields = jax.tree.map(lambda one: np.empty((size, *one.shape), one.dtype), dict(self._shapes))
                batch = {**fields, "mask": np.empty(size, bool), "index": rows[0].astype(np.int32)}
                self._begun[step] = rows, batch
            return self._begun[step]


class _Drawn:
    """Brings images to a shape of somebody else's choice."""

    size: Size | None = None

    def __init__(self, draw: Callable[[Stored, np.ndarray], None]) -> None:
        self._draw = draw

    def move(self, stored: Size, position: int) -> Move:
        raise NotImplementedError

    def draw(self, image: Stored, move: Move | None, out: np.ndarray) -> None:
        self._draw(image, out)
