"""The table of names and what `create` refuses."""

import importlib
import pkgutil
import re

import jax.numpy as jnp
import pytest

import jaxcnn.models
from jaxcnn import ModelConfig
from jaxcnn.errors import UsageError
from jaxcnn.models import FAMILIES, MODELS, _joined, checked_options, create, family_of, options


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
        ({"name": "resnet20", "width": 0}, "width of resnet20 is 0: expected an integer of 1 to 65536"),
        (
            {"name": "resnet20", "depths": (3, 0)},
            "depths of resnet20 is (3, 0): expected 1 to 64 integers of 1 to 65536",
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
    options = {key: value for key, value in arguments.items() if key != "name"}
    with pytest.raises(UsageError, match=re.escape(message)):
        create(arguments["name"], **options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("num_classes", "num_classes is none of the options of resnet20: it is a setting of its own"),
        ("dtype", "dtype is none of the options of resnet20: it is a setting of its own"),
        ("name", "unknown option of resnet20 'name': "),
        ("parent", "unknown option of resnet20 'parent': "),
        ("axis_name", "unknown option of resnet20 'axis_name': "),
        ("shortcuts", "unknown option of resnet20 'shortcuts': did you mean 'shortcut'?"),
    ],
)
def test_what_every_model_has_is_no_option(option, message):
    """Such as `--model.options num_classes 3`, or the options of somebody's file of weights."""
    with pytest.raises(UsageError, match=re.escape(message)):
        checked_options("resnet20", {"shortcut": "B", option: 3})
    if option not in ("num_classes", "dtype"):
        with pytest.raises(UsageError, match=re.escape(message)):
            create("resnet20", **{option: 3})


@pytest.mark.parametrize("name", ["resnet20", "nets.py:tiny"])
@pytest.mark.parametrize("option", ["num_classes", "dtype", "axis_name"])
def test_what_an_experiment_has_a_field_for_is_no_option(name, option):
    """`--model.options num_classes 3` was a TypeError for a model of ours; for a user's it won over the field."""
    with pytest.raises(UsageError) as error:
        ModelConfig(name=name, options={option: 3})
    expected = f"model.options has {option}, which is no option but a setting of its own"
    assert str(error.value) == expected + (f": give model.{option}" if option != "axis_name" else "")


def test_checked_options_are_those_that_create_takes():
    given = {"depths": [1, 2], "shortcut": "B", "zero_gamma": True}
    assert checked_options("resnet20", given) == {"depths": (1, 2), "shortcut": "B", "zero_gamma": True}
    assert given["depths"] == [1, 2]


def test_the_table_is_joined_of_the_families():
    assert list(MODELS) == [name for entries in FAMILIES.values() for name in entries]
    files = {name for _, name, _ in pkgutil.iter_modules(jaxcnn.models.__path__)}
    tables = {name: getattr(importlib.import_module(f"jaxcnn.models.{name}"), "MODELS", None) for name in files}
    # Each file that has a table, by its name; `summary` and others take what has been joined from it.
    found = {name: table for name, table in tables.items() if table and table is not MODELS}
    assert found == FAMILIES
    assert (family_of("resnet50"), family_of("wide_resnet50_2")) == ("resnet", "wide_resnet")
    with pytest.raises(UsageError, match="unknown model 'resnet51': did you mean"):
        family_of("resnet51")


def test_two_models_of_one_name_are_refused():
    families = {"lenet": FAMILIES["lenet"], "other": {"tiny": MODELS["vgg11"], "lenet5": MODELS["lenet5"]}}
    with pytest.raises(ValueError, match="two models are called 'lenet5': one of lenet and one of other"):
        _joined(families)
