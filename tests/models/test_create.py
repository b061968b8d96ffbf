"""The table of names and what `create` refuses."""

import re

import jax.numpy as jnp
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.models import MODELS, create, options


@pytest.mark.parametrize("name", MODELS)
def test_defaults_are_the_published_ones(name):
    model = create(name)
    assert model.num_classes == MODELS[name].num_classes
    assert model.dtype == jnp.float32


def test_options_reach_the_model():
    model = create("resnet20", num_classes=7, dtype="bfloat16", shortcut="C", zero_gamma=True)
    assert (model.num_classes, model.dtype) == (7, jnp.bfloat16)
    assert (model.shortcut, model.zero_gamma, model.depths) == ("C", True, (3, 3, 3))


def test_lists_as_from_json_become_tuples():
    assert create("resnet20", depths=[1, 2]).depths == (1, 2)


def test_options_of_a_model():
    assert set(options("lenet5")) == {"activation", "pooling", "pad"}
    assert {"shortcut", "variant", "zero_gamma", "depths"} <= set(options("resnet50"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnt20"}, "unknown model 'resnt20': did you mean 'resnet20'?"),
        (
            {"name": "resnet20", "shortcuts": "B"},
            "unknown option of resnet20 'shortcuts': did you mean 'shortcut'?",
        ),
        (
            {"name": "resnet20", "shortcut": "Z"},
            "unknown shortcut of resnet20 'Z': valid choices are A, A_centred, B, C, none",
        ),
        ({"name": "resnet50", "variant": "v1.6"}, "unknown variant of resnet50 'v1.6': did you mean 'v1.5'?"),
        ({"name": "lenet5", "pooling": "maxx"}, "unknown pooling of lenet5 'maxx': did you mean 'max'?"),
        (
            {"name": "lenet5", "activation": 3},
            "unknown activation of lenet5 '3': valid choices are relu, tanh",
        ),
        ({"name": "lenet5", "pad": "yes"}, "pad of lenet5 is 'yes': expected True or False"),
        ({"name": "resnet20", "width": 0}, "width of resnet20 is 0: expected an integer >= 1"),
        (
            {"name": "resnet20", "depths": (3, 0)},
            "depths of resnet20 is (3, 0): expected integers of at least 1",
        ),
        ({"name": "resnet20", "num_classes": 0}, "num_classes=0: expected an integer of at least 1, or None"),
        (
            {"name": "resnet20", "num_classes": True},
            "num_classes=True: expected an integer of at least 1, or None",
        ),
        ({"name": "resnet20", "dtype": "bfloat"}, "unknown compute dtype 'bfloat': did you mean 'bfloat16'?"),
        ({"name": "resnet20", "dtype": "int32"}, "unknown compute dtype 'int32': did you mean"),
        ({"name": "resnet20", "dtype": None}, "unknown compute dtype 'None'"),
    ],
    ids=lambda v: re.sub(r"\W+", "-", str(v))[:60],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        create(**arguments)
