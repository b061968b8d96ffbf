"""What a trainer is given in place of a network, an optimiser or a task."""

import flax.linen as nn
import optax
import pytest

import jaxcnn
from jaxcnn.errors import UsageError
from jaxcnn.tasks.check import check_kinds

PARTS = {"model": nn.Dense(2), "tx": optax.sgd(0.1), "task": jaxcnn.Classification()}


def test_what_they_are():
    check_kinds(**PARTS)
    check_kinds(**PARTS | {"tx": lambda params: optax.sgd(0.1)})


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("model", "resnet18", "model is 'resnet18': expected a Linen module that is made"),
        ("model", nn.Dense, "model is <class 'flax.linen.linear.Dense'>: expected a Linen module that is made"),
        ("tx", jaxcnn.Adam(), "tx is Adam(learning_rate=0.1, .*: expected an Optax transformation"),
        ("task", jaxcnn.Classification, "expected a jaxcnn.Task that is made"),
    ],
)
def test_what_they_are_not(name, wrong, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        check_kinds(**PARTS | {name: wrong})
