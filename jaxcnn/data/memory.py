"""Splits that are read into memory as a whole, and how much of it there is."""

import contextlib
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.data.bad import BadExamples
from jaxcnn.data.config import DataConfig
from jaxcnn.data.examples import Split
from jaxcnn.data.fields import Fields
from jaxcnn.data.framing import Fit
from jaxcnn.data.reading import Reading
from jaxcnn.data.stores.records import Records
from jaxcnn.data.threads import in_order
from jaxcnn.environment import memory
from jaxcnn.errors import UsageError

# Examples that a thread reads at a stretch.
_CHUNK = 64


def read_whole(
    records: Records, fields: Fields, name: str, config: DataConfig, poll: Callable[[], None] = lambda: None
) -> Split:
    """Return a whole split, decoded by threads.

    Args:
        records: of the split.
        fields: what they hold.
        name: of the split.
        config: `image_size`, `resize`, `resize_to` and `threads` are read.
        poll: called for each example, in threads; what it raises ends the work.

    Raises:
        UsageError: images differ in size, none can be used, or they do not fit in half the memory.
    """
    count = len(records)
    bad = BadExamples(name, count, 1.0)  # the limit is that of the part which is asked for
    reading = Reading(records, fields, Fit.of(config), bad)
    shapes = reading.shapes()
    check_memory(count, shapes)
    arrays = jax.tree.map(lambda one: np.zeros((count, *one.shape), one.dtype), shapes)
    batch = {**arrays, "mask": np.zeros(count, bool)}

    def read(start: int) -> None:
        for index in range(start, min(start + _CHUNK, count)):
            poll()
            reading.fill(batch, index, [index], [index])

    # Reading a small example holds the interpreter's lock most of the time: threads would only get in its way.
    threads = 1 if _bytes(shapes) < 64 * 64 * 3 else config.threads
    with closing(in_order(read, range(0, count, _CHUNK), threads)) as parts:
        for _ in parts:
            pass
    return Split(arrays, bad.found)


def _bytes(shapes: Mapping[str, Any]) -> int:
    return sum(math.prod(one.shape) * one.dtype.itemsize for one in jax.tree.leaves(dict(shapes)))


def check_memory(count: int, shapes: Mapping[str, Any]) -> None:
    """Raise UsageError where `count` examples of these shapes do not fit in half the memory."""
    needed, there = count * _bytes(shapes), memory()
    if needed > there // 2:
        name, largest = max(shapes.items(), key=lambda one: _bytes(dict([one])))
        size = "x".join(map(str, jax.tree.leaves(largest)[0].shape))
        raise UsageError(
            f"{count} examples of {name} {size} are {needed / 2**30:.0f} GiB, more than half of the memory "
            f"({there / 2**30:.0f} GiB): choose a smaller data.image_size, or data.pipeline streaming"
        )


def free_memory() -> tuple[int, int]:
    """Return how many bytes are free on the host and on the first device, which may be the host's."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with contextlib.suppress(OSError):  # Linux says what could be freed, too
        found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        host = host if found is None else int(found[1]) * 1024
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return host, host if limit is None else limit - stats.get("bytes_in_use", 0)
