"""scripts/bench_step.py on the smallest network: steps that are steps, and numbers that are what they are called."""

import importlib
import json
import re
from pathlib import Path

import jax
import pytest

from jaxcnn.errors import RunError, UsageError

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch):
    """The script as a module; the process of the tests keeps its settings."""
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("bench_step")
    monkeypatch.setattr(module.bench_tools, "prepare_process", lambda allocator, *, shared, devices: ("cpu", False))
    return module


def test_mfu(bench):
    def share(kind, dtype="bfloat16", devices=1):
        return bench.mfu(989.5e12, 2.0, dtype, kind, devices)

    assert share("NVIDIA H200") == 0.5 == share("NVIDIA H100 80GB HBM3")
    assert share("NVIDIA H200", devices=2) == 0.25
    assert share("NVIDIA A100-SXM4-80GB") == pytest.approx(989.5 / 624)
    for kind, peak in (("TPU v4", 275), ("TPU v5 lite", 197), ("TPU v5p", 459), ("TPU v6 lite", 918)):
        assert share(kind) == pytest.approx(989.5 / 2 / peak)
    assert share("cpu") is None and share("NVIDIA H100 PCIe") is None and share("NVIDIA H200", "float32") is None


@pytest.mark.parametrize(("devices", "way"), [(1, "ours"), (2, "ours"), (1, "plain"), (1, "remat")])
def test_a_training_program_trains(bench, devices, way):
    program = bench.Program("lenet5", "train", 8, "float32", devices, way)
    assert program.parameters == 61_706 and program.compile_seconds > 0
    results = [program() for _ in range(8)]
    assert all(sums["count"] == 8 for sums in results)
    losses = [float(sums["loss"]) / 8 for sums in results]
    assert losses[-1] < losses[0]  # one batch again and again
    # Parameters and velocity come in and go out in the same place.
    assert program.peak_bytes >= 2 * 4 * program.parameters


def test_an_inference_program_infers(bench):
    for way in ("ours", "plain"):
        program = bench.Program("lenet5", "inference", 4, "bfloat16", 1, way)
        first, second = program(), program()
        assert first.shape == (4, 10) and first.dtype == "float32" and (first == second).all()


def test_benchmark(bench, tmp_path, capsys, monkeypatch):
    out = tmp_path / "step.json"
    arguments = bench.Arguments(models=("lenet5",), batch_size=4, repeats=1, start_up=False, plain=True, out=out)
    bench.benchmark(arguments)
    shown = capsys.readouterr().out.splitlines()
    assert re.split(" {2,}", shown[0])[:6] == ["model", "mode", "batch", "ours ms", "plain ms", "spread"]
    found = json.loads(out.read_text())
    assert found["settings"]["plain"] is True and found["environment"]["platform"] == "cpu"
    train, inference = found["rows"]
    assert (train["mode"], inference["mode"]) == ("train", "inference")
    assert train["flops"] == 3 * inference["flops"] == 6 * 4 * 416_520
    for row in found["rows"]:
        assert row["parameters"] == 61_706 and row["mfu"] is None and row["start_up"] is None and not row["errors"]
        assert row["images_per_second"]["ours"] == pytest.approx(4 / row["seconds"]["ours"]["median"])
        assert set(row["compile_seconds"]) == set(row["peak_bytes"]) == {"ours", "plain"}
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("it was measured already"))
    bench.benchmark(arguments)
    assert capsys.readouterr().out.splitlines() == shown


class OtherNetwork:
    """A peer whose network is another one."""

    def ask(self, do, **command):
        assert do == "step" and command["image"] == (28, 28, 1) and command["compiled"] is False
        return {"id": 0, "parameters": 5}


def test_other_networks_are_not_compared(bench):
    arguments = bench.Arguments(peers=("eager",))
    with pytest.raises(RunError, match="torch's has 5 parameters, ours 61706"):
        bench.measure("lenet5", "inference", 2, arguments, OtherNetwork())


def test_epochs(bench, capsys, tmp_path):
    out = tmp_path / "epoch.json"
    options = {"batch_size": 16, "epoch_images": 40, "repeats": 2, "out": out}
    bench.benchmark(bench.Arguments(epoch="lenet5", **options))
    (row,) = json.loads(out.read_text())["rows"]
    assert row["steps"] == 3 and row["images"] == 40 and row["seconds"]["median"] > 0
    assert "epoch s" in capsys.readouterr().out


def test_mistakes(bench):
    for wrong in ({"models": ("lenet55",)}, {"epoch": "lenet55"}):
        with pytest.raises(UsageError, match="unknown model 'lenet55': did you mean 'lenet5'"):
            bench.benchmark(bench.Arguments(**wrong))
    for option in ("repeats", "batch_size", "devices", "epoch_images"):
        with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} is 0: expected at least 1"):
            bench.benchmark(bench.Arguments(**{option: 0}))
    with pytest.raises(UsageError, match="expected 1 to"):
        bench.Program("lenet5", "train", 8, "float32", len(jax.devices()) + 1, "ours")


@pytest.mark.slow
def test_start_up(bench):
    found = bench.bench_ours.start_up("lenet5", 16, "float32", 1, repeats=1)
    assert 0 < found["warm_seconds"][0] < found["cold_seconds"]
    assert found["peak_process_bytes"] > 2**26


@pytest.mark.slow
def test_a_start_that_fails_says_why(bench):
    with pytest.raises(RunError, match="jaxcnn train ended before its first step: jaxcnn: error"):
        bench.bench_ours.start_up("lenet5", 16, "float32", 3, repeats=1)  # 16 images do not divide over 3 devices
