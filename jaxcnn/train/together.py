"""Several runs of one experiment, one for each seed, whose steps are one program for a batch of networks.

Each run is a loop of its own, in a thread of its own; their steps meet here. So they may stand at different steps, and
one that ends leaves the others as they are.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn.train.inputs import Inputs, StepInputs
from jaxcnn.train.parallel import Parallel
from jaxcnn.train.state import TrainState, Tree
from jaxcnn.train.step import Sums, TrainStep


class Row:
    """One run's part of a tree whose arrays hold those of several runs, one after the other."""

    def __init__(self, joined: Tree, row: int) -> None:
        """Note where it is; nothing is copied."""
        self.joined, self.row = joined, row

    def read(self) -> Tree:
        """Return a copy on the host: a view of a device's buffer would keep it from being donated."""
        return jax.tree.map(lambda x: np.array(np.asarray(x)[self.row]), self.joined)


class _Part:
    """One run's part of an array, read when it is asked for."""

    def __init__(self, joined: jax.Array, row: int) -> None:
        self._joined, self._row = joined, row

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(np.asarray(self._joined)[self._row], dtype)

    def copy_to_host_async(self) -> None:
        self._joined.copy_to_host_async()

    def block_until_ready(self) -> "_Part":
        self._joined.block_until_ready()
        return self


class Together:
    """Where the steps of several runs meet. A row whose run has ended is computed on, and nobody reads it."""

    def __init__(self, step: TrainStep, inputs: Inputs, rows: int, parallel: Parallel) -> None:
        """Note what to compile.

        Args:
          step: of one run, not compiled.
          inputs: of any of them.
          rows: how many runs there are.
          parallel: the one device.
        """

        def one(shared: Tree, state: TrainState, stored: Tree, key: jax.Array, number: jax.Array) -> tuple:
            return step(state, inputs.batch(StepInputs(shared, stored, key, number)))

        run = jax.vmap(one, in_axes=(None, 0, 0, 0, 0))
        self._step = parallel.jit(run, donate_argnums=1)
        self._place, self._rows = parallel.place, rows
        self._meeting = threading.Condition()
        self._active = set(range(rows))
        self._given: dict[int, tuple[Any, StepInputs]] = {}
        self._last: list[Any] = [None] * rows
        self._answer: tuple[int, Any] = (0, None)

    def step_of(self, row: int) -> Callable[[Any, StepInputs], tuple[Row, Sums]]:
        """Return the training step of one run, which waits for those of the others."""

        def run(state: Any, inputs: StepInputs) -> tuple[Row, Sums]:
            with self._meeting:
                round_before = self._answer[0]
                self._given[row] = self._last[row] = (state, inputs)
                self._compute_if_all()
                self._meeting.wait_for(lambda: self._answer[0] > round_before)
                _, answer = self._answer
                if isinstance(answer, BaseException):
                    raise answer
                state, sums = answer
                return Row(state, row), jax.tree.map(lambda x: _Part(x, row), sums)

        return run

    def leave(self, row: int) -> None:
        """Let the others go on without a run."""
        with self._meeting:
            self._active.discard(row)
            self._compute_if_all()

    def whole(self, state: Any) -> TrainState:
        """Return a state on its device."""
        return self._place(state.read()) if isinstance(state, Row) else state

    def _compute_if_all(self) -> None:
        if not self._active or set(self._given) != self._active:
            return
        spare = next(iter(self._given.values()))
        rows = [self._given.get(row) or self._last[row] or spare for row in range(self._rows)]
        try:
            states, inputs = zip(*rows, strict=True)
            own = [(each.stored, each.key, each.step) for each in inputs]
            stored, key, number = jax.tree.map(lambda *x: np.stack([np.asarray(each) for each in x]), *own)
            answer: Any = self._step(inputs[0].shared, self._joined(states), stored, key, number)
        except Exception as error:
            answer = error
        self._given = {}
        for row in range(self._rows):
            if row not in self._active and self._last[row] is not None and not isinstance(answer, Exception):
                self._last[row] = Row(answer[0], row), self._last[row][1]  # its state was donated
        self._answer = (self._answer[0] + 1, answer)
        self._meeting.notify_all()

    def _joined(self, states: Sequence[Any]) -> TrainState:
        whole = getattr(states[0], "joined", None)
        if whole is not None and all(isinstance(each, Row) and each.joined is whole for each in states):
            return whole
        read = [each.read() if isinstance(each, Row) else jax.tree.map(np.asarray, each) for each in states]
        return self._place(jax.tree.map(lambda *x: np.stack(x), *read))
