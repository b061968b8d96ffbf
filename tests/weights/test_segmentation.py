"""Segmentation networks from torchvision's tensors: names, the auxiliary head, other classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxcnn.models import create
from jaxcnn.weights import PEERS, load


def peer_tensors(name, num_classes, **options):
    """A peer's tensors, each filled with a number of its own, and that number by our path."""
    model, names = create(name, num_classes=num_classes, **options), PEERS[f"torchvision/{name}"].names
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    tensors, numbers = {}, {}
    for i, (path, leaf) in enumerate(traverse_util.flatten_dict(shapes, sep="/").items()):
        shape = (*leaf.shape[:-3:-1], *leaf.shape[:-2]) if leaf.ndim > 1 else leaf.shape
        tensors[names.peer_name(path.partition("/")[2])] = np.broadcast_to(np.float32(i), shape)
        numbers[path] = i
    return tensors, numbers


def test_names_are_torchvisions():
    fcn, deeplab = (PEERS[f"torchvision/{name}"].names.peer_name for name in ("fcn_resnet50", "deeplabv3_resnet50"))
    assert fcn("stage3/block2/shortcut/norm/mean") == "backbone.layer3.1.downsample.1.running_mean"
    assert fcn("head/conv/bn/scale") == "classifier.1.weight"
    assert fcn("aux1/score/bias") == deeplab("aux1/score/bias") == "aux_classifier.4.bias"
    assert deeplab("head/pyramid/atrous3/conv/kernel") == "classifier.0.convs.3.0.weight"
    assert deeplab("head/pyramid/image/bn/bias") == "classifier.0.convs.4.2.bias"
    assert deeplab("head/conv/bn/var") == "classifier.2.running_var"


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
@pytest.mark.parametrize("aux", [False, True])
def test_files_with_and_without_an_auxiliary_head(name, aux):
    tensors, numbers = peer_tensors(name, 21, aux_heads=aux)
    model, variables = load(f"torchvision/{name}", tensors)
    assert (model.num_classes, model.aux_heads) == (21, aux)
    found = {path: leaf.ravel()[0] for path, leaf in traverse_util.flatten_dict(variables, sep="/").items()}
    assert found == numbers


def test_other_classes_keep_the_backbone():
    tensors, numbers = peer_tensors("fcn_resnet50", 21, aux_heads=True)
    model, variables = load("torchvision/fcn_resnet50", tensors, num_classes=3)
    params = variables["params"]
    assert model.num_classes == params["head"]["score"]["kernel"].shape[-1] == 3
    assert params["aux1"]["score"]["bias"].shape == (3,)
    assert np.std(params["head"]["score"]["kernel"]) > 0
    assert params["stage1"]["block1"]["conv1"]["kernel"][0, 0, 0, 0] == numbers["params/stage1/block1/conv1/kernel"]
