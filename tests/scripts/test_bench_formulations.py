"""scripts/bench_formulations.py on the smallest network: what is left out is out, and back afterwards."""

import importlib
import json
from pathlib import Path

import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import pool
from jaxcnn.layers.cpu.choice import RULES

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch):
    """The script as a module; the process of the tests keeps its settings."""
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("bench_formulations")
    monkeypatch.setattr(module.bench_tools, "prepare_process", lambda allocator, *, shared: ("cpu", False))
    return module


def test_each_rule_is_left_out_and_comes_back(bench):
    before, pooling = dict(RULES), pool.max_of_windows
    names = {rule.formulation.__name__ for kind in RULES.values() for rule in kind} | {"max_pooling", "materialised"}
    ways = bench.ways_without(names)
    assert set(ways) == {name for name in names if not name.startswith("xla_")}
    for name, without in ways.items():
        with without:
            left = {rule.formulation.__name__ for kind in RULES.values() for rule in kind}
            assert name not in left
            assert (pool.max_of_windows is pooling) == (name != "max_pooling")
        assert before == RULES and pool.max_of_windows is pooling


def test_lenet(bench, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = bench.Arguments(models=("lenet5",), batch_size=8, repeats=1, out=out)
    bench.benchmark(arguments)
    rows = json.loads(out.read_text())["rows"]
    assert {row["rule"] for row in rows} >= {"channels_as_positions_kernel_gradient", "max_pooling"}
    for row in rows:
        least = {way: found["min"] for way, found in row["cpu_seconds"].items()}
        assert row["ratio"] == pytest.approx(least["without"] / least["with"])
    assert "max_pooling" in capsys.readouterr().out


def test_mistakes_are_named(bench):
    with pytest.raises(UsageError, match="lenet5"):
        bench.benchmark(bench.Arguments(models=("lenet",)))
    with pytest.raises(UsageError, match="--repeats is 0"):
        bench.benchmark(bench.Arguments(repeats=0))
