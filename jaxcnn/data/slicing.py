"""TFDS's split syntax: `train`, `train[100:]`, `train[:90%]`, `train[-5000:]`, `train+validation`."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from jaxcnn.errors import UsageError, unknown

_BOUND = r"-?\d+(?:\.\d+)?%|-?\d+|"
_PART = re.compile(rf"(?P<name>[\w-]+)(?:\[(?P<start>{_BOUND}):(?P<stop>{_BOUND})\])?")


class Slice(NamedTuple):
    """Examples `start` to `stop` (exclusive) of one split."""

    split: str
    start: int
    stop: int


def parse(spec: str, sizes: Mapping[str, int]) -> list[Slice]:
    """Return the slices that `spec` names, given the size of each split.

    A percentage is rounded to the closest example, as TFDS does by default.

    Raises:
        UsageError: for an unknown split, another syntax, a bound beyond the split, or an empty slice.
    """
    return [_parse_part(part.strip(), sizes) for part in spec.split("+")]


def _parse_part(part: str, sizes: Mapping[str, int]) -> Slice:
    match = _PART.fullmatch(part)
    if match is None:
        raise UsageError(f"split {part!r} not understood: write train, train[:45000] or train[10%:90%]")
    name, start, stop = match["name"], match["start"] or "", match["stop"] or ""
    if name not in sizes:
        raise unknown("split", name, sizes)
    if start and stop and start.endswith("%") != stop.endswith("%"):
        raise UsageError(f"split {part!r} mixes a number and a percentage")
    size = sizes[name]
    result = Slice(name, _bound(start, size, part) if start else 0, _bound(stop, size, part) if stop else size)
    if result.start >= result.stop:
        raise UsageError(f"split {part!r} is empty: {name} has {size} examples")
    return result


def _bound(text: str, size: int, part: str) -> int:
    percent = float(text[:-1]) if text.endswith("%") else None
    value = int(text) if percent is None else round(percent * size / 100)
    if abs(value) > size or abs(percent or 0) > 100:
        raise UsageError(f"split {part!r} goes beyond the {size} examples there are")
    return value + size if value < 0 else value
