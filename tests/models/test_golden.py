"""Logits of third-party networks with weights drawn from their names (torchvision, timm; float64).

`scripts/make_golden.py` writes such folders. The whole shared folder takes minutes: what is compared by default are
the lightest networks of each kind.
"""

import json
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcnn import weights

GOLDEN = Path(__file__).parents[2].parent / "shared/reference/golden"
LIBRARIES = {"tv": "torchvision", "tvseg": "torchvision"}
LIGHT = ("tv_resnet18", "tv_squeezenet1_1", "tv_mobilenet_v2", "tv_googlenet", "timm_resnetv2_50")
ALL = sorted(path.stem for path in GOLDEN.glob("*.json"))


def tensor(name, shape):
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        value = rng.uniform(0.5, 1.5, shape)
    elif leaf == "weight" and len(shape) >= 2:
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif leaf == "weight":
        value = rng.uniform(0.5, 1.0, shape)
    else:
        value = 0.1 * rng.standard_normal(shape)
    return value.astype(np.float32)


def compare(golden):
    if not (GOLDEN / f"{golden}.npz").exists():
        pytest.skip(f"no golden logits in {GOLDEN}")
    facts = json.loads((GOLDEN / f"{golden}.json").read_text())
    library, size = LIBRARIES.get(facts["source"], facts["source"]), facts["input_size"]
    tensors = {name: tensor(name, tuple(shape)) for name, shape in facts["tensors"]}
    model, variables = weights.load(f"{library}/{facts['name']}", tensors)
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((2, size, size, 3)).astype(np.float32)
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
