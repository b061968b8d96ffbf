"""Checks shared by the optimiser's and the schedule's settings: values in range, nothing silently ignored."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from jaxcnn.errors import UsageError

Range = tuple[Callable[[Any], bool], str]

POSITIVE: Range = (lambda value: value > 0, "a finite number above 0")
NOT_NEGATIVE: Range = (lambda value: value >= 0, "a finite number, 0 or more")
FRACTION: Range = (lambda value: 0 <= value < 1, "a number in [0, 1)")
COUNT: Range = (lambda value: isinstance(value, int) and value >= 1, "a whole number, 1 or more")
COUNT_OR_ZERO: Range = (lambda value: isinstance(value, int) and value >= 0, "a whole number, 0 or more")


def check_range(name: str, value: Any, allowed: Range) -> None:
    """Raise a UsageError unless `value` is a finite number that `allowed` accepts."""
    accepts, expected = allowed
    if not isinstance(value, int | float) or not math.isfinite(value) or not accepts(value):
        raise UsageError(f"{name} is {value!r}: expected {expected}")


def check_ranges(room: str, config: Any, ranges: Mapping[str, Range]) -> None:
    """Check every field of the dataclass `config` that `ranges` names and that is not None."""
    for name, allowed in ranges.items():
        value = getattr(config, name)
        if value is not None:
            check_range(f"{room}.{name}", value, allowed)


def check_unread(room: str, config: Any, reads: Collection[str]) -> None:
    """Raise a UsageError for a field set away from its default that `config.name` does not read."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in reads and value != field.default:
            raise UsageError(
                f"{room}.{field.name} is {value!r}, but {config.name!r} does not read it: "
                f"it reads {', '.join(sorted(set(reads) - {'name'}))}"
            )
