"""Every optimiser of the field as one Optax transformation, built from two small configs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from jaxcnn.errors import UsageError, nearest, unknown
from jaxcnn.train.checks import FRACTION, NOT_NEGATIVE, POSITIVE, Range, check_ranges, check_unread
from jaxcnn.train.delta_bar_delta import delta_bar_delta
from jaxcnn.train.schedules import ScheduleConfig, make_plateau, make_schedule


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Which optimiser, and its settings; None takes the optimiser's own default, the table DEFAULTS."""

    name: Literal[
        "sgd",
        "momentum",
        "nesterov",
        "adagrad",
        "rmsprop",
        "adam",
        "adamw",
        "lars",
        "lamb",
        "muon",
        "delta_bar_delta",
    ] = "momentum"
    """sgd: plain. momentum: heavy ball (Polyak 1964). nesterov: Sutskever et al. 2013. adagrad: Duchi et al.
    2011. rmsprop: Tieleman and Hinton 2012, as in TensorFlow. adam: Kingma and Ba 2015. adamw: Loshchilov and
    Hutter 2019. lars: You et al. 2017. lamb: You et al. 2020. muon: Jordan et al. 2024. delta_bar_delta:
    Jacobs 1988."""
    learning_rate: float = 0.1
    """Full learning rate, which the schedule then moves; above 0. Read by all."""
    momentum: float | None = None
    """Part of the velocity kept per step, in [0, 1). None: 0.9 for momentum, nesterov and lars, 0.95 for
    muon, 0 for rmsprop."""
    beta1: float | None = None
    """Part of the mean gradient kept per step, in [0, 1). None: 0.9. Read by adam, adamw, lamb, and by muon
    for parameters of one axis."""
    beta2: float | None = None
    """Part of the mean squared gradient kept per step, in [0, 1). None: 0.999. Read like beta1."""
    rms_decay: float | None = None
    """Part of the mean squared gradient kept per step, in [0, 1). None: 0.9. Read by rmsprop."""
    rms_initial: float | None = None
    """Mean squared gradient before the first step, 0 or more. None: 0; TensorFlow's own recipes (Inception,
    EfficientNet) start at 1. Read by rmsprop."""
    eps: float | None = None
    """Keeps divisions finite, above 0. None: 1e-8 for rmsprop, adam, adamw and muon, 1e-7 for adagrad, 1e-6
    for lamb. The Inception recipe's rmsprop has 1."""
    eps_in_sqrt: bool | None = None
    """Whether to divide by sqrt(mean square + eps), as TensorFlow and so the Inception recipe do, or by
    sqrt(mean square) + eps, as torch does. None: True. Read by rmsprop."""
    trust_coefficient: float | None = None
    """Size of an update relative to its parameters at learning rate 1, above 0. None: 0.001. Read by lars."""
    kappa: float | None = None
    """Added to a parameter's rate while its gradient keeps its sign, 0 or more. None: 0.01. Read by
    delta_bar_delta."""
    phi: float | None = None
    """Fraction of a parameter's rate cut where its gradient flips, in [0, 1). None: 0.1. Read by
    delta_bar_delta."""
    theta: float | None = None
    """Part of the average gradient kept per step, in [0, 1). None: 0.7. Read by delta_bar_delta."""
    weight_decay: float = 0.0
    """Weight decay, 0 or more. Added to the gradient as weight_decay * parameter (L2, before momentum, as in
    Caffe and torch) by sgd, momentum, nesterov, adagrad, rmsprop, adam, delta_bar_delta and, before its trust
    ratio, lars; added after the gradient is rescaled, so decoupled from it, by adamw, lamb and muon. Always
    times the learning rate. Read by all."""
    decay: tuple[str, ...] = ("*kernel",)
    """Which parameters decay: patterns over paths such as stage1/block1/conv1/kernel, where * also crosses
    slashes. He et al. 2015, like most torch recipes, decay everything: ("*",). lars and lamb apply their
    trust ratio to the same parameters only, as their authors do. Read by all."""
    clip_norm: float | None = None
    """Greatest norm of the whole gradient, above 0, before weight decay is added (Pascanu et al. 2013). None:
    no clipping. Read by all."""


_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}

DEFAULTS: dict[str, dict[str, float]] = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "adagrad": {"eps": 1e-7},
    "rmsprop": {"rms_decay": 0.9, "rms_initial": 0.0, "momentum": 0.0, "eps": 1e-8, "eps_in_sqrt": True},
    "adam": _ADAM,
    "adamw": _ADAM,
    "lars": {"momentum": 0.9, "trust_coefficient": 0.001},
    "lamb": {**_ADAM, "eps": 1e-6},
    "muon": {"momentum": 0.95, **_ADAM},
    "delta_bar_delta": {"kappa": 0.01, "phi": 0.1, "theta": 0.7},
}
"""The settings that each optimiser reads besides the common ones, and what None means for it."""

_COMMON = ("name", "learning_rate", "weight_decay", "decay", "clip_norm")
_OWN_DECAY = ("adamw", "lars", "lamb", "muon")  # these place their weight decay themselves
_TRUST = ("lars", "lamb")

_RANGES: dict[str, Range] = {
    "learning_rate": POSITIVE,
    "momentum": FRACTION,
    "beta1": FRACTION,
    "beta2": FRACTION,
    "rms_decay": FRACTION,
    "rms_initial": NOT_NEGATIVE,
    "eps": POSITIVE,
    "trust_coefficient": POSITIVE,
    "kappa": NOT_NEGATIVE,
    "phi": FRACTION,
    "theta": FRACTION,
    "weight_decay": NOT_NEGATIVE,
    "clip_norm": POSITIVE,
}


def make_optimizer(
    optim: OptimConfig,
    schedule: ScheduleConfig,
    total_steps: int,
    params_like: Any,
    frozen: Sequence[str] = (),
) -> optax.GradientTransformationExtraArgs:
    """Return the optimiser: gradient clipping, weight decay, the rule itself, the schedule.

    Its `update(grads, opt_state, params, value=loss)` returns what to add to the parameters. The state is a
    plain tree of arrays. `current_learning_rate` tells the rate in force.

    Args:
        optim: the optimiser.
        schedule: the schedule of its learning rate.
        total_steps: optimiser steps in the whole training.
        params_like: tree of the parameters or of their shapes; only names and shapes are read.
        frozen: patterns of parameters that are not updated, not even by weight decay; see `matching`.

    Raises:
        UsageError: for a value out of range, a field set that nothing reads, or a pattern that matches no
            parameter.
    """
    if optim.name not in DEFAULTS:
        raise unknown("optimiser", optim.name, DEFAULTS)
    check_ranges("optim", optim, _RANGES)
    check_unread("optim", optim, (*_COMMON, *DEFAULTS[optim.name]))
    rate = make_schedule(schedule, optim.learning_rate, total_steps)
    mask: Any = False  # Optax reads it as nowhere
    if optim.weight_decay or optim.name in _TRUST or optim.decay != OptimConfig.decay:
        mask = matching("optim.decay", optim.decay, params_like)

    parts: list[optax.GradientTransformation] = []
    if optim.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(optim.clip_norm))
    if optim.weight_decay and optim.name not in _OWN_DECAY:
        parts.append(optax.add_decayed_weights(optim.weight_decay, mask))
    parts.append(_rule(optim, rate, mask, params_like))
    if schedule.name == "plateau":
        parts.append(make_plateau(schedule, optim.learning_rate))
    tx: optax.GradientTransformation = optax.chain(*parts)
    if frozen:
        fixed = matching("train.frozen", frozen, params_like)
        if all(jax.tree.leaves(fixed)):
            raise UsageError(f"train.frozen is {tuple(frozen)}: no parameter is left to train")
        labels = jax.tree.map(lambda is_fixed: "frozen" if is_fixed else "trained", fixed)
        tx = optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)
    return _standard_promotion(optax.with_extra_args_support(tx))


def _rule(optim: OptimConfig, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:
    """Return the optimiser's own rule, with the learning rate and any decoupled decay."""
    given = {name: getattr(optim, name) for name in DEFAULTS[optim.name]}
    value = {name: DEFAULTS[optim.name][name] if v is None else v for name, v in given.items()}
    weight_decay = optax.add_decayed_weights(optim.weight_decay, mask)
    match optim.name:
        case "sgd":
            return optax.sgd(rate)
        case "momentum" | "nesterov":
            # As torch: v = m v + g, then w -= rate v. Caffe, and so He et al., keep the rate inside,
            # v = m v + rate g, w -= v: the same at a constant rate, a larger update for some 1 / (1 - m)
            # steps after each cut.
            return optax.sgd(rate, value["momentum"], nesterov=optim.name == "nesterov")
        case "adagrad":
            return optax.adagrad(rate, initial_accumulator_value=0.0, eps=value["eps"])
        case "rmsprop":
            # As TensorFlow: the rate is inside the velocity, v = m v + rate g / sqrt(mean square).
            return optax.rmsprop(
                rate,
                decay=value["rms_decay"],
                eps=value["eps"],
                initial_scale=value["rms_initial"],
                eps_in_sqrt=bool(value["eps_in_sqrt"]),
                momentum=value["momentum"] or None,
            )
        case "adam":
            return optax.adam(rate, value["beta1"], value["beta2"], value["eps"])
        case "adamw":
            return optax.chain(_adam(value), weight_decay, optax.scale_by_learning_rate(rate))
        case "lars":
            # The rate is inside the velocity, as in the paper; the trust ratio divides by |g + wd w|, where
            # the paper has |g| + wd |w|.
            trust = value["trust_coefficient"]
            return optax.lars(rate, optim.weight_decay, mask, trust, 0.0, mask, value["momentum"])
        case "lamb":
            trust_ratio = optax.masked(optax.scale_by_trust_ratio(), mask)
            return optax.chain(_adam(value), weight_decay, trust_ratio, optax.scale_by_learning_rate(rate))
        case "muon":
            return optax.chain(_muon(value, params_like), weight_decay, optax.scale_by_learning_rate(rate))
        case _:
            # Its rates start from the full learning rate; the schedule scales all of them alike.
            return optax.chain(
                delta_bar_delta(optim.learning_rate, **value),
                optax.scale_by_schedule(lambda step: rate(step) / optim.learning_rate),
            )


def _adam(value: dict[str, float]) -> optax.GradientTransformation:
    return optax.scale_by_adam(value["beta1"], value["beta2"], value["eps"])


def _muon(value: dict[str, float], params_like: Any) -> optax.GradientTransformation:
    """Return Muon's direction for parameters of two or more axes, Adam's for the others.

    A kernel counts as the matrix that multiplies patches: HWIO as (h * w * in, out). Orthogonal updates are
    scaled by 0.2 sqrt(max(rows, columns)), which gives them the size of Adam's (Liu et al. 2025, section
    2.2), so that one learning rate serves both.
    """

    def as_matrix(x: Any) -> MuonDimensionNumbers:
        return MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)

    def like_adam(update: jax.Array) -> jax.Array:
        return 0.2 * math.sqrt(max(math.prod(update.shape[:-1]), update.shape[-1])) * update

    orthogonal = optax.chain(
        scale_by_muon(
            beta=value["momentum"],
            eps=value["eps"],
            weight_dimension_numbers=lambda tree: jax.tree.map(as_matrix, tree),
        ),
        optax.stateless(lambda updates, _: jax.tree.map(like_adam, updates)),
    )
    labels = jax.tree.map(lambda p: "muon" if len(p.shape) >= 2 else "adam", params_like)
    return optax.partition({"muon": orthogonal, "adam": _adam(value)}, labels)


def matching(field: str, patterns: Sequence[str], params_like: Any) -> Any:
    """Return a tree of bools: whether a parameter's path, such as `stage1/conv1/kernel`, matches a pattern.

    Args:
        field: where the patterns come from, for the error.
        patterns: shell patterns (`*`, `?`, `[...]`), case-sensitive, over whole paths; `*` also crosses
            slashes.
        params_like: tree of the parameters or of their shapes.

    Raises:
        UsageError: for a pattern that matches no parameter, with the nearest path.
    """

    def path(keys: Any) -> str:
        return jax.tree_util.keystr(keys, simple=True, separator="/")

    paths = [path(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(params_like)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in paths):
            raise UsageError(f"{field} pattern {pattern!r} matches no parameter; nearest: {_nearest(pattern, paths)!r}")
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: any(fnmatchcase(path(keys), pattern) for pattern in patterns), params_like
    )


def _nearest(pattern: str, paths: Sequence[str]) -> str | None:
    """Return the path most alike the pattern, or else the first whose last name is like the pattern's."""
    whole = nearest(pattern, paths)
    last = nearest(pattern.rsplit("/", 1)[-1].strip("*"), {path.rsplit("/", 1)[-1] for path in paths})
    return whole or next((path for path in paths if path.rsplit("/", 1)[-1] == last), next(iter(paths), None))


def _standard_promotion(tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Let Optax's own arithmetic mix int32 counters with floats, also where the caller forbids it."""

    def update(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(*args, **kwargs)

    return optax.GradientTransformationExtraArgs(tx.init, update)
