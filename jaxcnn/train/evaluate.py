"""Evaluation: every example of a split exactly once, whatever the batch size and the devices."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from jaxcnn.tasks.classification import Classification


def evaluate(
    step: Callable[[Any, Any], tuple[Any, Any]],
    variables: Any,
    batches: Iterator[Mapping[str, np.ndarray]],
    task: Classification,
    num_examples: int,
    poll: Callable[[int], None],
) -> tuple[dict[str, float], Float32[np.ndarray, "n classes"]]:
    """Return the metrics over a split and the logits of its examples, in order.

    Args:
      step: the compiled evaluation step.
      variables: the model's.
      batches: padded batches with a mask.
      task: supplies the metrics.
      num_examples: what the masks must add up to.
      poll: called before each batch with its number; raises to stop.
    """
    totals: dict[str, float] = {}
    logits: list[np.ndarray] = []
    for number, batch in enumerate(batches):
        poll(number)
        sums, outputs = step(variables, batch)
        logits.append(np.asarray(outputs)[batch["mask"]])
        # Added up in float64 on the host, in order: independent of how far the devices run ahead.
        for name, value in sums.items():
            totals[name] = totals.get(name, 0) + np.asarray(value).item()
    seen = int(totals["count"])
    if seen != num_examples:
        raise AssertionError(f"evaluation saw {seen} of {num_examples} examples")
    return task.metrics(totals, logits[0].shape[-1]), np.concatenate(logits)
