"""The training loop: the order of effects, and nothing about devices, models or files.

A run can be killed at any point and continue to the same bits: everything the future depends on is in the
checkpoint (state, window of the log, position), and rows written after it are dropped when the run resumes.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.stop import Stopped
from jaxcnn.train.parallel import NEVER, CompiledStep
from jaxcnn.train.state import TrainState

# How many steps the host may be ahead of the device: enough to hide its own work, few enough to stop promptly.
_AHEAD = 2


class NonFinite(Exception):
    """A loss that is not finite."""

    def __init__(self, step: int) -> None:
        """Note the first step that had one."""
        super().__init__(f"the loss of step {step} is not finite")
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
    """Where a run stands, beside its state: saved with each checkpoint."""

    step: int = 0
    pending_eval: bool = False
    """The evaluation after `step` was broken off by a stop."""
    training_seconds: float = 0.0
    """Time in the loop, without evaluation, checkpoints and the first step of each sitting (which compiles)."""
    training_examples: int = 0
    """Images trained on in that time."""
    wall_seconds: float = 0.0
    """Time since the start, summed over the sittings up to their last checkpoints."""

    @property
    def examples_per_second(self) -> float:
        """Return the training rate so far, 0 before there is any."""
        return self.training_examples / self.training_seconds if self.training_seconds > 0 else 0.0


@dataclass(frozen=True)
class Effects:
    """What the loop calls."""

    train: CompiledStep
    arguments: Callable[[int], tuple]
    """The training stream: what step k is given."""
    view: Callable[[Any], Any]
    """State or window of the compiled step to its global form."""
    empty_window: Callable[[], Any]
    """The sums over no step."""
    log_metrics: Callable[[TrainState, dict[str, float], Position], None]
    """Writes the row of the sums since the last one."""
    evaluate: Callable[[TrainState], None]
    """Evaluates and writes the row; raises Stopped on a signal."""
    save: Callable[[TrainState, Any, Position], None]
    """Saves state, window and position."""
    stop_requested: Callable[[int], int | None]
    """The signal that asked for a stop, agreed on by all processes."""
    progress: Callable[[int, float | None], None]
    """Shows the step and a recent loss."""


def fit(state: Any, window: Any, position: Position, timetable: Timetable, effects: Effects) -> TrainState:
    """Train from `position` to the end and return the global state.

    Raises:
      NonFinite: a loss was not finite; nothing of that step or later has been written.
      Stopped: on a signal, after the step under way and a checkpoint.
    """
    losses: deque[jax.Array] = deque()
    compiled = False
    mark = time.perf_counter()
    pending_eval = position.pending_eval
    while True:
        step = position.step
        stopping = effects.stop_requested(step)
        if (compiled and (timetable.logs(step) or timetable.saves(step) or stopping)) or pending_eval:
            # 1. Wait for the device; nothing is written after a loss that is not finite.
            sums = {name: np.asarray(value.addressable_data(0)).reshape(-1)[0].item() for name, value in window.items()}
            if sums["bad_step"] != NEVER:
                raise NonFinite(sums["bad_step"])
            if compiled:
                position.training_seconds += time.perf_counter() - mark
            whole = effects.view(state)
            # 2. The row of training metrics, over the steps since the last one.
            if compiled and timetable.logs(step):
                effects.log_metrics(whole, sums, position)
                window = effects.empty_window()
            # 3. Evaluation. Where a stop breaks it off, the checkpoint says that it is still to be done.
            position.pending_eval = pending_eval or timetable.evaluates(step)
            if position.pending_eval and not stopping:
                try:
                    effects.evaluate(whole)
                    position.pending_eval = pending_eval = False
                except Stopped as stopped:
                    stopping = stopped.signum
            # 4. The checkpoint, which covers the rows above.
            if timetable.saves(step) or stopping:
                effects.save(whole, effects.view(window), position)
            mark = time.perf_counter()
        if step == timetable.total_steps:
            return effects.view(state)
        # 5. A requested stop, now that nothing can be lost.
        if stopping:
            raise Stopped(stopping)
        state, window, loss = effects.train(state, window, effects.arguments(step))
        position.step += 1
        if compiled:
            position.training_examples += timetable.batch_size
        else:  # the first step of a sitting waits for the compiler, which is nobody's throughput
            jax.block_until_ready(loss)
            compiled, mark = True, time.perf_counter()
        losses.append(loss)
        recent = losses.popleft() if len(losses) > _AHEAD else None
        effects.progress(position.step, None if recent is None else recent.item())
