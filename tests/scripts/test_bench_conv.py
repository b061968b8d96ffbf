"""scripts/bench_conv.py: which convolutions, what is timed, and that a run goes on where it stopped."""

import importlib
import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.models import MODELS, create
from jaxcnn.models.summary import summarize

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch):
    """The script as a module; the process of the tests keeps its settings."""
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("bench_conv")
    monkeypatch.setattr(module.bench_tools, "prepare_process", lambda allocator, *, shared: ("cpu", False))
    return module


def shape(bench, **fields):
    usual = {"image": (7, 8, 4), "kernel": (3, 3, 4, 6), "strides": (1, 1), "padding": ((1, 1), (1, 1))}
    usual |= {"dilation": (1, 1), "groups": 1, "output_padding": (0, 0)}
    return bench.Shape(**usual | fields)


def test_labels(bench):
    assert [s.label for s in bench.shapes_of("resnet20")] == [
        "32x32x3 k3x3x16 p1",
        "32x32x16 k3x3x16 p1",
        "32x32x16 k3x3x32 s2 p1",
        "16x16x32 k3x3x32 p1",
        "16x16x32 k3x3x64 s2 p1",
        "8x8x64 k3x3x64 p1",
    ]
    odd = shape(bench, strides=(1, 2), padding=((0, 1), (1, 1)), dilation=(2, 2), groups=2, transposed=True)
    assert odd.label == "7x8x4 k3x3x6 s1,2 p0,1,1,1 d2 g2 transposed"


@pytest.mark.parametrize("name", ["lenet5", "mobilenet_v3_small", "unet"])
def test_the_layers_are_those_of_the_summary(bench, name):
    shapes = bench.shapes_of(name)
    rows = [row for row in summarize(create(name), MODELS[name].input_shape) if row.kind in ("Conv", "ConvTranspose")]
    assert {(s.macs, s.output) for s in shapes} == {(row.macs, row.output_shape) for row in rows}
    assert any(s.transposed for s in shapes) == (name == "unet")


def test_shapes_are_shared(bench):
    said = []
    found = bench.collect(("resnet20", "resnet32", "lenet5"), said.append)
    assert said == ["traced resnet20", "traced resnet32", "traced lenet5"]
    assert list(found.values()) == [["resnet20", "resnet32"]] * 6 + [["lenet5"]] * 2


@pytest.mark.parametrize(
    "fields",
    [
        {"strides": (2, 2), "padding": ((0, 1), (1, 1))},
        {"kernel": (3, 3, 2, 6), "groups": 2, "dilation": (2, 2)},
        {"transposed": True, "strides": (2, 2), "output_padding": (1, 0)},
    ],
)
def test_gradients_one_by_one(bench, fields):
    case = shape(bench, **fields)
    rng = np.random.default_rng(0)
    shapes = ((2, *case.image), case.kernel, (2, *case.output))
    x, kernel, cotangent = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes)
    ours, xla = (
        [jax.jit(bench.one_direction(function, d))(x, kernel, cotangent) for d in ("forward", "by_input", "by_kernel")]
        for function in (case.ours, case.xla)
    )
    wanted = jax.grad(lambda x, kernel: jnp.vdot(case.xla(x, kernel), cotangent), (0, 1))(x, kernel)
    for found, same, right in zip(ours, xla, (case.xla(x, kernel), *wanted), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(same, right, rtol=1e-4, atol=1e-4)
    assert case.macs * 2 == math.prod(case.kernel) * (x if case.transposed else cotangent)[..., 0].size


def test_a_run_goes_on(bench, tmp_path, capsys, monkeypatch):
    out = tmp_path / "conv.json"
    arguments = {"models": ("lenet5",), "batch_size": 2, "repeats": 1, "xla": True, "out": out}
    bench.benchmark(bench.Arguments(limit=1, **arguments))
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3
    rows = json.loads(out.read_text())["rows"]
    assert [row["direction"] for row in rows] == ["forward", "by_input", "by_kernel"]
    for row in rows:
        assert row["label"] == "32x32x1 k5x5x6" and row["models"] == ["lenet5"] and row["macs"] == 117_600
        assert set(row["seconds"]) == {"ours", "xla"} and row["ratio"] is None and not row["errors"]
        assert all(0 < times["min"] <= times["median"] for times in row["seconds"].values())

    measured = []

    def measure(shape, direction, *rest):
        measured.append((shape.label, direction))
        return {"seconds": {"ours": {"median": 1.0, "min": 1.0, "spread": 0.0}}, "ratio": None, "errors": {"xla": "no"}}

    monkeypatch.setattr(bench, "measure", measure)
    bench.benchmark(bench.Arguments(**arguments))
    assert measured == [("14x14x6 k5x5x16", d) for d in ("forward", "by_input", "by_kernel")]
    assert json.loads(out.read_text())["rows"][:3] == rows
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1 + 6 and said.out.splitlines()[1].startswith(
        "14x14x6 k5x5x16"
    )  # slowest first
    assert "xla: 3 of 6 could not be measured, such as: no" in said.err
    bench.benchmark(bench.Arguments(min_macs=200_000, **arguments))
    assert "32x32x1" not in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"settings.repeats \(1, now 2\)"):
        bench.benchmark(bench.Arguments(**arguments | {"repeats": 2}))


def test_worst_ratio_first(bench):
    row = {"label": "a", "direction": "forward", "models": ["m", "n"], "macs": 2_000_000, "errors": {}}

    def times(ours):
        found = {"ours": ours, "torch": 0.002}
        return {name: {"median": value, "min": value, "spread": 0.25} for name, value in found.items()}

    rows = [row | {"seconds": times(ours), "ratio": ours / 0.002} for ours in (0.001, 0.007, 0.004)]
    header, *lines = bench.render(rows).splitlines()
    assert re.split(" {2,}", header) == [
        "convolution",
        "direction",
        "models",
        "MMACs",
        "ours ms",
        "torch ms",
        "ratio",
        "spread",
    ]
    assert [re.split(" {2,}", line)[-2] for line in lines] == ["3.50", "2.00", "0.50"]
    assert re.split(" {2,}", lines[0]) == ["a", "forward", "m +1", "2.0", "7.000", "2.000", "3.50", "25 %"]


def test_mistakes(bench):
    with pytest.raises(UsageError, match="unknown model 'resnt20': did you mean 'resnet20'"):
        bench.benchmark(bench.Arguments(models=("resnt20",)))
    with pytest.raises(UsageError, match="--batch-size is 0: expected at least 1"):
        bench.benchmark(bench.Arguments(batch_size=0))
