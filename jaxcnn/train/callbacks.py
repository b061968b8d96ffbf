"""What a user's functions may do while a run trains: look, add metrics, ask for a stop.

A callback is a function of (step, metrics, state), called with each row of the log: of training ("train/loss"), of an
evaluation ("val/loss"), and at the end ("test/loss"). It returns None, or metrics to add to the row by name, or `Stop`.

    def gradient_free(step, metrics, state):
        return {"largest": max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(state.params))}

What it returns is to be a function of what it is given: a run that was interrupted then ends as one that was not. One
that remembers has a method `replay(step, metrics)`, by which it is told the rows of before when a run goes on; and
`start()`, where one value is to serve several runs, which returns the callback of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from jaxcnn.errors import UsageError
from jaxcnn.parts import check_call
from jaxcnn.typed import Config, CountOrZero, NotNegative, Open

if TYPE_CHECKING:
    from jaxcnn.train.state import TrainState


@dataclass(frozen=True)
class Stop:
    """Asks for the end of training. The run is then finished: it is scored, and not taken up again."""

    reason: str
    """For the log and `result.json`."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """To add to the row, as where there is no stop."""


class Function(Protocol):
    """A callback."""

    def __call__(
        self, step: int, metrics: Mapping[str, float], state: "TrainState"
    ) -> Mapping[str, float] | Stop | None:
        """See the module."""


@dataclass(frozen=True, kw_only=True)
class EarlyStopping(Config, at="train.callbacks"):
    """Stop where a metric has not improved for some evaluations in a row (Prechelt 1998)."""

    kind: Literal["early_stopping"] = "early_stopping"
    metric: str = "val/loss"
    """Name of a logged metric."""
    patience: CountOrZero = 5
    """Rows with this metric, without improvement, that are borne."""
    least_change: NotNegative = 0.0
    """By how much a value must be better to be an improvement."""
    direction: Literal["min", "max"] = "min"
    """Whether less is better, or more."""

    def start(self) -> "Function":
        """Return the callback of one run."""
        return _Patience(self)


@dataclass
class _Patience:
    """Early stopping of one run."""

    config: EarlyStopping
    best: float = float("inf")
    waited: int = 0

    def replay(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take note of a row."""
        if self.config.metric in metrics:
            value = metrics[self.config.metric] * (1 if self.config.direction == "min" else -1)
            self.waited = 0 if value < self.best - self.config.least_change else self.waited + 1
            self.best = min(self.best, value)

    def __call__(self, step: int, metrics: Mapping[str, float], state: Any) -> Stop | None:
        """Take note of a row, and ask for a stop where it is time."""
        self.replay(step, metrics)
        if self.config.metric in metrics and self.waited > self.config.patience:
            return Stop(f"{self.config.metric} has not improved for {self.waited} rows")
        return None


Callback = Annotated[EarlyStopping | Any, Open("a callback", "__call__")]
"""One of ours, or a user's own."""


def of_run(callback: Any) -> Function:
    """Return the function of one run.

    Raises:
      UsageError: it cannot be called.
    """
    found = callback.start() if hasattr(callback, "start") else callback
    if not callable(found):
        raise UsageError(f"callback {found!r} cannot be called: expected a function of (step, metrics, state)")
    name = getattr(found, "__name__", type(found).__name__)
    check_call(f"callback {name}", found, "step", "metrics", "state")
    return found
