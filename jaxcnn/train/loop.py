"""The training loop: the order of effects, and nothing about devices, models or files.

A run can be killed at any point and continue to the same bits: everything the future depends on is in the
checkpoint (state and position), and rows written after it are dropped when the run resumes.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxcnn.stop import Stopped
from jaxcnn.train.parallel import NEVER, CompiledStep
from jaxcnn.train.state import TrainState

Request = tuple[Any, Any, tuple]
"""What the next step is given: state, window, arguments."""
Answer = tuple[Any, Any, Any]
"""What it made of them: state, window, and a mean loss that has `item()`."""

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
    sums: dict[str, float] = field(default_factory=dict)
    """Over the steps since the last row of training metrics; {}: there are none."""
    pending: bool = False
    """What was due after `step`, an evaluation or the completion of the last state, was broken off by a stop."""
    training_seconds: float = 0.0
    """Time in the loop, without evaluation, checkpoints and the first step of each sitting (which compiles)."""
    training_examples: int = 0
    """Images trained on in that time."""
    waiting_seconds: float = 0.0
    """Part of that time in which the loop waited for a batch."""
    bad_examples: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)
    """Those found so far that cannot be used, of each split: index, name, reason."""
    wall_seconds: float = 0.0
    """Time since the start, summed over the sittings up to their last checkpoints."""

    @property
    def examples_per_second(self) -> float:
        """Return the training rate so far, 0 before there is any."""
        return self.training_examples / self.training_seconds if self.training_seconds > 0 else 0.0

    @property
    def input_wait(self) -> float:
        """Return the share of the training time in which the loop waited for a batch, 0 before there is any."""
        return self.waiting_seconds / self.training_seconds if self.training_seconds > 0 else 0.0


@dataclass(frozen=True)
class Effects:
    """What the loop calls."""

    train: CompiledStep
    arguments: Callable[[int], tuple]
    """The training stream: what step k is given."""
    view: Callable[[Any], Any]
    """The state or window of the compiled step in its global form."""
    window: Callable[[Mapping[str, float]], Any]
    """The sums that a step adds to, from their values; {}: over no step."""
    log_metrics: Callable[[TrainState, dict[str, float], Position], None]
    """Writes the row of the sums since the last one."""
    evaluate: Callable[[TrainState], None]
    """Evaluates and writes the row; raises Stopped on a signal."""
    complete: Callable[[TrainState], TrainState]
    """Makes the state after the last step the final one; raises Stopped on a signal."""
    save: Callable[[TrainState, Position], None]
    """Saves state and position, in place of what was saved at this step."""
    stop_requested: Callable[[int], int | None]
    """The signal that asked for a stop, agreed on by all processes."""
    progress: Callable[[int, float | None], None]
    """Shows the step and a recent loss."""
    clock: Callable[[], float] = time.perf_counter
    """Seconds, by which the time of training is told."""


def fit(state: Any, position: Position, timetable: Timetable, effects: Effects) -> TrainState:
    """Train from `position`, which is kept up to date, to the end and return the final state.

    Raises:
      NonFinite: a loss or the parameters were not finite; nothing of that step or later has been written.
      Stopped: on a signal, after the step under way and a checkpoint.
    """
    steps = training(state, position, timetable, effects)
    try:
        request = next(steps)
        while True:
            request = steps.send(effects.train(*request))
    except StopIteration as end:
        return end.value


def training(
    state: Any, position: Position, timetable: Timetable, effects: Effects
) -> Generator[Request, Answer, TrainState]:
    """Do as `fit` does, but leave the steps to the caller: yield what each is given and be sent what came of it."""
    window = effects.window(position.sums)
    losses: deque[Any] = deque()
    trained = False  # in this sitting
    mark = effects.clock()
    while True:
        step, last = position.step, position.step == timetable.total_steps
        stopping = effects.stop_requested(step)
        if position.pending or (trained and (stopping or timetable.logs(step) or timetable.saves(step))):
            # 1. Wait for the device; nothing is written after a loss that is not finite.
            position.sums = _values(effects.view(window))
            if position.sums["bad_step"] != NEVER:
                raise NonFinite("the loss", int(position.sums["bad_step"]))
            if trained:
                position.training_seconds += effects.clock() - mark
            whole = effects.view(state)
            # 2. The row of training metrics, over the steps since the last one.
            if trained and timetable.logs(step):
                effects.log_metrics(whole, position.sums, position)
                position.sums, window = {}, effects.window({})
            if timetable.saves(step) or stopping:
                _check_finite(whole, step)
                # 3. Evaluation, or completion. Where a stop breaks it off, the checkpoint says that it is still due.
                position.pending = timetable.evaluates(step) or last
                if position.pending and not stopping:
                    try:
                        if last:
                            whole = state = effects.complete(whole)
                        else:
                            effects.evaluate(whole)
                        position.pending = False
                    except Stopped as stopped:
                        stopping = stopped.signum
                # 4. The checkpoint, which covers the rows above.
                effects.save(whole, position)
            mark = effects.clock()
        if stopping:  # 5. now that nothing can be lost
            raise Stopped(stopping)
        if last:
            return effects.view(state)
        asked = effects.clock()
        arguments = effects.arguments(step)
        waited = effects.clock() - asked
        state, window, loss = yield state, window, arguments
        position.step += 1
        if trained:
            position.waiting_seconds += waited
            position.training_examples += timetable.batch_size
        else:  # the first step of a sitting waits for the compiler, which is nobody's throughput
            loss.item()
            trained, mark = True, effects.clock()
        losses.append(loss)
        recent = losses.popleft() if len(losses) > _AHEAD else None
        effects.progress(position.step, None if recent is None else recent.item())


def _values(window: Mapping[str, Any]) -> dict[str, float]:
    return {name: np.asarray(value.addressable_data(0)).reshape(-1)[0].item() for name, value in window.items()}


def _check_finite(state: TrainState, step: int) -> None:
    # Not the optimiser's state: a plateau schedule's best loss starts at infinity.
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.ema))
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves):
        raise NonFinite("a parameter", step)
