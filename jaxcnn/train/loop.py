"""The training loop: the order of effects, and nothing about devices, models or files.

A run can be killed at any point and continue to the same bits: everything the future depends on is in the
checkpoint (state and position), and rows written after it are dropped when the run resumes.
"""

import base64
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

from jaxcnn.stop import Stopped
from jaxcnn.tasks.base import kept_dtype
from jaxcnn.train.state import TrainState
from jaxcnn.train.step import Sums

# How many steps the host may be ahead of the device: enough to hide its own work, few enough to stop promptly.
_AHEAD = 2


class NonFinite(Exception):
    """A loss or parameters that are not finite."""

    def __init__(self, what: str, step: int) -> None:
        """Note what is not finite and the first step at which it was found so."""
        super().__init__(f"{what} is not finite at step {step}")
        self.step = step


@dataclass(frozen=True)
class Timetable:
    """The steps at which things happen. What happens after the last step (final scores) is not the loop's."""

    total_steps: int
    batch_size: int
    log_every: int
    eval_every: int
    checkpoint_every: int | None

    def logs(self, step: int) -> bool:
        """Return whether a row of training metrics is due after `step` steps."""
        return step % self.log_every == 0 or step == self.total_steps

    def evaluates(self, step: int) -> bool:
        """Return whether an evaluation is due."""
        return step % self.eval_every == 0 and step != self.total_steps

    def saves(self, step: int) -> bool:
        """Return whether a checkpoint is due."""
        every = self.checkpoint_every
        return self.evaluates(step) or step == self.total_steps or (every is not None and step % every == 0)


@dataclass
class Position:
    """Where a run stands, beside its state: plain values, saved with each checkpoint."""

    step: int = 0
    sums: tuple[dict[str, Any], ...] = ()
    """Over the steps since the last row of training metrics: the leaves of their tree; []: there are none."""
    pending: bool = False
    """What was due after `step`, an evaluation or the completion of the last state, was broken off by a stop."""
    ended: str = ""
    """Why a callback asked for the end at `step`; "": none did."""
    training_seconds: float = 0.0
    """Time in the loop, without evaluation, checkpoints and the first step of each sitting (which compiles)."""
    training_examples: int = 0
    """Examples trained on in that time."""
    waiting_seconds: float = 0.0
    """Part of that time in which the loop waited for a batch."""
    bad_examples: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Those found so far that cannot be used, of each split: index, name, reason."""
    wall_seconds: float = 0.0
    """Time since the start, summed over the sittings up to their last checkpoints."""
    rows: int = 0
    """Of the log so far, so that one that was lost is noticed."""

    @property
    def examples_per_second(self) -> float:
        """Return the training rate so far, 0 before there is any."""
        return self.training_examples / self.training_seconds if self.training_seconds > 0 else 0.0

    @property
    def input_wait(self) -> float:
        """Return the share of the training time in which the loop waited for a batch, 0 before there is any."""
        return self.waiting_seconds / self.training_seconds if self.training_seconds > 0 else 0.0


class Effects(Protocol):
    """What the loop does to the world."""

    def log(self, state: TrainState, sums: Sums, position: Position) -> str:
        """Write the row of the sums since the last one; return why training is to end, "" to go on."""

    def evaluate(self, state: TrainState) -> str:
        """Evaluate and write the row; return as `log`. Raises Stopped on a signal."""

    def complete(self, state: TrainState) -> TrainState:
        """Make the state after the last step the final one; raises Stopped on a signal."""

    def save(self, state: TrainState, position: Position) -> None:
        """Save state and position, in place of what was saved at this step."""

    def stop_requested(self, step: int) -> int | None:
        """Return the signal that asked for a stop, agreed on by all processes."""

    def progress(self, step: int, loss: float) -> None:
        """Show the step and a recent loss."""


class Totals:
    """Sums added up on the host over steps, in order: whole numbers exactly, others in float64."""

    def __init__(self, saved: Sequence[dict[str, Any]]) -> None:
        """Go on from what `encoded` gave."""
        self.leaves = [_decoded(leaf) for leaf in saved]
        self._structure: Any = None

    def add(self, sums: Sums, step: int) -> float:
        """Add a step's sums, waiting for the device, and return its mean loss.

        Raises:
          NonFinite: the loss is not finite.
        """
        leaves, self._structure = jax.tree.flatten(sums)
        wide = [kept_dtype(leaf) for leaf in leaves]
        step_sums = jax.tree.unflatten(self._structure, wide)
        if not math.isfinite(step_sums["loss"]):
            raise NonFinite("the loss", step)
        self.leaves = [a + b for a, b in zip(self.leaves, wide, strict=True)] if self.leaves else wide
        return float(step_sums["loss"]) / (float(step_sums["count"]) or 1.0)

    def take(self) -> Sums:
        """Return the sums since this was last called, and begin anew."""
        leaves, self.leaves = self.leaves, []
        return jax.tree.unflatten(self._structure, leaves)

    def encoded(self) -> tuple[dict[str, Any], ...]:
        """Return the sums so far as JSON values."""
        return tuple(
            {"dtype": leaf.dtype.str, "shape": list(leaf.shape), "data": base64.b64encode(leaf.tobytes()).decode()}
            for leaf in map(np.asarray, self.leaves)
        )


def _decoded(leaf: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(leaf["data"]), leaf["dtype"]).reshape(leaf["shape"])


def fit(
    state: TrainState,
    position: Position,
    timetable: Timetable,
    train_step: Callable[[Any, Any], tuple[Any, Sums]],
    inputs: Callable[[int], Any],
    effects: Effects,
    whole: Callable[[Any], TrainState] = lambda state: state,
) -> TrainState:
    """Train from `position`, which is kept up to date, to the end and return the final state.

    Args:
      state: to start from; it is donated.
      position: of the state.
      timetable: when things happen.
      train_step: the compiled step.
      inputs: returns what the step is given at each step.
      effects: what happens.
      whole: returns a state of `train_step` in the form that effects are given.

    Raises:
      NonFinite: a loss or the parameters were not finite; nothing of that step or later has been written.
      Stopped: on a signal, after the step under way and a checkpoint.
    """
    under_way: deque[tuple[Sums, int]] = deque()
    totals = Totals(position.sums)
    trained, mark = False, time.perf_counter()  # in this sitting
    while True:
        step = position.step
        stopping = effects.stop_requested(step)
        due = stopping or timetable.logs(step) or timetable.saves(step)
        if position.pending or (trained and due):
            # 1. Wait for the device; nothing is written after a loss that is not finite.
            while under_way:
                totals.add(*under_way.popleft())
            if trained:
                position.training_seconds += time.perf_counter() - mark
            state = whole(state)
            # 2. The row of training metrics, over the steps since the last one.
            if trained and timetable.logs(step):
                position.ended = effects.log(state, totals.take(), position)
            if timetable.saves(step) or stopping or position.ended:
                _check_finite(state, step)
                # 3. Evaluation, or completion. Where a stop breaks it off, the checkpoint says that it is still due.
                position.pending = timetable.evaluates(step) or step == timetable.total_steps or bool(position.ended)
                if position.pending and not stopping:
                    try:
                        if timetable.evaluates(step):
                            position.ended = effects.evaluate(state) or position.ended
                        if step == timetable.total_steps or position.ended:
                            state = effects.complete(state)
                        position.pending = False
                    except Stopped as stopped:
                        stopping = stopped.signum
                # 4. The checkpoint, which covers the rows above.
                position.sums = totals.encoded()
                effects.save(state, position)
            mark = time.perf_counter()
        if stopping:  # 5. now that nothing can be lost
            raise Stopped(stopping)
        if step == timetable.total_steps or position.ended:
            return whole(state)
        asked = time.perf_counter()
        given = inputs(step)
        waited = time.perf_counter() - asked
        state, sums = train_step(state, given)
        for leaf in jax.tree.leaves(sums):
            leaf.copy_to_host_async()
        position.step += 1
        under_way.append((sums, position.step))
        if trained:
            position.waiting_seconds += waited
            position.training_examples += timetable.batch_size
        else:  # the first step of a sitting waits for the compiler, which is nobody's throughput
            jax.block_until_ready(sums["loss"])
            trained, mark = True, time.perf_counter()
        if len(under_way) > _AHEAD:
            effects.progress(position.step, totals.add(*under_way.popleft()))


def _check_finite(state: TrainState, step: int) -> None:
    # Not the optimiser's state: a plateau schedule's best loss starts at infinity.
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.ema))
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves):
        raise NonFinite("a parameter", step)
