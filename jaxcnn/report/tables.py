"""Plain rows for tables: what a run reached, over all and class by class."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxcnn.errors import UsageError


class ClassAccuracy(NamedTuple):
    """One row of `class_report`; `accuracy` is None where the split has no example of the class."""

    name: str
    correct: int
    examples: int
    accuracy: float | None


def is_fraction(metric: str) -> bool:
    """Return whether a metric lies in [0, 1] and is written in percent, as papers do."""
    return metric.endswith(("accuracy", "error"))


def metric_name(metric: str) -> str:
    """Return a metric's key in words: `test/top5_error` is "test top-5 error"."""
    return metric.replace("/", " ").replace("_", " ").replace("top5", "top-5")


def metric_value(metric: str, value: float) -> str:
    """Return a metric's value as text: fractions in percent, anything else to 4 significant digits."""
    return f"{100 * value:.2f} %" if is_fraction(metric) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return a length of time as text: "12.3 s", "4 min 07 s" or "2 h 05 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def final_table(result: Mapping[str, Any], class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the rows (name, value) of the table that ends a run.

    Args:
        result: what the run folder's `result.json` holds.
        class_names: the names of the classes; () where there are none.
    """
    shown = list(class_names) if len(class_names) <= 10 else [*class_names[:3], "...", class_names[-1]]
    rows = [(metric_name(name), metric_value(name, value)) for name, value in result["metrics"].items()]
    return [
        *rows,
        *([("classes", f"{len(class_names)}: {', '.join(shown)}")] if class_names else []),
        ("steps", f"{result['step']:,}"),
        ("seed", str(result["seed"])),
        ("training speed", f"{result['examples_per_second']:,.0f} images/s"),
        ("waiting for input", f"{100 * result.get('input_wait', 0.0):.2f} % of the training time"),
        ("wall time", duration(result["wall_seconds"])),
        ("parameters sha256", result["params_sha256"][:16]),
    ]


def check_predictions(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"], class_names: Sequence[str]
) -> None:
    """Raise `UsageError` unless there is one label in [0, k) for each row of logits and k class names."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise UsageError(f"logits {logits.shape} and labels {labels.shape}: expected [n, k] and [n]")
    k = logits.shape[1]
    if len(class_names) != k:
        raise UsageError(f"{len(class_names)} class names for logits of {k} classes")
    if labels.size and (labels.min() < 0 or labels.max() >= k):
        raise UsageError(f"labels from {labels.min()} to {labels.max()}: expected 0 to {k - 1}")


def class_report(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"], class_names: Sequence[str]
) -> list[ClassAccuracy]:
    """Return the accuracy within each class, in the order of the classes.

    Raises:
        UsageError: the shapes, labels and class names do not fit together.
    """
    check_predictions(logits, labels, class_names)
    k = len(class_names)
    examples = np.bincount(labels, minlength=k).tolist()
    correct = np.bincount(labels[logits.argmax(axis=1) == labels], minlength=k).tolist()
    return [
        ClassAccuracy(name, right, count, right / count if count else None)
        for name, right, count in zip(class_names, correct, examples, strict=True)
    ]
