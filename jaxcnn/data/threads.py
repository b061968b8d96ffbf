"""Work that several threads share, whose results come in order: batches, caches, surveys, data sets read into memory.

with closing(in_order(decode, range(100), threads=4)) as images:
    for image in images: ...
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Result = TypeVar("Result")

# Results begun and not yet taken, for each thread, where nothing else is said.
_AHEAD = 8
# What a thread that is stuck, in a file on a network, may hold up whoever closes.
_PATIENCE_SECONDS = 5.0


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    work: Callable[[int], Result], numbers: range, threads: int | None = None, ahead: int | None = None
) -> "InOrder[Result]":
    """Return an iterator over work(numbers[0]), work(numbers[1]), ..., done by threads that are never far ahead.

    What `work` raises for one number is raised in its place, and ends the iteration; no number after it is begun. So
    does closing it, or dropping it. It is for one thread to iterate.

    Args:
        work: called by several threads at once.
        numbers: what to call it with.
        threads: how many; None: as many as there are cores, beyond which more only get in each other's way.
        ahead: results that may be begun and not yet taken; None: 8 for each thread.
    """
    threads = max(1, min(threads or cores(), len(numbers)))
    return InOrder(_Shared(work, numbers, max(ahead or _AHEAD * threads, threads)), threads)


class InOrder(Generic[Result], Iterator[Result]):
    """What `in_order` returns."""

    def __init__(self, shared: "_Shared[Result]", threads: int) -> None:
        """Start the threads."""
        self._shared = shared
        # They know what they share and not this object: where it is dropped, they end.
        self._threads = [threading.Thread(target=shared.run, name="in_order", daemon=True) for _ in range(threads)]
        self._finalize = weakref.finalize(self, shared.close)
        for thread in self._threads:
            thread.start()

    def __next__(self) -> Result:
        """Return the next result, waiting for it if need be."""
        return self.take(1)[0]

    def take(self, count: int) -> list[Result]:
        """Return the next results, once they are all there: whoever waits is woken once.

        Raises:
            StopIteration: there are fewer.
        """
        try:
            return self._shared.take(count)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the threads, and wait until what they are at is done."""
        self._finalize()
        for thread in self._threads:
            thread.join(_PATIENCE_SECONDS)


class _Shared(Generic[Result]):
    """What the threads have in common."""

    def __init__(self, work: Callable[[int], Result], numbers: range, ahead: int) -> None:
        self._work, self._numbers, self._ahead = work, numbers, ahead
        self._begun, self._taken, self._end = 0, 0, len(numbers)
        self._done: dict[int, Result] = {}
        self._errors: dict[int, BaseException] = {}
        self._awaited = -1  # the last place that is waited for
        lock = threading.Lock()
        self._room, self._ready = threading.Condition(lock), threading.Condition(lock)

    def run(self) -> None:
        """Work until there is nothing left."""
        while (place := self._begin()) is not None:
            try:
                self._finish(place, self._work(self._numbers[place]))
            except BaseException as error:  # for whoever takes it
                self._fail(place, error)

    def _begin(self) -> int | None:
        """Return the place of what is to be done next, once there is room for it; None: nothing is."""
        with self._room:
            while self._taken + self._ahead <= self._begun < self._end:
                self._room.wait()
            if self._begun >= self._end:
                return None
            self._begun += 1
            return self._begun - 1

    def _finish(self, place: int, result: Result) -> None:
        with self._ready:
            self._done[place] = result
            if place <= self._awaited and self._first_missing() >= min(self._awaited + 1, self._end):
                self._ready.notify()

    def _fail(self, place: int, error: BaseException) -> None:
        """Let nothing more be begun; what comes before is still to be taken."""
        with self._ready:
            self._errors[place] = error
            self._end = min(self._end, place)
            self._ready.notify()

    def _first_missing(self) -> int:
        """Return the first place from `_taken` on that is not done."""
        place = self._taken
        while place in self._done:
            place += 1
        return place

    def take(self, count: int) -> list[Result]:
        """Return the next `count` results, or raise what the first of them failed with."""
        with self._ready:
            wanted = range(self._taken, self._taken + count)
            while (missing := self._first_missing()) < wanted.stop:
                if missing in self._errors:
                    raise self._errors[missing]
                if missing >= self._end:
                    raise StopIteration
                self._awaited = wanted[-1]
                self._ready.wait()
            self._awaited, self._taken = -1, wanted.stop
            self._room.notify(count)
            return [self._done.pop(place) for place in wanted]

    def close(self) -> None:
        """Let nothing more be begun."""
        with self._ready:
            self._end = 0
            self._done.clear()
            self._room.notify_all()
            self._ready.notify_all()
