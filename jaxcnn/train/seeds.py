"""Several runs of one experiment, one for each seed, that train together.

Each run is a `training` of its own, with its own position, effects and end; what they share is the compiled step.
So they may stand at different steps, and one that fails leaves the others as they are.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxcnn import backend
from jaxcnn.errors import RunError, UsageError
from jaxcnn.stop import Stopped
from jaxcnn.train.loop import Answer, Effects, NonFinite, Request
from jaxcnn.train.parallel import CompiledStep
from jaxcnn.train.state import TrainState, Tree

Mode = Literal["sequential", "devices", "vmap"]


def choose_mode(asked: Literal["auto"] | Mode, devices: int, parallel: Literal["jit", "pmap"]) -> Mode:
    """Return how to train several seeds on so many devices.

    A choice of ours is never between ways that differ in their bits, and never depends on a clock: the same command
    on the same hardware gives the same bits.

    Raises:
      UsageError: what is asked for cannot be.
    """
    if asked == "auto":
        return "devices" if devices > 1 and parallel == "jit" else "sequential"
    if asked != "sequential" and parallel == "pmap":
        raise UsageError(f"train.seeds_mode is {asked}, but train.parallel pmap trains seeds sequentially only")
    if asked == "vmap" and devices > 1:
        raise UsageError(f"train.seeds_mode is vmap, which uses one device of {devices}: give train.devices 1, too")
    return asked


class Way(Protocol):
    """How the steps that several runs are about to make are computed."""

    def train(self, requests: Mapping[int, Request]) -> dict[int, Answer]:
        """Return what came of each request, by the number of its run."""

    def view(self, tree: Any) -> Any:
        """Return the state or window of an answer in its global form."""


def train_together(
    runs: Sequence[Generator[Request, Answer, TrainState]], way: Way, after_round: Callable[[], None]
) -> Iterator[tuple[int, TrainState | Exception]]:
    """Train all runs to their ends and yield, as each comes to its own, its number and final state, or what broke it.

    Args:
      runs: each from `training`.
      way: computes their steps.
      after_round: called when each run has done what was due between two of its steps.
    """
    answers: Mapping[int, Answer | None] = dict.fromkeys(range(len(runs)))
    while answers:
        requests = {}
        for number, answer in answers.items():
            try:
                # A generator that has just begun takes None only, which its type has no room for.
                requests[number] = runs[number].send(answer)  # type: ignore[arg-type]
            except StopIteration as end:
                yield number, end.value
            except (NonFinite, Stopped, RunError, OSError) as error:
                yield number, error
        after_round()
        answers = way.train(requests)


class TrainingClock:
    """Seconds in which no run did anything but train."""

    def __init__(self) -> None:
        """Start."""
        self._paused = 0.0

    def __call__(self) -> float:
        """Return the time, as `time.perf_counter`, without what was left out."""
        return time.perf_counter() - self._paused

    def leave_out(self, effect: Callable) -> Callable:
        """Return a function whose time is left out."""

        def run(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return effect(*arguments)
            finally:
                self._paused += time.perf_counter() - started

        return run

    def keep(self, effects: Effects) -> Effects:
        """Return effects of one run by which no other run's speed is changed."""
        others = ("view", "log_metrics", "evaluate", "complete", "save")
        return replace(effects, clock=self, **{name: self.leave_out(getattr(effects, name)) for name in others})


@dataclass(frozen=True)
class Sequential:
    """One compiled step, called for one run after the other: the very program of each run alone."""

    step: CompiledStep
    view: Callable[[Any], Any]

    def train(self, requests: Mapping[int, Request]) -> dict[int, Answer]:
        """Return what came of each request, by the number of its run."""
        return {number: self.step(*request) for number, request in requests.items()}


@dataclass(frozen=True)
class Row:
    """One run's part of a tree of arrays that hold those of several runs, one after the other."""

    joined: Tree
    row: int
    like: Tree
    """Shapes of the part."""

    def read(self) -> Tree:
        """Return a copy on the host."""
        return jax.tree.map(self._of, self.joined, self.like)

    def item(self) -> float:
        """Return the value of what is one number for each run."""
        return self.read().item()

    def _of(self, array: jax.Array, like: jax.ShapeDtypeStruct) -> np.ndarray:
        # From the device that has it alone. A copy: a view of a device's buffer would keep it from being donated.
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        shard, row = divmod(self.row, array.size // like.size // len(shards))
        return np.array(np.asarray(shards[shard].data).reshape(-1, *like.shape)[row])


class Stacked:
    """One program for several runs, on arrays that hold theirs one after the other, split over devices.

    A row whose run has ended is computed on, and nobody reads it.
    """

    def __init__(
        self,
        step: Callable[[TrainState, Any, tuple], tuple],
        example: Request,
        devices: Sequence[jax.Device],
        rows: int,
        place: Callable[[Tree], Tree],
    ) -> None:
        """Note what to compile.

        Args:
          step: `step(state, window, arguments)` of one run; pure.
          example: one run's, of which the shapes are read; and the first of the arguments, which is the same for all
            runs, and copied to all devices.
          devices: to compute on.
          rows: of the arrays. As many as devices: each computes the program of one run alone; otherwise, on a single
            device, they are mapped over.
          place: puts what `view` returns on its devices.
        """
        mesh = Mesh(np.asarray(devices), ("seeds",), axis_types=(AxisType.Auto,))
        split = PartitionSpec("seeds")
        state, window, (shared, *others) = example
        self._rows, self._place, self._mapped = rows, place, rows != len(devices)
        self._split = NamedSharding(mesh, split)
        self._shared = jax.device_put(shared, NamedSharding(mesh, PartitionSpec()))
        self._like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, window, tuple(others)))
        self._ended: dict[int, Request] = {}
        self._kept: dict[tuple[int, int], tuple[tuple, Any]] = {}

        def one(shared: Tree, state: TrainState, window: Any, others: tuple) -> tuple:
            return step(state, window, (shared, *others))

        def alone(shared: Tree, *rows: Any) -> tuple:
            # Only numbers have another shape than in the program of one run, and these stay outside of the barriers:
            # what XLA fuses, and so how it rounds, is to be the same.
            rows = jax.tree.map(lambda x, like: x.reshape(like.shape), rows, self._like)
            answer = jax.lax.optimization_barrier(one(shared, *jax.lax.optimization_barrier(rows)))
            return jax.tree.map(lambda x: x if x.ndim else x[None], answer)

        run = jax.shard_map(
            jax.vmap(one, in_axes=(None, 0, 0, 0)) if self._mapped else alone,
            mesh=mesh,
            in_specs=(PartitionSpec(), split, split, split),
            out_specs=split,
            check_vma=False,
        )
        self._step = backend.jit(run, platform=devices[0].platform, donate_argnums=(1, 2))

    def view(self, tree: Any) -> Any:
        """Return the state or window of an answer in its global form."""
        return self._place(tree.read()) if isinstance(tree, Row) else tree

    def train(self, requests: Mapping[int, Request]) -> dict[int, Answer]:
        """Return what came of each request, by the number of its run; `rows` runs at a time."""
        answers: dict[int, Answer] = {}
        likes = (*self._like[:2], jax.ShapeDtypeStruct((), np.float32))
        for first in sorted({number - number % self._rows for number in requests}):
            numbers = range(first, first + self._rows)
            # A row without a run from the outset does as one that has one.
            spare = next(requests[number] for number in numbers if number in requests)
            rows = [requests.get(number) or self._ended.get(number, spare) for number in numbers]
            states, windows, arguments = zip(*rows, strict=True)
            columns = [*zip(*arguments, strict=True)][1:]
            others = tuple(self._join_once((first, position), column) for position, column in enumerate(columns))
            joined = self._step(self._shared, self._join(states), self._join(windows), others)
            for row, number in enumerate(numbers):
                state, window, loss = (Row(tree, row, like) for tree, like in zip(joined, likes, strict=True))
                self._ended[number] = state, window, arguments[row]
                if number in requests:
                    answers[number] = state, window, loss
        return answers

    def _join(self, trees: Sequence[Any]) -> Any:
        whole = getattr(trees[0], "joined", None)
        if whole is not None and all(isinstance(tree, Row) and tree.joined is whole for tree in trees):
            return whole
        read = [tree.read() if isinstance(tree, Row) else jax.tree.map(np.asarray, tree) for tree in trees]
        return jax.device_put(jax.tree.map(self._join_leaves, *read), self._split)

    def _join_leaves(self, *leaves: np.ndarray) -> np.ndarray:
        return np.stack(leaves) if self._mapped or not leaves[0].ndim else np.concatenate(leaves)

    def _join_once(self, place: tuple[int, int], column: tuple) -> Any:
        """Return arguments joined; where all are the very ones of the step before, as they were joined then."""
        before, joined = self._kept.get(place, ((), None))
        if len(before) != len(column) or any(x is not y for x, y in zip(before, column, strict=True)):
            joined = self._join(column)
            self._kept[place] = column, joined
        return joined
