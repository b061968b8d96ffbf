"""Evaluation: every example of a split exactly once, whatever the batch size and the devices."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

from jaxcnn.data import Examples
from jaxcnn.errors import RunError
from jaxcnn.tasks.classification import Classification


class Scores(NamedTuple):
    """What a network makes of a split; examples that cannot be used are left out."""

    metrics: dict[str, float]
    logits: Float32[np.ndarray, "usable classes"]
    labels: Int32[np.ndarray, " usable"]
    usable: Bool[np.ndarray, " n"]
    """Which examples of the split these are."""


def evaluate(
    step: Callable[[Any, Any], tuple[Any, Any]],
    variables: Any,
    batches: Iterator[Mapping[str, np.ndarray]],
    task: Classification,
    split: Examples,
    poll: Callable[[int], None],
) -> Scores:
    """Return the metrics over a split, and the logits and labels of its examples, in order.

    Args:
      step: the compiled evaluation step.
      variables: the model's.
      batches: padded batches with a mask: those of `split`.
      task: supplies the metrics.
      split: all of its examples must be seen, but for those that cannot be used.
      poll: called before each batch with its number; raises to stop.
    """
    totals: dict[str, float] = {}
    logits, labels, masks = [], [], []
    for number, batch in enumerate(batches):
        poll(number)
        sums, outputs = step(variables, batch)
        mask = batch["mask"]
        logits.append(np.asarray(outputs)[mask])
        labels.append(batch["label"][mask])
        masks.append(mask)
        # Added up in float64 on the host, in order: independent of how far the devices run ahead.
        for name, value in sums.items():
            totals[name] = totals.get(name, 0) + np.asarray(value).item()
    seen, expected = int(totals["count"]), sum(int(mask.sum()) for mask in masks)
    filled = sum(map(len, masks)) - len(split)
    if seen != expected or not 0 <= filled < len(masks[0]):
        raise AssertionError(f"evaluation saw {seen}, in {len(masks)} batches, of {len(split)} examples")
    if not seen:
        raise RunError(f"none of the {len(split)} examples to score can be used, such as {split.bad[0].name}")
    metrics = task.metrics(totals, logits[0].shape[-1])
    return Scores(metrics, np.concatenate(logits), np.concatenate(labels), np.concatenate(masks)[: len(split)])
