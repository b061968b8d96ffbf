"""One training step and one evaluation step: pure functions of a state and a batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.layers import mapped_over
from jaxcnn.models.base import Model
from jaxcnn.tasks.classification import Classification, Sums
from jaxcnn.train.frozen import frozen_batch_norm
from jaxcnn.train.optim import matching
from jaxcnn.train.reduction import sum_over
from jaxcnn.train.remat import blocks_of, rematerialised
from jaxcnn.train.state import TrainState, Tree

Batch = Mapping[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Sums]]

# Purposes that keys are folded in for; 0 is the initialisation (state.py).
DROPOUT_KEY = 1
SHUFFLE_KEY = 2
AUGMENT_KEY = 3
CROP_KEY = 4


def step_key(key_data: jax.Array, purpose: int, step: jax.Array | int) -> jax.Array:
    """Return the key of one purpose at one step, from the key data that the state carries."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key_data), purpose), step)


def make_train_step(
    model: Model,
    tx: optax.GradientTransformationExtraArgs,
    task: Classification,
    *,
    accumulation_steps: int = 1,
    ema_decay: float | None = None,
    frozen: Sequence[str] = (),
    remat: bool = False,
    axis_name: str | None = None,
    sync_batch_norm: bool = True,
) -> TrainStep:
    """Return `step(state, batch) -> (state, sums)`, not yet compiled.

    Args:
      model: the network, called with `train=True`.
      tx: the optimiser; it is given the loss as `value`.
      task: supplies the loss and the metric sums.
      accumulation_steps: the batch is run in this many parts and the gradients averaged, which needs the memory of
        one part. BatchNorm sees one part at a time.
      ema_decay: decay per step of the averaged parameters, in (0, 1); None where the state holds none.
      frozen: patterns of parameters that `tx` leaves alone; see `frozen_batch_norm`.
      remat: compute the inner activations of blocks once more in the backward pass, in place of keeping them; see
        `blocks_of`. The same numbers up to rounding, in less memory and more time.
      axis_name: set where the step is the per-device view of a mapped program. Gradients and sums are then reduced
        over that axis, in one collective; dropout is that of the global batch.
      sync_batch_norm: whether BatchNorm is that of the global batch, too; otherwise it normalises each device's own
        part, and its running statistics are averaged.
    """

    def loss_of(params: Tree, batch_stats: Tree, batch: Batch, key: jax.Array):
        blocks = blocks_of(params) if remat else frozenset()
        with frozen_batch_norm(frozen), mapped_over(axis_name, sync_batch_norm=sync_batch_norm), rematerialised(blocks):
            outputs, updated = model.apply(
                {"params": params, "batch_stats": batch_stats},
                batch["image"],
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
        loss, sums = task.loss(outputs, batch)
        # A mean over the rows: of examples that count, one device or part may have more than another. 1 as a rule.
        loss *= sums["count"].astype(loss.dtype) / len(batch["label"])
        return loss, (updated.get("batch_stats", {}), sums)

    def gradients(state: TrainState, batch_stats: Tree, batch: Batch, part: int):
        """Return ((loss, sums, gradients), batch_stats) of one part of the batch."""
        key = jax.random.fold_in(step_key(state.key, DROPOUT_KEY, state.step), part)
        (loss, (batch_stats, sums)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, batch_stats, batch, key
        )
        return (loss, sums, grads), batch_stats

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        parts = _split(batch, accumulation_steps)
        totals, batch_stats = gradients(state, state.batch_stats, parts[0], 0)
        for number, part in enumerate(parts[1:], start=1):
            # The barrier makes each part wait for the one before, so that only one part's activations are alive.
            # A `lax.scan` would do the same in a smaller program, ten times slower: XLA's CPU convolutions use one
            # thread and no fast kernel within a loop.
            part, totals = jax.lax.optimization_barrier((part, totals))
            more, batch_stats = gradients(state, batch_stats, part, number)
            totals = jax.tree.map(jnp.add, totals, more)
        loss, sums, grads = totals
        loss, grads = jax.tree.map(lambda x: x / accumulation_steps, (loss, grads))
        if axis_name is not None:
            means = loss, grads, {} if sync_batch_norm else batch_stats
            means, sums = sum_over(axis_name, (means, sums))
            loss, grads, averaged = jax.tree.map(lambda x: x / jax.lax.axis_size(axis_name), means)
            batch_stats = batch_stats if sync_batch_norm else averaged
        rows = len(batch["label"]) * (1 if axis_name is None else jax.lax.axis_size(axis_name))
        share = rows / jnp.maximum(sums["count"], 1).astype(loss.dtype)
        loss, grads = jax.tree.map(lambda x: x * share.astype(x.dtype), (loss, grads))
        updates, opt_state = tx.update(grads, state.opt_state, state.params, value=loss)
        params = optax.apply_updates(state.params, updates)
        ema = None if ema_decay is None else optax.incremental_update(params, state.ema, 1.0 - ema_decay)
        if ema is not None and frozen:  # An average of equal numbers is another by rounding.
            fixed = matching("train.frozen", frozen, params)
            ema = jax.tree.map(lambda is_fixed, kept, new: kept if is_fixed else new, fixed, params, ema)
        state = state.replace(  # type: ignore[attr-defined]
            step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema
        )
        return state, sums

    return step


def make_eval_step(model: Model, task: Classification) -> Callable[[Tree, Batch], tuple[Sums, jax.Array]]:
    """Return `step(variables, batch) -> (sums, logits)`, not yet compiled."""

    def step(variables: Tree, batch: Batch) -> tuple[Sums, jax.Array]:
        logits: Any = model.apply(variables, batch["image"], train=False)
        return task.sums(logits, batch), logits

    return step


def _split(batch: Batch, parts: int) -> list[Batch]:
    # Every parts-th example, not a contiguous block: where the batch is sharded over devices in blocks, each part
    # then takes its share from every device and nothing moves between them.
    strided = jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), batch)
    return [jax.tree.map(lambda x, i=i: x[:, i], strided) for i in range(parts)]
