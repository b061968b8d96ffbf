"""One training step and one evaluation step: pure functions of a state and a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from jaxcnn.keys import DROPOUT, step_key
from jaxcnn.layers import mapped_over
from jaxcnn.models.frozen import frozen_batch_norm
from jaxcnn.models.remat import blocks_of, rematerialised
from jaxcnn.tasks import Batch, Task
from jaxcnn.train.optim import matching
from jaxcnn.train.state import TrainState, Tree

Sums = dict[str, Any]
"""Of a training step: `loss`, the sum of the task's losses, and `count`, what divides it; `task`, the task's sums; and
where they are asked for, `norms` and the number of `steps` that these are of."""
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Sums]]


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformationExtraArgs,
    task: Task,
    *,
    accumulation_steps: int = 1,
    ema_decay: float | None = None,
    frozen: Sequence[str] = (),
    remat: bool = False,
    norms: bool = False,
    axis_name: str | None = None,
    sync_batch_norm: bool = True,
) -> TrainStep:
    """Return `step(state, batch) -> (state, sums)`, not yet compiled.

    Args:
      model: the network.
      tx: the optimiser; it is given the mean loss as `value`.
      task: calls the network, and supplies losses and sums.
      accumulation_steps: the batch is run in this many parts and the gradients are added up, which needs the memory of
        one part. BatchNorm sees one part at a time.
      ema_decay: decay per step of the averaged parameters, in (0, 1); None where the state holds none.
      frozen: patterns of parameters that `tx` leaves alone; see `frozen_batch_norm`.
      remat: compute the inner activations of blocks once more in the backward pass, in place of keeping them; see
        `blocks_of`. The same numbers up to rounding, in less memory and more time.
      norms: the sums hold `norms`, too: those of `gradient` (before clipping), `update` and `parameters`.
      axis_name: set where the step is the per-device view of a mapped program. Gradients and sums are then added up
        over that axis; dropout is that of the global batch.
      sync_batch_norm: then BatchNorm is that of the global batch, too; else each device normalises its own part, and
        running statistics are averaged.
    """
    tx = optax.with_extra_args_support(tx)
    averages_statistics = axis_name is not None and not sync_batch_norm

    def loss_of(params: Tree, batch_stats: Tree, batch: Batch, key: jax.Array):
        blocks = blocks_of(params) if remat else frozenset()
        with (
            frozen_batch_norm(frozen),
            mapped_over(axis_name, sync_batch_norm=sync_batch_norm),
            rematerialised(blocks),
        ):
            variables = {"params": params, "batch_stats": batch_stats}
            outputs, updates = task.forward(model, variables, batch, key, True)
        loss = task.losses(outputs, batch).sum()
        sums = {"loss": loss, "count": task.count(batch), "task": task.sums(outputs, batch)}
        return loss, (updates.get("batch_stats", batch_stats), sums)

    def part_of_step(state: TrainState, batch_stats: Tree, batch: Batch, part: int):
        """Return ((gradients, sums), batch_stats) of one part of the batch."""
        key = jax.random.fold_in(step_key(state.key, DROPOUT, state.step), part)
        (_, (batch_stats, sums)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, batch_stats, batch, key
        )
        return (grads, sums), batch_stats

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        parts = _split(batch, accumulation_steps)
        totals, batch_stats = part_of_step(state, state.batch_stats, parts[0], 0)
        for number, part in enumerate(parts[1:], start=1):
            # The barrier makes each part wait for the one before, so that only one part's activations are alive.
            # A `lax.scan` would do the same in a smaller program, ten times slower: XLA's CPU convolutions use one
            # thread and no fast kernel within a loop.
            part, totals = lax.optimization_barrier((part, totals))
            more, batch_stats = part_of_step(state, batch_stats, part, number)
            totals = jax.tree.map(jnp.add, totals, more)
        if axis_name is not None:
            apart = batch_stats if averages_statistics else {}
            totals, apart = lax.psum((totals, apart), axis_name)
            if averages_statistics:
                batch_stats = jax.tree.map(lambda x: x / lax.axis_size(axis_name), apart)
        grads, sums = totals
        # Divided once: a part or a device may have more that counts than another.
        count = sums["count"]
        count = jnp.where(count == 0, jnp.ones_like(count), count)
        loss, grads = jax.tree.map(lambda x: x / count.astype(x.dtype), (sums["loss"], grads))
        updates, opt_state = tx.update(grads, state.opt_state, state.params, value=loss)
        params = optax.apply_updates(state.params, updates)
        ema = None if ema_decay is None else optax.incremental_update(params, state.ema, 1.0 - ema_decay)
        if ema is not None and frozen:  # An average of equal numbers is another by rounding.
            fixed = matching("train.frozen", frozen, params)
            ema = jax.tree.map(lambda is_fixed, kept, new: kept if is_fixed else new, fixed, params, ema)
        if norms:
            found = {"gradient": grads, "update": updates, "parameters": params}
            norms_of = {name: optax.tree.norm(tree) for name, tree in found.items()}
            sums = {**sums, "norms": norms_of, "steps": jnp.ones((), jnp.int32)}
        state = state.replace(  # type: ignore[attr-defined]
            step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema
        )
        return state, sums

    return step


def make_eval_step(model: nn.Module, task: Task) -> Callable[[Tree, Batch], tuple[Sums, Tree]]:
    """Return `step(variables, batch) -> (sums, collected)`, not yet compiled: of the sums also `seen`, the examples."""

    def step(variables: Tree, batch: Batch) -> tuple[Sums, Tree]:
        outputs, _ = task.forward(model, variables, batch, None, False)
        sums = {
            "loss": task.losses(outputs, batch).sum(),
            "count": task.count(batch),
            "task": task.sums(outputs, batch),
            "seen": batch["mask"].sum(dtype=jnp.int32),
        }
        return sums, task.collect(outputs, batch)

    return step


def _split(batch: Batch, parts: int) -> list[Batch]:
    # Every parts-th example, not a contiguous block: where the batch is sharded over devices in blocks, each part
    # then takes its share from every device and nothing moves between them.
    strided = jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), batch)
    return [jax.tree.map(lambda x, i=i: x[:, i], strided) for i in range(parts)]
