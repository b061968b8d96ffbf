"""What the benchmark of the transforms prints."""

import importlib
from pathlib import Path

import pytest

from jaxcnn import Flip, PadCrop
from jaxcnn.data.augment import Augmentation
from jaxcnn.typed import variants

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("bench_augment")


def test_every_kind_is_measured(bench):
    assert {type(transform) for transform in bench.TRANSFORMS.values()} == set(variants(Augmentation).values())


def test_costs_and_shares(bench, monkeypatch):
    monkeypatch.setattr(bench, "TRANSFORMS", {"flip": Flip()})
    monkeypatch.setattr(bench, "RECIPES", {"CIFAR": (PadCrop(pad=1), Flip())})
    monkeypatch.setattr(bench, "Program", lambda *_: lambda: None)
    monkeypatch.setattr(bench, "_BATCH", {32: 2})
    found = bench.measure(32, rounds=1)
    assert found["batch_size"] == 2 and found["costs"].keys() == {"flip", "recipe CIFAR"}
    for row in found["costs"].values():
        assert row["ms"] > 0 and row["share"] == pytest.approx(row["ms"] / found["resnet20_step_ms"])
    assert "share" not in bench.measure(8, rounds=1)["costs"]["flip"]
