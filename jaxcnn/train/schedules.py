"""The learning rate as a pure function of the optimiser step: Optax's schedules, named and checked."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from optax.contrib import ReduceLROnPlateauState, reduce_on_plateau

from jaxcnn.errors import UsageError, unknown
from jaxcnn.train.checks import (
    COUNT,
    COUNT_OR_ZERO,
    NOT_NEGATIVE,
    POSITIVE,
    Range,
    check_range,
    check_ranges,
    check_unread,
)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves; steps are optimiser steps, counted from 0.

    The warm-up takes the first `warmup_steps`; the schedule then starts, at the full learning rate, and those
    that run to the end of training (polynomial, cosine) share out the steps that remain.
    """

    name: Literal["constant", "step", "exponential", "inverse_time", "polynomial", "cosine", "one_cycle", "plateau"] = (
        "constant"
    )
    """step: times `factor` at each boundary (He et al. 2015). exponential: times `decay_rate` every
    `decay_steps`. inverse_time: divided by 1 + decay_rate * step / decay_steps ("1/t", Robbins and Monro
    1951). polynomial: to `end_value` as (1 - step/total)^power (Caffe's poly). cosine: to `end_value` over
    half a period (Loshchilov and Hutter 2017, no restarts). one_cycle: up, then down, both as cosines (Smith
    and Topin 2017). plateau: times `factor` where the training loss stops falling."""
    warmup_steps: int = 0
    """Steps of linear rise from `warmup_start` to the learning rate (Goyal et al. 2017). All but one_cycle,
    which rises by itself. 0: none."""
    warmup_start: float = 0.0
    """Learning rate of step 0. Read where there is a warm-up."""
    boundaries: tuple[int, ...] = ()
    """Steps from which the rate is cut once more: (32000, 48000) cuts the update of step 32000 first. Counted
    from the start of training, warm-up included. Read by step."""
    factor: float = 0.1
    """What the rate is multiplied by at a boundary or on a plateau, in (0, 1). Read by step, plateau."""
    decay_rate: float = 0.1
    """Read by exponential, where it is a factor in (0, 1), and inverse_time, where it is 0 or more."""
    decay_steps: int | None = None
    """Steps over which `decay_rate` applies once. None: the steps after the warm-up. Read by exponential,
    inverse_time."""
    staircase: bool = False
    """Whether to hold the rate for `decay_steps` and then drop, as in the Inception recipes. Read by
    exponential."""
    end_value: float = 0.0
    """Learning rate at the end (polynomial, cosine) or under which it does not fall (exponential,
    plateau)."""
    power: float = 1.0
    """Exponent of the fraction of steps left; 1 is linear. Read by polynomial."""
    rise: float = 0.3
    """Fraction of the steps spent rising, in (0, 1). Read by one_cycle."""
    initial_division: float = 25.0
    """one_cycle starts at learning rate / initial_division."""
    final_division: float = 1e4
    """one_cycle ends at learning rate / initial_division / final_division."""
    window: int = 100
    """Steps whose training losses are averaged into one reading. Read by plateau; an epoch is a good
    value."""
    patience: int = 10
    """Readings in a row without improvement after which the rate is cut. Read by plateau."""
    cooldown: int = 0
    """Readings after a cut that are not counted as bad. Read by plateau."""
    tolerance: float = 1e-4
    """Relative fall of the best reading that counts as improvement, in (0, 1). Read by plateau."""


READS: dict[str, tuple[str, ...]] = {
    "constant": (),
    "step": ("boundaries", "factor"),
    "exponential": ("decay_rate", "decay_steps", "staircase", "end_value"),
    "inverse_time": ("decay_rate", "decay_steps"),
    "polynomial": ("end_value", "power"),
    "cosine": ("end_value",),
    "one_cycle": ("rise", "initial_division", "final_division"),
    "plateau": ("factor", "window", "patience", "cooldown", "tolerance", "end_value"),
}

_INSIDE: Range = (lambda value: 0 < value < 1, "a number above 0 and below 1")
_AT_LEAST_1: Range = (lambda value: value >= 1, "a finite number, 1 or more")
_RANGES: dict[str, Range] = {
    "warmup_steps": COUNT_OR_ZERO,
    "warmup_start": NOT_NEGATIVE,
    "factor": _INSIDE,
    "decay_rate": NOT_NEGATIVE,
    "decay_steps": COUNT,
    "end_value": NOT_NEGATIVE,
    "power": POSITIVE,
    "rise": _INSIDE,
    "initial_division": _AT_LEAST_1,
    "final_division": _AT_LEAST_1,
    "window": COUNT,
    "patience": COUNT,
    "cooldown": COUNT_OR_ZERO,
    "tolerance": _INSIDE,
}


def make_schedule(config: ScheduleConfig, learning_rate: float, total_steps: int) -> optax.Schedule:
    """Return the function from an optimiser step (int or int32 scalar, also traced) to a float32 rate.

    For plateau this is the rate before any cut, since cuts depend on losses: see `current_learning_rate`.

    Args:
        config: the schedule.
        learning_rate: the full rate, above 0.
        total_steps: optimiser steps in the whole training.

    Raises:
        UsageError: for a value out of range, or a field set that this schedule does not read.
    """
    _check(config, learning_rate, total_steps)
    after = _after_warmup(config, learning_rate, total_steps - config.warmup_steps)
    if config.warmup_steps:
        warmup = optax.linear_schedule(config.warmup_start, learning_rate, config.warmup_steps)
        after = optax.join_schedules([warmup, after], [config.warmup_steps])

    def schedule(step: jax.typing.ArrayLike) -> Float[Array, ""]:
        # Optax's schedules mix int steps with floats, and interpolate with a dot that TPUs would round to
        # bfloat16.
        with jax.numpy_dtype_promotion("standard"), jax.default_matmul_precision("highest"):
            return jnp.asarray(after(step), jnp.float32)

    return schedule


def _after_warmup(config: ScheduleConfig, learning_rate: float, steps: int) -> optax.Schedule:
    """Return the schedule over the `steps` that follow the warm-up, counted from its end."""
    decay_steps = config.decay_steps or steps
    match config.name:
        case "step":
            cuts = {boundary - config.warmup_steps: config.factor for boundary in config.boundaries}
            return optax.piecewise_constant_schedule(learning_rate, cuts)
        case "exponential":
            return optax.exponential_decay(
                learning_rate,
                decay_steps,
                config.decay_rate,
                staircase=config.staircase,
                end_value=config.end_value,
            )
        case "inverse_time":  # the one that Optax lacks
            return lambda step: learning_rate / (1 + config.decay_rate * step / decay_steps)
        case "polynomial":
            return optax.polynomial_schedule(learning_rate, config.end_value, config.power, steps)
        case "cosine":
            return optax.cosine_decay_schedule(learning_rate, steps, alpha=config.end_value / learning_rate)
        case "one_cycle":
            return optax.cosine_onecycle_schedule(
                steps, learning_rate, config.rise, config.initial_division, config.final_division
            )
        case _:  # constant, and plateau before any cut
            return optax.constant_schedule(learning_rate)


def make_plateau(config: ScheduleConfig, learning_rate: float) -> optax.GradientTransformationExtraArgs:
    """Return the transformation that cuts updates where the loss, given as `value`, stops falling.

    It comes last in the chain; `config` must have passed `make_schedule`. Every step's loss counts, those of
    the warm-up too.
    """
    return reduce_on_plateau(
        factor=config.factor,
        patience=config.patience,
        rtol=config.tolerance,
        cooldown=config.cooldown,
        accumulation_size=config.window,
        min_scale=config.end_value / learning_rate,
    )


def current_learning_rate(
    schedule: optax.Schedule, opt_state: optax.OptState, step: jax.typing.ArrayLike
) -> Float[Array, ""]:
    """Return the rate in force at `step`, plateau cuts included; pure and jittable.

    Args:
        schedule: what `make_schedule` returned.
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


def _check(config: ScheduleConfig, learning_rate: float, total_steps: int) -> None:
    if config.name not in READS:
        raise unknown("schedule", config.name, READS)
    check_range("learning_rate", learning_rate, POSITIVE)
    check_range("total_steps", total_steps, COUNT)
    check_ranges("schedule", config, _RANGES)
    reads = ("name", *READS[config.name])
    if config.name != "one_cycle":
        reads += ("warmup_steps", "warmup_start") if config.warmup_steps else ("warmup_steps",)
    check_unread("schedule", config, reads)
    for name in ("warmup_start", "end_value"):
        value = getattr(config, name)
        if value > learning_rate:
            raise UsageError(f"schedule.{name} is {value}: expected at most the learning rate, {learning_rate}")
    if config.warmup_steps >= total_steps:
        raise UsageError(
            f"schedule.warmup_steps is {config.warmup_steps}: expected fewer than the {total_steps} in all"
        )
    if config.name == "step":
        _check_boundaries(config, total_steps)
    if config.name == "exponential" and not 0 < config.decay_rate < 1:
        raise UsageError(f"schedule.decay_rate is {config.decay_rate}: expected a factor in (0, 1)")
    if config.name == "one_cycle" and not 1 <= int(config.rise * total_steps) < total_steps:
        raise UsageError(f"schedule.rise is {config.rise}: of {total_steps} steps it leaves none to rise or to fall")


def _check_boundaries(config: ScheduleConfig, total_steps: int) -> None:
    if not config.boundaries:
        raise UsageError("schedule.boundaries is empty: 'step' needs at least one step at which to cut the rate")
    last = config.warmup_steps
    for boundary in config.boundaries:
        check_range("schedule.boundaries", boundary, COUNT)
        if boundary <= last:
            raise UsageError(
                f"schedule.boundaries is {config.boundaries}: expected increasing steps after the warm-up "
                f"({config.warmup_steps} steps), but {boundary} comes after {last}"
            )
        if boundary >= total_steps:
            raise UsageError(
                f"schedule.boundaries is {config.boundaries}: expected steps below the {total_steps} in all"
            )
        last = boundary
