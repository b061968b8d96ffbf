import io
import math
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.data import Image, Label
from jaxcnn.errors import UsageError
from jaxcnn.report.canvas import png, write_figures
from jaxcnn.report.figures import (
    confusion_counts,
    confusion_matrix,
    curves,
    hardest,
    losses,
    worst_mistakes,
)
from jaxcnn.tasks import Classification, Finished

ROWS = [
    *({"step": 10 * i, "train/loss": 2 / i, "train/accuracy": 1 - 1 / i, "learning_rate": 0.1} for i in range(1, 9)),
    {"step": 80, "val/loss": 0.5, "val/accuracy": 0.75},
    {"step": 80, "test/loss": 0.5, "test/accuracy": 0.8125, "test/top5_error": 0.0},
]
EXAMPLE = st.tuples(st.lists(st.floats(-300, 300, width=32), min_size=3, max_size=3), st.integers(0, 2))


def example(k, n=60, channels=3, accuracy=0.7, seed=0):
    """Return images, logits, labels and class names of a made-up split."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n).astype(np.int32)
    aim = np.where(rng.random(n) < accuracy, labels, (labels + 1) % k)
    logits = rng.normal(size=(n, k)).astype(np.float32)
    logits[np.arange(n), aim] += 8
    images = rng.integers(0, 256, (n, 8, 8, channels)).astype(np.uint8)
    return images, logits, labels, [f"class {i}" for i in range(k)]


def pixels(figure):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png(figure))).convert("RGB"))


def words(figure):
    """Return every text of a figure as one string, drawn once so that tick labels exist."""
    from matplotlib.text import Text

    figure.canvas.draw()
    return "\n".join(text.get_text() for text in figure.findobj(Text))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.data())
def test_confusion_counts_against_a_loop(k, data):
    pairs = data.draw(st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), max_size=20))
    expected = np.zeros((k, k), int)
    for predicted, true in pairs:
        expected[true, predicted] += 1
    predictions, labels = (np.array([pair[i] for pair in pairs], np.int32) for i in (0, 1))
    np.testing.assert_array_equal(confusion_counts(predictions, labels, k), expected)


@settings(deadline=None, max_examples=30)
@given(st.lists(EXAMPLE, min_size=1, max_size=12))
def test_losses_and_hardest_against_plain_python(cases):
    logits = np.array([row for row, _ in cases], np.float32)
    labels = np.array([label for _, label in cases], np.int32)
    expected = []
    for row, label in cases:
        top = max(row)
        expected.append(math.log(math.fsum(math.exp(x - top) for x in row)) + top - row[label])
    np.testing.assert_allclose(losses(logits, labels), expected, rtol=1e-9, atol=1e-9)
    order = hardest(logits, labels)
    assert sorted(order) == [i for i, (row, label) in enumerate(cases) if row.index(max(row)) != label]
    assert all(expected[a] >= expected[b] - 1e-9 for a, b in pairwise(order))


def test_equally_hard_examples_keep_their_order():
    logits = np.array([[1, 0], [3, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    assert hardest(logits, np.array([1, 1, 1, 1, 1], np.int32)).tolist() == [1, 0, 2, 4]


def test_curves_show_every_split():
    figure = curves(ROWS)
    loss, accuracy, rate = figure.axes
    assert loss.get_ylabel() == "Loss: cross-entropy (nats)"
    assert accuracy.get_ylabel() == "Accuracy (%)"
    assert "Learning rate" in rate.get_ylabel()
    assert rate.get_xlabel() == "Training step (updates)"
    legend = [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert legend == ["train (last 87.50 %)", "val (last 75.00 %)", "test (last 81.25 %)"]
    train, val, _ = accuracy.lines
    np.testing.assert_array_equal(train.get_xdata(), range(10, 90, 10))
    np.testing.assert_allclose(train.get_ydata(), [100 * (1 - 1 / i) for i in range(1, 9)])
    assert (list(val.get_xdata()), list(val.get_ydata())) == ([80], [75])
    assert len({line.get_color() for line in accuracy.lines}) == 3
    assert pixels(figure).std() > 10


def test_curves_leave_out_what_was_not_logged():
    figure = curves([{"step": 1, "train/loss": 0.5}, {"step": 2, "train/loss": 0.0}])
    assert [axes.get_ylabel() for axes in figure.axes] == ["Loss: cross-entropy (nats)"]
    assert figure.axes[0].get_yscale() == "linear"
    assert "No metrics have been logged yet" in words(curves([]))


def test_curves_of_many_rows_show_the_running_mean_over_the_rows():
    values = np.random.default_rng(0).random(400)
    axes = curves([{"step": i, "train/loss": value} for i, value in enumerate(values)]).axes[0]
    raw, mean = axes.lines
    np.testing.assert_array_equal(raw.get_ydata(), values)
    assert list(mean.get_xdata()) == list(range(3, 396))
    np.testing.assert_allclose(mean.get_ydata(), [values[i : i + 8].mean() for i in range(393)])
    assert "mean of 8 rows" in words(axes.figure)


def test_a_staircase_of_learning_rates_is_drawn_on_a_log_scale():
    rates = [0.1] * 3 + [0.01] * 3 + [0.001] * 3
    figure = curves([{"step": i, "learning_rate": rate} for i, rate in enumerate(rates)])
    assert figure.axes[0].get_yscale() == "log"
    assert {"0.1", "0.01", "0.001"} <= set(words(figure).split("\n"))


def test_confusion_matrix_writes_the_counts_of_few_classes():
    _, logits, labels, names = example(10, n=200)
    figure = confusion_matrix(logits, labels, names)
    (axes,) = figure.axes
    counts = confusion_counts(logits.argmax(axis=1), labels, 10)
    written = {(round(t.get_position()[1]), round(t.get_position()[0])): int(t.get_text()) for t in axes.texts}
    assert written == {cell: count for cell, count in np.ndenumerate(counts) if count}
    assert [t.get_text() for t in axes.get_yticklabels()] == names
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted class", "True class")
    assert f"{np.trace(counts)} of 200 correct" in figure.get_suptitle()
    assert pixels(figure).std() > 10


@pytest.mark.parametrize(("k", "named"), [(21, True), (100, True), (150, False)])
def test_confusion_matrix_of_many_classes_lists_the_most_frequent_confusions(k, named):
    _, logits, labels, names = example(k, n=3 * k)
    logits[:40], labels[:40] = 0, 5
    logits[:40, 7] = 9
    figure = confusion_matrix(logits, labels, names)
    assert len(figure.axes) == 4  # matrix, list, and a colour bar each for the correct and the mistaken
    text = words(figure)
    assert " 40: class 5 → class 7" in text or " 41: class 5 → class 7" in text
    assert len([t for t in figure.axes[0].get_yticklabels() if t.get_text().startswith("class")]) == k * named
    assert ("True class (index)" in text) == (not named)


def test_tick_labels_of_a_hundred_classes_do_not_overlap():
    _, logits, labels, names = example(100, n=300)
    figure = confusion_matrix(logits, labels, names)
    figure.canvas.draw()
    for labels_of_axis, edges in (("x", ("x0", "x1")), ("y", ("y0", "y1"))):
        boxes = [t.get_window_extent() for t in getattr(figure.axes[0], f"get_{labels_of_axis}ticklabels")()]
        spans = sorted((getattr(box, edges[0]), getattr(box, edges[1])) for box in boxes)
        assert all(a[1] <= b[0] + 1 for a, b in pairwise(spans))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_worst_mistakes_come_worst_first(channels):
    images, logits, labels, names = example(5, n=200, channels=channels)
    figure = worst_mistakes(images.__getitem__, logits, labels, names)
    wrong = hardest(logits, labels)
    assert len(wrong) > 24 and len(figure.axes) == 24
    assert figure.get_suptitle() == f"The 24 worst of {len(wrong)} mistakes among 200 images"
    for axes, i in zip(figure.axes, wrong, strict=False):
        predicted = logits[i].argmax()
        shares = np.exp(logits[i].astype(float))
        confidence = 100 * shares[predicted] / shares.sum()
        title = f"true: class {labels[i]}\npredicted: class {predicted}\nconfidence: {confidence:.1f} %"
        assert axes.get_title(loc="left") == title
        shown = images[i] if channels == 3 else images[i].mean(axis=-1)
        np.testing.assert_array_equal(axes.images[0].get_array(), shown)
    assert pixels(figure).std() > 30


def test_a_sheet_of_few_mistakes_says_so():
    images, logits, labels, names = example(3, n=50, accuracy=2)
    none = worst_mistakes(images.__getitem__, logits, labels, names)
    assert "None: all 50 images are predicted correctly." in words(none)
    labels[4] = (labels[4] + 1) % 3
    assert (
        worst_mistakes(images.__getitem__, logits, labels, names).get_suptitle() == "The only mistake among 50 images"
    )
    labels[7] = (labels[7] + 1) % 3
    two = worst_mistakes(images.__getitem__, logits, labels, names)
    assert two.get_suptitle() == "All 2 mistakes, worst first, among 50 images"
    assert sum(bool(axes.images) for axes in two.axes) == 2


def test_images_that_do_not_fit_are_refused():
    images, logits, labels, names = example(3)
    with pytest.raises(UsageError, match=r"images float32 .* expected uint8 \[\d+, height, width, channels\]"):
        worst_mistakes(images.astype(np.float32).__getitem__, logits, labels, names)
    with pytest.raises(UsageError, match="expected uint8"):
        worst_mistakes(lambda chosen: images[chosen[:-1]], logits, labels, names)


def test_class_names_are_shown_as_they_are():
    images, logits, labels, _ = example(3)
    names = ["$1 to $2", r"$\oops^{$", "an extremely long name of a class"]
    assert "$1 to $2" in words(worst_mistakes(images.__getitem__, logits, labels, names))
    text = words(confusion_matrix(logits, labels, names))
    assert names[1] in text and "an extremely long…" in text


def test_figures_are_the_same_bytes_at_any_time_and_under_any_style(tmp_path):
    import matplotlib

    images, logits, labels, names = example(4, channels=1)
    collected = {"logits": logits, "labels": labels}
    finished = Finished(ROWS, collected, images.__getitem__, {"image": Image(1), "label": Label(tuple(names))})
    said = []
    write_figures(Classification().figures(finished), tmp_path / "a", said.append)
    paths = sorted((tmp_path / "a").iterdir())  # nothing partial stays behind
    assert [path.name for path in paths] == ["confusion_matrix.png", "curves.png", "worst_mistakes.png"]
    time.sleep(1.1)  # a date in the file would differ
    with matplotlib.rc_context({"font.size": 20, "savefig.dpi": 40, "axes.facecolor": "red"}):
        write_figures(Classification().figures(finished), tmp_path / "b", said.append)
    for path in paths:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert not said


def test_a_figure_that_cannot_be_drawn_costs_no_other(tmp_path):
    said = []
    figures = {"broken": lambda: 1 / 0, "curves": lambda: curves(ROWS)}
    write_figures(figures, tmp_path, said.append)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    assert said == ["no figure broken: division by zero"]


def test_whatever_a_figure_raises_costs_no_other(tmp_path):
    def leave():
        sys.exit("enough")

    said = []
    write_figures({"rude": leave, "curves": lambda: curves(ROWS)}, tmp_path, said.append)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"] and said == ["no figure rude: enough"]


@pytest.mark.parametrize("k", [3, 30])
def test_names_that_fonts_lack_or_that_are_no_text_are_drawn_without_a_warning(k, tmp_path, capfd):
    names = ["\u732b", "b\udcffd", *map(str, range(2, k))]
    logits, labels = np.eye(k, dtype=np.float32)[[0, 1, 0]], np.array([0, 0, 1])
    images = np.zeros((3, 4, 4, 1), np.uint8)
    said = []
    figures = {
        "confusion_matrix": lambda: confusion_matrix(logits, labels, names),
        "worst_mistakes": lambda: worst_mistakes(images.__getitem__, logits, labels, names),
    }
    write_figures(figures, tmp_path, said.append)
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(figures) and not said
    assert capfd.readouterr() == ("", "")


def test_the_metric_of_a_task_is_drawn_by_its_name():
    rows = [{"step": 1, "train/loss": 2.0, "train/mean_iou": 0.25, "test/mean_iou": 0.5}]
    figure = curves(rows, "mean_iou", "Loss")
    assert [axes.get_ylabel() for axes in figure.axes] == ["Loss", "Mean iou"]
    assert [axes.get_ylabel() for axes in curves(rows, "loss", "Loss").axes] == ["Loss"]


def test_figures_leave_pyplot_alone_and_importing_them_leaves_matplotlib_alone():
    code = """
import sys
import numpy as np
from jaxcnn.report.figures import confusion_counts, curves
confusion_counts(np.zeros(2, int), np.zeros(2, int), 2)
assert "matplotlib" not in sys.modules
curves([{"step": 1, "train/loss": 0.5}])
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(UsageError, match=r"pip install 'jaxcnn\[report\]'"):
        curves(ROWS)
