"""Logits of third-party networks with weights drawn from their names (torchvision, timm; float64).

`scripts/make_golden.py` writes such folders. The whole shared folder takes minutes: what is compared by default are
the lightest networks of each kind.
"""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcnn import weights

GOLDEN = Path(__file__).parents[2].parent / "shared/reference/golden"
SPEC = importlib.util.spec_from_file_location("make_golden", Path(__file__).parents[2] / "scripts/make_golden.py")
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)
LIBRARIES = {"tv": "torchvision", "tvseg": "torchvision"}
LIGHT = ("tv_resnet18", "tv_squeezenet1_1", "tv_mobilenet_v2", "tv_googlenet", "timm_resnetv2_50")
ALL = sorted(path.stem for path in GOLDEN.glob("*.json"))


def compare(golden):
    if not (GOLDEN / f"{golden}.npz").exists():
        pytest.skip(f"no golden logits in {GOLDEN}")
    facts = json.loads((GOLDEN / f"{golden}.json").read_text())
    library, size = LIBRARIES.get(facts["source"], facts["source"]), facts["input_size"]
    tensors = {name: script.draw(name, tuple(shape)) for name, shape in facts["tensors"]}
    model, variables = weights.load(f"{library}/{facts['name']}", tensors)
    x = script.images(size)
    with jax.default_matmul_precision("highest"):
        logits = np.asarray(jax.jit(model.apply)(variables, x))
    logits = logits.transpose(0, 3, 1, 2) if logits.ndim == 4 else logits
    expected = np.load(GOLDEN / f"{golden}.npz")["logits"]
    assert np.linalg.norm(logits - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.data
@pytest.mark.parametrize("golden", LIGHT)
def test_logits(golden):
    compare(golden)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("golden", [name for name in ALL if name not in LIGHT])
def test_logits_of_the_others(golden):
    compare(golden)
