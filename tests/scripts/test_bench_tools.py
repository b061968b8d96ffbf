"""What the benchmarks share: arithmetic, turns, results that survive an interrupt, the peer's error lines."""

import ctypes
import importlib
import json
import os
import sys
from pathlib import Path

import pytest

from jaxcnn import backend
from jaxcnn.errors import RunError, UsageError
from jaxcnn.models import MODELS, create
from jaxcnn.models.summary import totals

SCRIPTS = Path(__file__).parents[2] / "scripts"
HEAD = {"environment": {"jax": "1", "dirty": False}, "settings": {"batch_size": 8, "peers": ("eager",)}}


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("bench_tools")


@pytest.fixture
def peer(tools):
    return importlib.import_module("bench_peer")


def test_statistics(tools):
    assert tools.statistics_of([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "spread": 1.0}
    seconds = {"ours": {"median": 3.0}, "torch": {"median": 2.0}}
    assert tools.ratio(seconds) == 1.5
    assert tools.ratio(seconds, peer="compile") is None


def test_calls_of_one_measurement(tools):
    # Five milliseconds of fast calls, three of slower ones, one of slow ones.
    assert [tools.calls_for(seconds, 0.005) for seconds in (0.0001, 0.004, 0.01, 0.03, 1.0)] == [50, 3, 3, 2, 1]
    assert [tools.calls_for(seconds, 0.25) for seconds in (0.01, 0.1, 1.0)] == [25, 3, 1]
    assert tools.calls_for(0.0, 0.005) > 1


def test_timers_take_turns(tools):
    made = []

    def timer(name, seconds):
        return lambda calls: made.append((name, calls)) or seconds + 1e-6 * len(made)

    found = tools.in_turns({"fast": timer("fast", 0.01), "slow": timer("slow", 1.0)}, repeats=2, least_seconds=0.005)
    first = [("fast", 1), ("fast", 1), ("slow", 1), ("slow", 1)]
    assert made == first + 2 * [("fast", 1), ("fast", 3), ("slow", 1)]
    assert found["slow"]["median"] == pytest.approx(1.0, rel=1e-4) and found["fast"]["spread"] > 0


def test_timer_waits_for_each_result(tools):
    waited = []

    class Result:
        def block_until_ready(self):
            waited.append(self)
            return self

    made = []
    seconds = tools.timer(lambda: made.append(Result()) or made[-1])(3)
    assert len(made) == 3 and set(made) == set(waited) and seconds >= 0


def test_results_go_on(tools, tmp_path):
    path = tmp_path / "folder/out.json"
    results = tools.Results(path, HEAD, ("shape", "direction"))
    kept = results.add({"shape": (1, 2), "direction": "forward", "seconds": 0.5})
    assert kept["shape"] == [1, 2]  # as it will be read
    results.write()
    assert json.loads(path.read_text()) == json.loads(json.dumps({**HEAD, "rows": [kept]}))

    dirty = {**HEAD, "environment": {"jax": "1", "dirty": True}}
    again = tools.Results(path, dirty, ("shape", "direction"))
    assert again.get({"shape": (1, 2), "direction": "forward"}) == kept
    assert again.get({"shape": (1, 2), "direction": "by_input"}) is None
    again.add(kept | {"direction": "by_input"})
    again.write()
    assert [row["direction"] for row in json.loads(path.read_text())["rows"]] == ["forward", "by_input"]


def test_results_of_something_else_are_refused(tools, tmp_path):
    path = tmp_path / "out.json"
    tools.Results(path, HEAD, ("shape",))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"another settings.batch_size \(8, now 16\)"):
        tools.Results(path, {**HEAD, "settings": {"batch_size": 16}}, ("shape",))
    with pytest.raises(UsageError, match=r"another environment.jax \('1', now '2'\)"):
        tools.Results(path, {**HEAD, "environment": {"jax": "2"}}, ("shape",))
    assert path.read_bytes() == before
    for text in ("", "[]", '{"rows": [{}]}', '{"rows": 3}'):
        path.write_text(text)
        with pytest.raises(UsageError, match="holds no results of this benchmark"):
            tools.Results(path, HEAD, ("shape",))
        assert path.read_text() == text
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"Not a directory|File exists"):
        tools.Results(tmp_path / "file/out.json", HEAD, ("shape",))


def test_nothing_is_kept_without_a_path(tools, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = tools.Results(None, HEAD, ("shape",))
    results.add({"shape": 1})
    results.write()
    assert not list(tmp_path.iterdir())


def test_table(tools):
    lines = tools.table(["name", "ms"], [["a", "1.5"], ["longer", "20.0"]]).splitlines()
    assert lines == ["name      ms", "a        1.5", "longer  20.0"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no such model"), 2, "error: no such model\n"),
        (RunError("it ended"), 1, "error: it ended\n"),
        (KeyboardInterrupt(), 130, "interrupted: the same command goes on where --out was given\n"),
    ],
)
def test_mistakes_are_one_line(tools, capsys, error, code, line):
    def fail():
        raise error

    assert tools.run_script(fail) == code
    assert capsys.readouterr().err == line
    assert tools.run_script(lambda: None) == 0


def interpreter(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_interpreters_that_will_not_do(peer, tmp_path):
    def error(python, platform="cpu"):
        with pytest.raises(UsageError) as caught:
            peer.Peer(python, platform)
        assert str(caught.value).startswith(f"--torch-python {python}: ") and "\n" not in str(caught.value)
        return str(caught.value)

    assert "No such file or directory: expected a Python interpreter that has torch" in error(tmp_path / "none")
    assert "Permission denied" in error(tmp_path)
    assert "the peer ended (no such thing)" in error(interpreter(tmp_path / "a", "echo no such thing >&2; exit 3"))
    assert "the peer said 'hello" in error(interpreter(tmp_path / "b", "echo hello; cat > /dev/null"))
    bare = interpreter(tmp_path / "c", f'exec "{sys.executable}" -S -E "$@"')  # without site-packages
    assert "it has no torch (No module named 'torch')" in error(bare)
    assert "this is tpu: leave it out" in error(bare, "tpu")


def test_both_sides_set_the_allocator_alike(tools, monkeypatch):
    set_to = []

    class Library:
        def __init__(self, name):
            self.mallopt = lambda *pair: set_to.append(pair) or 1

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(sys, "platform", "linux")
    assert backend.keep_freed_memory()
    ours = list(set_to)
    set_to.clear()
    assert importlib.import_module("torch_peer").keep_freed_memory()
    assert set_to == ours and ours


@pytest.fixture
def torch_python():
    python = os.environ.get("JAXCNN_TORCH_PYTHON")
    if not python:
        pytest.skip("needs JAXCNN_TORCH_PYTHON, an interpreter that has torch")
    return Path(python)


def test_torch_answers(peer, torch_python):
    torch = peer.Peer(torch_python, "cpu")
    try:
        assert torch.about["torch"] and torch.about["device"] == "cpu"
        conv = {"batch": 2, "image": (9, 9, 4), "kernel": (3, 3, 2, 6), "strides": (2, 2), "dilation": (1, 1)}
        conv |= {"padding": ((1, 1), (1, 1)), "groups": 2, "transposed": False, "output_padding": (0, 0)}
        for number, direction in enumerate(("forward", "by_input", "by_kernel")):
            answer = torch.ask("conv", direction=direction, dtype="float32", **conv)
            assert answer == {"id": number, "shape": [2, 5, 5, 6]}
            assert 0 < torch.timer(number)(2) < 10
            torch.ask("drop", id=number)
        with pytest.raises(peer.PeerError, match="torch pads both ends alike"):
            torch.ask("conv", direction="forward", dtype="float32", **conv | {"padding": ((0, 1), (1, 1))})
        step = {"model": "lenet5", "mode": "train", "batch": 2, "image": (28, 28, 1), "num_classes": 10}
        for dtype in ("float32", "bfloat16"):
            assert torch.ask("step", dtype=dtype, compiled=False, **step)["parameters"] == 61_706
        with pytest.raises(peer.PeerError, match="KeyError"):
            torch.ask("step", dtype="float32", compiled=False, **step | {"model": "none"})
        for name in importlib.import_module("bench_step").CPU_BATCH:  # those with a network in torch
            shape, num_classes = MODELS[name].input_shape, MODELS[name].num_classes
            given = {"model": name, "mode": "inference", "batch": 1, "image": shape, "num_classes": num_classes}
            answer = torch.ask("step", dtype="float32", compiled=False, **given)
            assert answer["parameters"] == totals(create(name), shape)[0]
            torch.ask("drop", id=answer["id"])
    finally:
        torch.close()
    with pytest.raises((RunError, ValueError)):
        torch.ask("hello")
