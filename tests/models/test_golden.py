"""Logits of third-party networks with weights drawn from their names (torchvision, timm; float64)."""

import json
import math
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxcnn.models import create

GOLDEN = Path(__file__).parents[2].parent / "shared/reference/golden"


def tensor(key, shape):
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_var":
        value = rng.uniform(0.5, 1.5, shape)
    elif leaf == "weight" and len(shape) >= 2:
        value = rng.standard_normal(shape) * np.sqrt(2 / math.prod(shape[1:]))
    elif leaf == "weight":
        value = rng.uniform(0.5, 1.0, shape)
    else:
        value = 0.1 * rng.standard_normal(shape)
    return value.astype(np.float32)


def torch_module(path, v2):
    """Return the peer's name of our module."""
    if not v2:
        path = path.replace("stem/conv", "conv1").replace("stem/bn", "bn1").replace("head", "fc")
        path = path.replace("shortcut/conv", "downsample/0").replace("shortcut/norm", "downsample/1")
    else:
        path = path.replace("shortcut", "downsample/conv").replace("bn", "norm").replace("head", "head/fc")
    words = []
    for word in path.split("/"):
        if word.startswith("stage"):
            words += ["stages", str(int(word[5:]) - 1), "blocks"] if v2 else [f"layer{word[5:]}"]
        else:
            words.append(str(int(word[5:]) - 1) if word.startswith("block") else word)
    return ".".join(words)


def torch_weights(variables, v2, shapes):
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    flat = {}
    for path in traverse_util.flatten_dict(variables, sep="/"):
        collection, _, name = path.partition("/")
        module, _, leaf = name.rpartition("/")
        key = f"{torch_module(module, v2)}.{leaves.get(leaf, leaf)}"
        shape = shapes.pop(key)
        value = tensor(key, shape)
        if leaf == "kernel":
            value = value.reshape(shape[:2]).T if module == "head" else value.transpose(2, 3, 1, 0)
        flat[f"{collection}/{name}"] = value
    assert all(key.endswith("num_batches_tracked") for key in shapes), sorted(shapes)
    return traverse_util.unflatten_dict(flat, sep="/")


@pytest.mark.data
@pytest.mark.parametrize(
    ("golden", "name"),
    [("tv_resnet18", "resnet18"), ("tv_resnet50", "resnet50"), ("timm_resnetv2_50", "resnet50v2")],
)
def test_logits(golden, name):
    if not (GOLDEN / f"{golden}.npz").exists():
        pytest.skip(f"no golden logits in {GOLDEN}")
    peer = json.loads((GOLDEN / f"{golden}.json").read_text())
    size = peer["input_size"]
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((2, size, size, 3)).astype(np.float32)
    model = create(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(x))
    variables = torch_weights(shapes, name.endswith("v2"), dict(peer["tensors"]))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes)
    with jax.default_matmul_precision("highest"):
        logits = jax.jit(model.apply)(variables, x)
    expected = np.load(GOLDEN / f"{golden}.npz")["logits"]
    assert np.linalg.norm(logits - expected) < 1e-4 * np.linalg.norm(expected)
