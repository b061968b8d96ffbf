"""The learning rate as a pure function of the optimiser step: Optax's schedules, each with its own settings.

    Experiment(..., schedule=StepDecay(boundaries=(32_000, 48_000)))

Steps are optimiser steps, counted from 0. A warm-up takes the first `warmup_steps`; the schedule then starts, at the
full learning rate, and those that run to the end of training (polynomial, cosine) share out the steps that remain.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from optax.contrib import ReduceLROnPlateauState, reduce_on_plateau

from jaxcnn.errors import UsageError
from jaxcnn.parts import Finder, Part, arguments_of, call, made
from jaxcnn.typed import Config, Count, CountOrZero, Inside, Interval, NotNegative, Open, Positive, check

AtLeast1 = Annotated[float, Interval(least=1)]


class Schedule(Config, at="schedule"):
    """A learning rate by the step. A user's own may be a frozen dataclass of this kind, with a `make`."""

    goes_on: ClassVar[bool] = False
    """Whether no step's rate depends on how many there are in all, so that a finished run can be continued."""

    def make(self, learning_rate: float, total_steps: int) -> optax.Schedule:
        """Return the rate by the step (int32 scalar, also traced).

        Args:
            learning_rate: the full rate, above 0.
            total_steps: optimiser steps in the whole training.

        Raises:
            UsageError: the settings do not go with these.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Warmed(Schedule, at="schedule"):
    """A schedule that may begin with a warm-up."""

    warmup_steps: CountOrZero = 0
    """Steps of linear rise from `warmup_start` to the learning rate (Goyal et al. 2017). 0: none."""
    warmup_start: NotNegative = 0.0
    """Learning rate of step 0, where there is a warm-up."""

    def __post_init__(self) -> None:
        """Check what goes together."""
        super().__post_init__()
        if self.warmup_start and not self.warmup_steps:
            raise UsageError(f"schedule.warmup_start is {self.warmup_start}, without schedule.warmup_steps")

    def make(self, learning_rate: float, total_steps: int) -> optax.Schedule:
        for name in ("warmup_start", "end_value"):
            if (value := getattr(self, name, 0.0)) > learning_rate:
                raise UsageError(f"schedule.{name} is {value}: expected at most the learning rate, {learning_rate}")
        if self.warmup_steps >= total_steps:
            raise UsageError(
                f"schedule.warmup_steps is {self.warmup_steps}: expected fewer than the {total_steps} in all"
            )
        after = self.after_warmup(learning_rate, total_steps - self.warmup_steps)
        if not self.warmup_steps:
            return after
        warmup = optax.linear_schedule(self.warmup_start, learning_rate, self.warmup_steps)
        return optax.join_schedules([warmup, after], [self.warmup_steps])

    def after_warmup(self, learning_rate: float, steps: int) -> optax.Schedule:
        """Return the schedule over the `steps` that follow the warm-up, counted from its end."""
        return optax.constant_schedule(learning_rate)


@dataclass(frozen=True, kw_only=True)
class Constant(Warmed, at="schedule"):
    """The learning rate as it is."""

    kind: Literal["constant"] = "constant"
    goes_on: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class StepDecay(Warmed, at="schedule"):
    """Times `factor` at each boundary (He et al. 2015)."""

    kind: Literal["step"] = "step"
    goes_on: ClassVar[bool] = True
    boundaries: tuple[Count, ...]
    """Steps from which the rate is cut once more: (32000, 48000) cuts the update of step 32000 first. Counted from the
    start of training, warm-up included."""
    factor: Inside = 0.1
    """What the rate is multiplied by."""

    def __post_init__(self) -> None:
        """Check the boundaries."""
        super().__post_init__()
        rising = list(self.boundaries) == sorted({*self.boundaries}) and self.boundaries
        if not rising or self.boundaries[0] <= self.warmup_steps:
            raise UsageError(
                f"schedule.boundaries is {self.boundaries}: expected increasing steps after the warm-up "
                f"({self.warmup_steps} steps), at least one"
            )

    def make(self, learning_rate: float, total_steps: int) -> optax.Schedule:
        if self.boundaries[-1] >= total_steps:
            raise UsageError(f"schedule.boundaries is {self.boundaries}: expected steps below the {total_steps} in all")
        return super().make(learning_rate, total_steps)

    def after_warmup(self, learning_rate: float, steps: int) -> optax.Schedule:
        cuts = {boundary - self.warmup_steps: self.factor for boundary in self.boundaries}
        return optax.piecewise_constant_schedule(learning_rate, cuts)


@dataclass(frozen=True, kw_only=True)
class Falling(Warmed, at="schedule"):
    """A schedule that falls, after the warm-up."""

    end_value: NotNegative = 0.0
    """Learning rate at the end, or under which it does not fall."""


@dataclass(frozen=True, kw_only=True)
class Decaying(Warmed, at="schedule"):
    """A schedule that falls by `decay_rate` every `decay_steps`."""

    decay_steps: Count | None = None
    """Steps over which `decay_rate` applies once. None: those after the warm-up."""

    @property
    def goes_on(self) -> bool:  # type: ignore[override]
        return self.decay_steps is not None


@dataclass(frozen=True, kw_only=True)
class ExponentialDecay(Decaying, Falling, at="schedule"):
    """Times `decay_rate` every `decay_steps`."""

    kind: Literal["exponential"] = "exponential"
    decay_rate: Inside = 0.1
    """What the rate is multiplied by."""
    staircase: bool = False
    """Hold the rate for `decay_steps` and then drop, as in the Inception recipes."""

    def after_warmup(self, learning_rate: float, steps: int) -> optax.Schedule:
        every = self.decay_steps or steps
        return optax.exponential_decay(
            learning_rate, every, self.decay_rate, staircase=self.staircase, end_value=self.end_value
        )


@dataclass(frozen=True, kw_only=True)
class InverseTimeDecay(Decaying, at="schedule"):
    """Divided by 1 + decay_rate * step / decay_steps ("1/t", Robbins and Monro 1951)."""

    kind: Literal["inverse_time"] = "inverse_time"
    decay_rate: NotNegative = 0.1
    """How fast it falls."""

    def after_warmup(self, learning_rate: float, steps: int) -> optax.Schedule:
        return lambda step: learning_rate / (1 + self.decay_rate * step / (self.decay_steps or steps))


@dataclass(frozen=True, kw_only=True)
class PolynomialDecay(Falling, at="schedule"):
    """To `end_value` as (1 - step/total)^power (Caffe's poly)."""

    kind: Literal["polynomial"] = "polynomial"
    power: Positive = 1.0
    """Exponent of the fraction of steps left; 1 is linear."""

    def after_warmup(self, learning_rate: float, steps: int) -> optax.Schedule:
        return optax.polynomial_schedule(learning_rate, self.end_value, self.power, steps)


@dataclass(frozen=True, kw_only=True)
class CosineDecay(Falling, at="schedule"):
    """To `end_value` over half a period (Loshchilov and Hutter 2017, no restarts)."""

    kind: Literal["cosine"] = "cosine"

    def after_warmup(self, learning_rate: float, steps: int) -> optax.Schedule:
        return optax.cosine_decay_schedule(learning_rate, steps, alpha=self.end_value / learning_rate)


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule, at="schedule"):
    """Up, then down, both as cosines (Smith and Topin 2017)."""

    kind: Literal["one_cycle"] = "one_cycle"
    rise: Inside = 0.3
    """Fraction of the steps spent rising."""
    initial_division: AtLeast1 = 25.0
    """It starts at learning rate / initial_division."""
    final_division: AtLeast1 = 1e4
    """It ends at learning rate / initial_division / final_division."""

    def make(self, learning_rate: float, total_steps: int) -> optax.Schedule:
        # Of the number as it is written: in floats, 0.29 of 100 steps are 28.
        peak = int(Fraction(str(self.rise)) * total_steps)
        if not 1 <= peak < total_steps:
            raise UsageError(f"schedule.rise is {self.rise}: of {total_steps} steps it leaves none to rise or to fall")
        share = (peak + 0.5) / total_steps  # Optax rounds its share of the steps down
        return optax.cosine_onecycle_schedule(
            total_steps, learning_rate, share, self.initial_division, self.final_division
        )


@dataclass(frozen=True, kw_only=True)
class Plateau(Falling, at="schedule"):
    """Times `factor` where the training loss stops falling. Every step's loss counts, those of the warm-up too."""

    kind: Literal["plateau"] = "plateau"
    goes_on: ClassVar[bool] = True
    factor: Inside = 0.1
    """What the rate is multiplied by."""
    window: Count = 100
    """Steps whose training losses are averaged into one reading; an epoch is a good value."""
    patience: Count = 10
    """Readings in a row without improvement after which the rate is cut."""
    cooldown: CountOrZero = 0
    """Readings after a cut that are not counted as bad."""
    tolerance: Inside = 1e-4
    """Relative fall of the best reading that counts as improvement."""

    def cuts(self, learning_rate: float) -> optax.GradientTransformationExtraArgs:
        """Return the transformation that cuts updates where the loss, given as `value`, stops falling.

        It comes last in the chain.
        """
        return reduce_on_plateau(
            factor=self.factor,
            patience=self.patience,
            rtol=self.tolerance,
            cooldown=self.cooldown,
            accumulation_size=self.window,
            min_scale=self.end_value / learning_rate,
        )


AnySchedule = Annotated[
    Constant
    | StepDecay
    | ExponentialDecay
    | InverseTimeDecay
    | PolynomialDecay
    | CosineDecay
    | OneCycle
    | Plateau
    | Any,
    Open("a schedule", "make"),
]
"""One of ours; or by name a function of `step`, or one that returns such a function: it is given its options and, where
it has such arguments, `learning_rate` and `total_steps`."""


@dataclass(frozen=True)
class _Own(Schedule):
    """A user's function as a schedule."""

    name: str
    function: Any

    def make(self, learning_rate: float, total_steps: int) -> optax.Schedule:
        name, function = self.name, self.function
        if "step" not in arguments_of(name, function):
            function = call(name, function, {}, {"learning_rate": learning_rate, "total_steps": total_steps})
            if not callable(function):
                raise UsageError(f"{name} gives {function!r:.80}: expected a function of step")
        named = "step" in arguments_of(name, function)

        def rate(step: Any) -> Any:
            return call(name, function, {"step": step}) if named else call(name, partial(function, step), {})

        with jax.numpy_dtype_promotion("standard"):  # it fails now, in one line, or not at all
            found = jax.eval_shape(rate, jax.ShapeDtypeStruct((), jnp.int32))
        if jnp.shape(found) != ():
            raise UsageError(f"{name} gives {jnp.shape(found)} numbers for a step: expected one")
        return rate

    @property
    def goes_on(self) -> bool:  # type: ignore[override]
        return "total_steps" not in arguments_of(self.name, self.function)


def find_schedule(schedule: Any, finder: Finder) -> Schedule:
    """Return one of `AnySchedule` as a value; what a part names is found.

    Raises:
        UsageError: there is no such part, or it is none.
    """
    found = made(schedule, finder)
    if isinstance(found, Schedule):
        return found
    if not isinstance(schedule, Part) or not callable(found):
        what = schedule.name if isinstance(schedule, Part) else "schedule"
        raise UsageError(f"{what} is {found!r:.80}: expected a function of step, or a jaxcnn.Schedule")
    return _Own(schedule.name, found)


def make_schedule(schedule: Schedule, learning_rate: float, total_steps: int) -> optax.Schedule:
    """Return the function from an optimiser step (int or int32 scalar, also traced) to a float32 rate.

    For Plateau this is the rate before any cut, since cuts depend on losses: see `current_learning_rate`.

    Args:
        schedule: the schedule, as `find_schedule` returns it.
        learning_rate: the full rate, above 0.
        total_steps: optimiser steps in the whole training.

    Raises:
        UsageError: its settings do not go with these.
    """
    rate = schedule.make(check(Positive, learning_rate, "learning_rate"), check(Count, total_steps, "total_steps"))

    def of_step(step: jax.typing.ArrayLike) -> Float[Array, ""]:
        # Optax's schedules mix int steps with floats, and interpolate with a dot that TPUs would round to
        # bfloat16.
        with jax.numpy_dtype_promotion("standard"), jax.default_matmul_precision("highest"):
            return jnp.asarray(rate(jnp.asarray(step, jnp.int32)), jnp.float32)

    return of_step


def current_learning_rate(
    schedule: optax.Schedule, opt_state: optax.OptState, step: jax.typing.ArrayLike
) -> Float[Array, ""]:
    """Return the rate in force at `step`, plateau cuts included; pure and jittable.

    Args:
        schedule: the function of the step that `make_schedule` returned.
        opt_state: the optimiser's state after that step's update.
        step: the step whose update used the rate, counted from 0.
    """
    rate = schedule(step)
    leaves: list[Any] = jax.tree.leaves(opt_state, is_leaf=_is_plateau)
    for state in filter(_is_plateau, leaves):
        rate = rate * state.scale.astype(jnp.float32)
    return rate


def _is_plateau(node: Any) -> bool:
    return isinstance(node, ReduceLROnPlateauState)
