"""Figures of a run: training curves, confusion matrix, worst mistakes.

matplotlib is used through its objects alone (no pyplot, no global figure), so that a figure can be drawn in
any thread and in a notebook alike, and the same numbers give the same PNG bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxcnn.errors import UsageError
from jaxcnn.report.canvas import blank, house_style, notice, shorten, show_image
from jaxcnn.report.tables import check_predictions, metric_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ImagesOf = Callable[[Int[np.ndarray, " m"]], UInt8[np.ndarray, "m h w c"]]
"""Returns the images of some indices, such as an array's `__getitem__`."""

# Okabe and Ito's palette: told apart with every common kind of colour blindness.
COLOURS = {"train": "#0072B2", "val": "#D55E00", "test": "#009E73"}
ANNOTATED_CLASSES = 20  # up to here a confusion matrix writes its counts into the cells
NAMED_CLASSES = 130  # up to here it names every class on its axes
SMOOTHED_ROWS = 150  # from here on noisy training rows are drawn faint under their running mean


def confusion_counts(predictions: Int[np.ndarray, "n"], labels: Int[np.ndarray, "n"], k: int) -> Int[np.ndarray, "k k"]:
    """Return how often an example of class `row` was predicted to be of class `column`."""
    return np.bincount(labels.astype(np.int64) * k + predictions, minlength=k * k).reshape(k, k)


def losses(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Return the cross-entropy of each example in nats, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


def hardest(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"]) -> Int[np.ndarray, "wrong"]:
    """Return the indices of the wrongly predicted examples, highest loss first; equals keep their order."""
    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    return wrong[np.argsort(-losses(logits, labels)[wrong], kind="stable")]


def curves(
    metrics_rows: Sequence[Mapping[str, Any]], metric: str = "accuracy", loss: str = "Loss: cross-entropy (nats)"
) -> "Figure":
    """Draw loss, a metric and learning rate against the step; a panel with nothing logged is left out.

    Args:
        metrics_rows: rows of `metrics.jsonl` (`read_metrics`): "step" with "train/loss", "val/accuracy", ...
        metric: its name, without the split's.
        loss: what the loss is, in words.
    """
    draw: dict[str, Callable[..., None]] = {
        metric: partial(_draw_metric, metric),
        "loss": partial(_draw_loss, loss),
        "learning_rate": _draw_learning_rate,
    }
    logged = {key.split("/")[-1] for row in metrics_rows for key in row}
    panels = [name for name in dict.fromkeys(["loss", metric, "learning_rate"]) if name in logged]
    with house_style():
        if not panels:
            return notice("Training curves", "No metrics have been logged yet.")
        figure = blank(8, 1 + 2.6 * len(panels))
        figure.suptitle("Training curves")
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        for axes, name in zip(grid[:, 0], panels, strict=True):
            draw[name](axes, metrics_rows)
        figure.align_ylabels()
        axes.set_xlabel("Training step (updates)")
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        axes.locator_params(axis="x", integer=True)
        return figure


def confusion_matrix(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"], class_names: Sequence[str]
) -> "Figure":
    """Draw how often each class was taken for each other: correct answers in blues, mistakes in oranges.

    With few classes each cell shows its count; with many, the most frequent confusions are listed.

    Raises:
        UsageError: the shapes, labels and class names do not fit together.
    """
    check_predictions(logits, labels, class_names)
    k = len(class_names)
    counts = confusion_counts(logits.argmax(axis=1), labels, k)
    annotated = k <= ANNOTATED_CLASSES
    with house_style():
        if annotated:
            side = max(6.0, 0.56 * k + 1.5)
            figure = blank(side, side)
            axes = figure.subplots()
            _draw_counts(axes, counts)
            _annotate(axes, counts)
        else:
            side = min(14, max(7.5, 0.115 * k + 1.5))
            figure = blank(side + 4.2, side)
            places = figure.subplot_mosaic(
                [["matrix", "list"], ["matrix", "correct"], ["matrix", "mistaken"]],
                width_ratios=[side, 4.0],
                height_ratios=[side, 0.2, 0.2],
            )
            axes = places["matrix"]
            for image, name in zip(_draw_counts(axes, counts), ("correct", "mistaken"), strict=True):
                bar = figure.colorbar(image, cax=places[name], orientation="horizontal", label=f"Images {name}")
                bar.ax.locator_params(axis="x", integer=True)
            _list_confusions(places["list"], counts, class_names)
        correct, n = int(np.trace(counts)), len(labels)
        share = f" ({100 * correct / n:.2f} %)" if n else ""
        figure.suptitle(f"Confusion matrix: {correct:,} of {n:,} correct{share}")
        _name_classes(axes, class_names)
        return figure


def worst_mistakes(
    images_of: ImagesOf,
    logits: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, "n"],
    class_names: Sequence[str],
    count: int = 24,
) -> "Figure":
    """Draw the wrongly predicted images of highest loss: true class, predicted class and its probability.

    Three channels are shown as RGB, any other number as the grey mean of the channels.

    Raises:
        UsageError: the images are not uint8 [m, h, w, c], or logits, labels and class names do not fit each other.
    """
    check_predictions(logits, labels, class_names)
    wrong = hardest(logits, labels)
    total = f"{len(labels):,} images"
    with house_style():
        if not wrong.size:
            return notice("Worst mistakes", f"None: all {total} are predicted correctly.")
        shown = wrong[:count]
        images = images_of(shown)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(shown):
            raise UsageError(
                f"images {images.dtype} {images.shape}: expected uint8 [{len(shown)}, height, width, channels]"
            )
        columns = min(6, max(4, len(shown)))
        lines = -(-len(shown) // columns)
        height, width = images.shape[1:3]
        figure = blank(1.8 * columns, 0.7 + lines * (0.75 + 1.6 * min(2.0, height / width)))
        if len(wrong) > len(shown):
            figure.suptitle(f"The {len(shown)} worst of {len(wrong):,} mistakes among {total}")
        else:
            mistakes = "The only mistake" if len(wrong) == 1 else f"All {len(wrong):,} mistakes, worst first,"
            figure.suptitle(f"{mistakes} among {total}")
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for axes, index, image in zip(grid, shown, images, strict=False):
            predicted = int(logits[index].argmax())
            confidence = np.exp(-losses(logits[index : index + 1], np.array([predicted]))[0])
            show_image(axes, image)
            axes.set_title(
                f"true: {shorten(class_names[labels[index]], 16)}\n"
                f"predicted: {shorten(class_names[predicted], 16)}\n"
                f"confidence: {100 * confidence:.1f} %",
                fontsize=8.5,
                fontweight="normal",
                loc="left",
            )
        return figure


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    return [row["step"] for row in rows if key in row], [row[key] for row in rows if key in row]


def _draw_splits(axes: "Axes", rows: Sequence[Mapping[str, Any]], metric: str, scale: float) -> None:
    """Draw one metric of every split that logged it; the legend above gives each split's last value."""
    for split, colour in COLOURS.items():
        key = f"{split}/{metric}"
        steps, values = _series(rows, key)
        if not steps:
            continue
        label = f"{split} (last {metric_value(key, values[-1])})"
        scaled = scale * np.asarray(values)
        if split == "train" and len(steps) >= SMOOTHED_ROWS:
            width = len(steps) // 50
            axes.plot(steps, scaled, color=colour, alpha=0.25, linewidth=0.8)
            steps = steps[(width - 1) // 2 :][: len(steps) - width + 1]
            scaled = np.convolve(scaled, np.full(width, 1 / width), mode="valid")
            label = f"{split} (last {metric_value(key, scaled[-1] / scale)}, mean of {width} rows)"
        style = {"train": "-", "val": "-", "test": "--"}[split]
        marker = "o" if len(steps) <= 40 else None
        axes.plot(steps, scaled, style, color=colour, marker=marker, markersize=3.5, label=label)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3, borderaxespad=0.1, fontsize=9)


def _draw_loss(label: str, axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    _draw_splits(axes, rows, "loss", 1)
    axes.set_ylabel(label)
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    if drawn.min() > 0 and drawn.max() > 10 * drawn.min():
        _log_scale(axes)


def _draw_metric(metric: str, axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    _draw_splits(axes, rows, metric, 100 if metric == "accuracy" else 1)
    axes.set_ylabel("Accuracy (%)" if metric == "accuracy" else metric.replace("_", " ").capitalize())


def _draw_learning_rate(axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    steps, rates = _series(rows, "learning_rate")
    axes.plot(steps, rates, color="#444444")
    axes.set_ylabel("Learning rate (per update)")
    if len(set(rates)) <= 6 and min(rates) > 0 and max(rates) >= 10 * min(rates):  # a staircase: equal steps
        _log_scale(axes)


def _log_scale(axes: "Axes") -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: "")


def _draw_counts(axes: "Axes", counts: Int[np.ndarray, "k k"]) -> list[Any]:
    """Paint the correct cells in blues and the mistakes in oranges, each on its own scale; zero is white."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    correct = np.eye(len(counts), dtype=bool)
    palest = 0.2 if len(counts) <= NAMED_CLASSES else 0.45  # a single image must still show in its tiny cell
    images = []
    for cells, colours in ((correct, "Blues"), (~correct, "Oranges")):
        shown = np.ma.masked_where(~cells | (counts == 0), counts)
        scale = ListedColormap(matplotlib.colormaps[colours](np.linspace(palest, 1, 256)))
        highest = max(1, int((counts * cells).max()))
        images.append(axes.imshow(shown, cmap=scale, vmin=0, vmax=highest, interpolation="nearest"))
    axes.grid(False)
    axes.spines[:].set_visible(True)
    return images


def _name_classes(axes: "Axes", class_names: Sequence[str]) -> None:
    """Write the class names along both axes, or where they are too many, their indices."""
    k = len(class_names)
    unit = "" if k <= NAMED_CLASSES else " (index)"
    axes.set(xlabel=f"Predicted class{unit}", ylabel=f"True class{unit}")
    if k <= NAMED_CLASSES:
        size = 10 if k <= ANNOTATED_CLASSES else max(5.5, 9 - k / 40)
        ticks = [shorten(name, 18) for name in class_names]
        upright = k > ANNOTATED_CLASSES or max(map(len, ticks)) > 4
        axes.set_xticks(range(k), ticks, fontsize=size, rotation=90 if upright else 0)
        axes.set_yticks(range(k), ticks, fontsize=size)
        axes.tick_params(length=2)


def _annotate(axes: "Axes", counts: Int[np.ndarray, "k k"]) -> None:
    """Write each count into its cell, white on dark."""
    diagonal = np.diag(counts)
    most_correct, most_wrong = diagonal.max(), (counts - np.diag(diagonal)).max()
    for (row, column), count in np.ndenumerate(counts):
        if count:
            dark = count > 0.55 * (most_correct if row == column else most_wrong)
            colour = "white" if dark else "#222222"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=10)


def _list_confusions(axes: "Axes", counts: Int[np.ndarray, "k k"], class_names: Sequence[str]) -> None:
    """Write the most frequent confusions as a list."""
    mistakes = (counts - np.diag(np.diag(counts))).ravel()
    most = [int(cell) for cell in np.argsort(-mistakes, kind="stable")[:24] if mistakes[cell]]
    name = [shorten(name, 19) for name in class_names]
    lines = ["images: true → predicted", ""]
    lines += [f"{mistakes[cell]:>6}: {name[cell // len(name)]} → {name[cell % len(name)]}" for cell in most]
    axes.set_axis_off()
    axes.set_title("Most frequent confusions" if most else "No confusions", loc="left")
    axes.text(0, 0.99, "\n".join(lines), va="top", family="DejaVu Sans Mono", fontsize=8.5, linespacing=1.6)
