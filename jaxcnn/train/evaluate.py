"""Evaluation: every example of a split exactly once, whatever the batch size and the devices."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from jaxcnn.data import Examples
from jaxcnn.errors import RunError
from jaxcnn.tasks import Batch, Task
from jaxcnn.tasks.base import kept_dtype


class Scores(NamedTuple):
    """What a network makes of a split; examples that cannot be used are left out."""

    metrics: dict[str, float]
    collected: dict[str, np.ndarray]
    """What the task collects of each example: [usable, ...]."""
    usable: Bool[np.ndarray, " n"]
    """Which examples of the split these are."""


def evaluate(
    step: Callable[[Batch], tuple[Any, Any]],
    batches: Iterator[Batch],
    task: Task,
    split: Examples,
    poll: Callable[[int], None] = lambda number: None,
) -> Scores:
    """Return the metrics over a split, and what the task collects of its examples, in order.

    Args:
      step: the compiled evaluation step, given the variables.
      batches: padded batches with a mask: those of `split`.
      task: supplies the metrics.
      split: all of its examples must be seen, but for those that cannot be used.
      poll: called before each batch with its number; raises to stop.
    """
    totals: Any = None
    parts: list[Any] = []
    masks: list[np.ndarray] = []
    for number, batch in enumerate(batches):
        poll(number)
        sums, collected = step(batch)
        mask = np.asarray(batch["mask"])
        parts.append(jax.tree.map(lambda array, mask=mask: np.asarray(array)[mask], collected))
        masks.append(mask)
        # Added up on the host, in order: independent of how far the devices run ahead.
        wide = jax.tree.map(kept_dtype, sums)
        totals = wide if totals is None else jax.tree.map(np.add, totals, wide)
    seen, expected = int(totals["seen"]), sum(int(mask.sum()) for mask in masks)
    filled = sum(map(len, masks)) - len(split)
    if seen != expected or not 0 <= filled < len(masks[0]):
        raise AssertionError(f"evaluation saw {seen}, in {len(masks)} batches, of {len(split)} examples")
    if not seen:
        raise RunError(f"none of the {len(split)} examples to score can be used, such as {split.bad[0].name}")
    together = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    return Scores(metrics_of(task, totals, together), together, np.concatenate(masks)[: len(split)])


def metrics_of(task: Task, totals: Any, collected: Any) -> dict[str, float]:
    """Return a task's metrics of a whole split; `loss` is the mean of its losses, where it gives no other."""
    mean = float(totals["loss"]) / (float(totals["count"]) or 1.0)
    return {"loss": mean, **task.metrics(totals["task"]), **task.score(collected)}
