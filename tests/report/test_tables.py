import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.report.tables import class_report, duration, final_table

RESULT = {
    "status": "finished",
    "name": "lenet_digits",
    "step": 4690,
    "seed": 3,
    "metrics": {"test/accuracy": 0.98765, "test/loss": 0.041234, "test/top5_error": 0.001},
    "examples_per_second": 12345.6,
    "wall_seconds": 47.3,
    "params_sha256": "0123456789abcdef" * 4,
}


def test_final_table_gives_what_the_run_reached():
    rows = dict(final_table(RESULT, ["cat", "dog"]))
    assert rows["test accuracy"] == "98.77 %"
    assert rows["test loss"] == "0.04123"
    assert rows["test top-5 error"] == "0.10 %"
    assert rows["classes"] == "2: cat, dog"
    assert rows["steps"] == "4,690"
    assert rows["seed"] == "3"
    assert rows["training speed"] == "12,346 images/s"
    assert rows["wall time"] == "47.3 s"
    assert rows["parameters sha256"] == "0123456789abcdef"


def test_final_table_abridges_many_classes():
    assert dict(final_table(RESULT, list("abcdefghijklm")))["classes"] == "13: a, b, c, ..., m"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (187.4, "3 min 07 s"), (3599.6, "1 h 00 min"),
     (7512, "2 h 05 min")],
)  # fmt: skip
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_class_report_against_a_loop():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 3, 50).astype(np.int32)
    names = ("a", "b", "c", "absent")
    report = class_report(logits, labels, names)
    for k, row in enumerate(report[:3]):
        right = [int(np.argmax(logits[i]) == k) for i in range(50) if labels[i] == k]
        assert row == (names[k], sum(right), len(right), sum(right) / len(right))
    assert report[3] == ("absent", 0, 0, None)


@pytest.mark.parametrize(
    ("logits", "labels", "names", "message"),
    [
        ((3, 2), [0, 1], "ab", r"logits \(3, 2\) and labels \(2,\)"),
        ((2, 2), [0, 1], "abc", "3 class names for logits of 2 classes"),
        ((2, 2), [0, 2], "ab", "labels from 0 to 2: expected 0 to 1"),
        ((2, 2), [-1, 1], "ab", "labels from -1 to 1: expected 0 to 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(logits, labels, names, message):
    with pytest.raises(UsageError, match=message):
        class_report(np.zeros(logits, np.float32), np.array(labels, np.int32), names)
