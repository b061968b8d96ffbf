"""Our side of `bench_input.py`: the bare decoder, the streaming pipeline, and the stores that it reads."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jaxtyping import UInt8
from peer_protocol import images_per_second

from jaxcnn.data.bad import BadExamples
from jaxcnn.data.config import DataConfig
from jaxcnn.data.crops import RandomResizedCrop, TrainCrop, generator
from jaxcnn.data.decode import decode_crop
from jaxcnn.data.order import Order
from jaxcnn.data.resampling import Box, one_thread
from jaxcnn.data.stores.cache import open_cache, prepare
from jaxcnn.data.stores.image_folder import open_folder
from jaxcnn.data.stores.records import Store
from jaxcnn.data.stores.tar import open_tar
from jaxcnn.data.streaming import Reader
from jaxcnn.images.pixels import image_size

Kind = Literal["folder", "tar", "cache"]

_OPENERS: dict[Kind, Callable[[Path], Store]] = {"folder": open_folder, "tar": open_tar, "cache": open_cache}
_KEY = (0, 0)
_ENDLESS = 1 << 30


@dataclass(frozen=True)
class Setting:
    """What all sides have in common."""

    size: int
    """Side of the crops."""
    threads: int
    batch: int
    """Images of a batch."""
    images: int
    """Of one measurement."""
    warm_up: int
    """Images before it."""


@dataclass(frozen=True)
class Stored:
    """Where a data set of one split, train, is."""

    kind: Kind
    path: Path

    def bytes(self) -> int:
        """Return the size of its files."""
        return sum(path.stat().st_size for path in [self.path, *self.path.rglob("*")] if path.is_file())

    def cached(self, folder: Path, format: Literal["jpeg", "raw"], short_side: int) -> "Stored":
        """Return a copy made for speed, in `folder`."""
        origin = {"source": self.kind, "name": self.path.name}
        prepare(_OPENERS[self.kind](self.path), folder, origin, short_side=short_side, format=format)
        return Stored("cache", folder)


def pipeline(
    stored: Stored, setting: Setting, crop: TrainCrop
) -> Generator[UInt8[np.ndarray, "batch size size 3"], None, None]:
    """Yield batches for ever, as training reads them; closing it stops its threads."""
    store = _OPENERS[stored.kind](stored.path)
    records = store.records("train")
    config = DataConfig(source=stored.kind, image_size=setting.size, threads=setting.threads)
    bad = BadExamples("train", len(records), config.bad_limit)
    reader = Reader(records, store.fields, config, bad, crop)
    order = Order(jax.random.key(0), len(records), setting.batch)
    feed = reader.stream(order, slice(0, setting.batch), _ENDLESS, _KEY)
    try:
        for step in range(_ENDLESS):
            yield feed.at(step)["image"]
    finally:
        feed.close()


def decode_rate(encoded: Sequence[bytes], sizes: Sequence[tuple[int, int]], setting: Setting) -> float:
    """Return images per second of the decoder alone, in threads that do nothing else and share what there is to do.

    Args:
      encoded: the files.
      sizes: height and width of each.
      setting: what is measured.
    """
    crop, square = RandomResizedCrop(), (setting.size, setting.size)
    places = [i % len(encoded) for i in range(setting.warm_up + setting.images)]
    boxes = [crop.box(generator(_KEY, i), *sizes[place], setting.size) for i, place in enumerate(places)]
    work = list(zip(places, boxes, strict=True))
    one_thread()

    def decode_share(shared: Iterator[tuple[int, Box]]) -> None:
        out = np.empty((*square, 3), np.uint8)
        for place, box in shared:
            decode_crop(encoded[place], box, square, 3, crop.interpolation, out)

    with ThreadPoolExecutor(setting.threads) as pool:
        for part in (work[: setting.warm_up], work[setting.warm_up :]):
            start = time.perf_counter()
            list(pool.map(decode_share, [iter(part)] * setting.threads))
    return setting.images / (time.perf_counter() - start)


def by_hand_rate(stored: Stored, setting: Setting) -> float:
    """Return images per second of threads that do what no pipeline can leave out, and nothing else.

    They read each file, draw its box, decode it, and write it to its row of one of three batches. No example is
    checked, none waits for another, and nobody takes the batches.
    """
    store = _OPENERS[stored.kind](stored.path)
    records = store.records("train")
    crop, square = RandomResizedCrop(), (setting.size, setting.size)
    batches = np.zeros((3 * setting.batch, *square, 3), np.uint8)
    order = np.random.default_rng(0).permutation(len(records)).tolist()
    one_thread()

    def make_share(shared: Iterator[int]) -> None:
        for i in shared:
            encoded = records[order[i % len(order)]]["image"]
            box = crop.box(generator(_KEY, i), *image_size(encoded), setting.size)
            decode_crop(encoded, box, square, 3, crop.interpolation, batches[i % len(batches)])

    with ThreadPoolExecutor(setting.threads) as pool:
        for count in (setting.warm_up, setting.images):
            start = time.perf_counter()
            list(pool.map(make_share, [iter(range(count))] * setting.threads))
    return setting.images / (time.perf_counter() - start)


def pipeline_rate(stored: Stored, setting: Setting, crop: TrainCrop) -> float:
    """Return images per second of the pipeline, with its start left out."""
    return images_per_second(pipeline(stored, setting, crop), setting.images, setting.warm_up)
