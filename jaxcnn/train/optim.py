"""An optimiser and its schedule as one Optax transformation."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import optax

from jaxcnn.errors import UsageError, nearest
from jaxcnn.train.optimizers import Optimizer
from jaxcnn.train.schedules import Constant, Plateau, Schedule, make_schedule


def make_optimizer(
    optim: Optimizer, schedule: Schedule, total_steps: int, params_like: Any, frozen: Sequence[str] = ()
) -> optax.GradientTransformationExtraArgs:
    """Return the optimiser: gradient clipping, weight decay, the rule itself, the schedule.

    Its `update(grads, opt_state, params, value=loss)` returns what to add to the parameters. The state is a
    plain tree of arrays. `current_learning_rate` tells the rate in force.

    Args:
        optim: the optimiser, as `find_optimizer` returns it.
        schedule: the schedule of its learning rate, as `find_schedule` returns it.
        total_steps: optimiser steps in the whole training.
        params_like: tree of the parameters or of their shapes; only names and shapes are read.
        frozen: patterns of parameters that are not updated, not even by weight decay; see `matching`.

    Raises:
        UsageError: for settings that do not go together, or a pattern that matches no parameter.
    """
    if optim.learning_rate is None:
        if schedule != Constant():
            raise UsageError(f"schedule is {type(schedule).__name__}, but the optimiser takes no learning_rate to move")
        rate: Any = None
    else:
        rate = make_schedule(schedule, optim.learning_rate, total_steps)
    mask: Any = False  # Optax reads it as nowhere
    if optim.weight_decay or optim.trusts or optim.decay != Optimizer.decay:
        mask = matching("optim.decay", optim.decay, params_like)
    parts: list[optax.GradientTransformation] = []
    if optim.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(optim.clip_norm))
    if optim.weight_decay and not optim.places_decay:
        parts.append(optim.decayed(mask))
    parts.append(optim.rule(rate, mask, params_like))
    if isinstance(schedule, Plateau):
        parts.append(schedule.cuts(optim.learning_rate))
    tx: optax.GradientTransformation = optax.chain(*parts)
    if frozen:
        fixed = matching("train.frozen", frozen, params_like)
        if all(jax.tree.leaves(fixed)):
            raise UsageError(f"train.frozen is {tuple(frozen)}: no parameter is left to train")
        labels = jax.tree.map(lambda is_fixed: "frozen" if is_fixed else "trained", fixed)
        tx = optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)
    return standard_promotion(tx)


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


def standard_promotion(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Return the optimiser as one that takes the loss, and whose own arithmetic may mix int32 counters with floats."""
    with_loss = optax.with_extra_args_support(tx)

    def update(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return with_loss.update(*args, **kwargs)

    return optax.GradientTransformationExtraArgs(tx.init, update)
