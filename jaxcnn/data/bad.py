"""Examples that cannot be used: counted, named, passed over up to a limit."""

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxcnn.errors import RunError, UsageError

_NAMED = 5


class Bad(NamedTuple):
    """One example that cannot be used."""

    name: str
    """Its file or record."""
    reason: str


def none_usable(total: int, bad: Sequence[Bad]) -> UsageError:
    """Return the error for a split of which no example can be used, which names the first."""
    first = f", such as {bad[0].name}: {bad[0].reason}" if bad else ""
    return UsageError(f"none of the {total} examples can be used{first}")


class BadExamples:
    """Those of one split. Several threads may add to them."""

    def __init__(self, split: str, total: int, limit: float) -> None:
        """Count from none.

        Args:
            split: named in the error.
            total: examples in the split.
            limit: the fraction of them that may be bad.
        """
        self.found: dict[int, Bad] = {}
        """By the example's index."""
        self._split, self._total, self._limit = split, total, limit
        self._lock = threading.Lock()

    def add(self, index: int, name: str, reason: str) -> None:
        """Note that the example cannot be used; the same one counts once.

        Raises:
            RunError: there are more than the limit allows.
        """
        with self._lock:
            self.found.setdefault(index, Bad(name, reason))
        found = self.in_order()
        if len(found) > self._limit * self._total:
            shown = "; ".join(f"{bad.name}: {bad.reason}" for bad in found[:_NAMED])
            raise RunError(
                f"{len(found)} of the {self._total} examples of split {self._split!r} cannot be used, more than "
                f"data.bad_limit {self._limit:g} allows: {shown}{'; ...' if len(found) > _NAMED else ''}"
            )

    def restore(self, found: Mapping[int, Bad]) -> None:
        """Take up those that were found before."""
        with self._lock:
            self.found |= found

    def in_order(self) -> list[Bad]:
        """Return them in the order of the split."""
        with self._lock:
            return [self.found[index] for index in sorted(self.found)]
