"""The peers' side of `bench_peer`: each line of stdin is a command in JSON, each line of stdout its answer.

The standard library alone: the interpreters of the peers have no jaxcnn. `images_per_second` is here so that the two
sides measure alike.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sized
from typing import Any


class Unfit(Exception):
    """This interpreter will not do; the message says why."""


def serve(start: Callable[[], Callable[..., dict[str, Any]]]) -> None:
    """Answer commands until stdin ends; what anything else prints goes to stderr.

    An answer with `error` says in one line why a command could not be done.

    Args:
      start: returns what carries out one command, given its fields; raises Unfit.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        carry_out = start()
    except Unfit as error:
        return say({"error": str(error)})
    for line in sys.stdin:
        try:
            say(carry_out(**json.loads(line)))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})


def images_per_second(batches: Iterator[Sized], images: int, warm_up: int) -> float:
    """Return the rate at which a fresh iterator over batches gives at least `images`, after the first `warm_up`.

    The iterator is closed, where it can be: nothing goes on working while others are measured.
    """
    with contextlib.ExitStack() as stack:
        if hasattr(batches, "close"):
            stack.callback(batches.close)
        _take(batches, warm_up)
        start = time.perf_counter()
        return _take(batches, images) / (time.perf_counter() - start)


def _take(batches: Iterator[Sized], least: int) -> int:
    taken = 0
    while taken < least:
        taken += len(next(batches))
    return taken
