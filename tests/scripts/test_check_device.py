"""scripts/check_device.py: a task on the smallest network, and what is made of what its processes say."""

import argparse
import importlib
import json
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("check_device")


def test_training_goes_on_from_a_checkpoint_to_the_same_bits(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(SCRIPTS)
    script = importlib.import_module("device_tasks")
    settings, rows = {"networks": ["lenet5"], "steps": 6, "batch": 8, "devices": 1, "folder": str(tmp_path)}, []
    say = lambda **row: rows.append(row)  # noqa: E731
    script.train(say, **settings)
    script.train(say, **settings)  # as if the first had been killed behind its checkpoint
    saved, whole, resumed = rows
    assert saved == {"saved": 5}
    assert (whole["began"], resumed["began"]) == (0, 5) and whole["network"] == resumed["network"] == "lenet5"
    assert whole["sha256"] == resumed["sha256"] and whole["last_loss"] == resumed["last_loss"] > 0


class Told:
    """In place of a process: it says rows one at a time, and ends as it is told."""

    def __init__(self, said, why=None):
        self.said, self.why, self.seen, self.killed = said, why, 0, False

    def rows(self):
        self.seen = min(self.seen + 1, len(self.said))
        return self.said[: self.seen]

    def ended(self):
        return self.killed

    def wait(self, deadline):
        self.seen = len(self.said)
        return self.why

    def kill(self):
        self.killed = True


MACHINE = {"environment": {"platform": "gpu", "device_kind": "a GPU", "device_count": 1, "commit": "abc"}}
A, B = ({"network": "lenet5", "began": began, "sha256": "a"} for began in (0, 10))
OTHER = {**A, "sha256": "b"}
SAVED = [{"saved": 5}, {"saved": 10}, {"saved": 15}]
TIMES = {"ours": {"median": 0.002}, "free": {"median": 0.001}}
ROW = {"network": "lenet5", "batch_size": 8, "dtype": "float32", "seconds": TIMES, "over_free": 2.0, "peak_bytes": None}


def report(script, monkeypatch, *said):
    """Return the statuses of a report whose processes say what is given, in their order, and the report."""
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: name)
    options = argparse.Namespace(
        **{"seconds": 100.0, "trained": ["lenet5"], "steps": 20, "batch": 8, "networks": ["lenet5", "vgg16"]},
        **{"step_batch": None, "repeats": 1, "torch_python": None},
    )
    waiting = iter(said)
    *_, found = script.check(options, lambda task, **settings: Told(*next(waiting)))
    json.dumps(found)
    assert all(isinstance(line, str) for line in script.summary(found))
    return {name: one["status"] for name, one in found["checks"].items()}, found


def test_a_good_device(script, monkeypatch):
    said = ([MACHINE],), ([A],), ([A],), (SAVED,), ([B],), ([ROW], "there was no more time")
    statuses, found = report(script, monkeypatch, *said)
    expected = {"same_bits": "passed", "same_after_kill": "passed", "steps": "in part", "cost_of_determinism": "passed"}
    assert statuses == expected and found["environment"] == MACHINE["environment"]
    assert found["checks"]["same_after_kill"]["killed_after"] == 15
    assert found["checks"]["steps"]["left_out"] == ["vgg16"]
    assert found["checks"]["cost_of_determinism"]["over_free"] == {"lenet5": 2.0}


def test_a_device_with_other_bits_each_time(script, monkeypatch):
    said = ([MACHINE],), ([A],), ([OTHER],), (SAVED,), ([{**B, "sha256": "c"}],), ([], "exit code 1: no memory")
    statuses, found = report(script, monkeypatch, *said)
    assert statuses == {
        **{"same_bits": "failed", "same_after_kill": "failed", "steps": "failed", "cost_of_determinism": "left out"}
    }
    assert found["checks"]["same_bits"]["differ"] == ["lenet5"]


def test_what_does_not_fit_into_the_time_is_left_out(script, monkeypatch):
    late, machine = ([], "there was no more time"), {**MACHINE, "environment": {"platform": "cpu"}}
    statuses, found = report(script, monkeypatch, ([machine],), late, late, late)
    assert statuses == {
        **{"same_bits": "left out", "same_after_kill": "left out", "steps": "left out"},
        "cost_of_determinism": "not applicable",
    }
    assert found["checks"]["same_bits"]["left_out"] == ["lenet5"]


@pytest.mark.slow
def test_the_command(script, tmp_path):
    out = tmp_path / "device.json"
    words = ["--trained", "lenet5", "--networks", "lenet5", "--repeats", "1", "--steps", "40", "--batch", "8"]
    assert script.main([*words, "--step-batch", "8", "--out", str(out)]) == 0
    checks = json.loads(out.read_text())["checks"]
    assert [checks[name]["status"] for name in ("same_bits", "same_after_kill", "steps")] == ["passed"] * 3
    assert checks["steps"]["rows"][0]["seconds"]["ours"]["median"] > 0
