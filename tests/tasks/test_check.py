"""Parts that do not go together are told in one line, before anything is computed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxcnn
from jaxcnn.data import Image, Label, Value
from jaxcnn.errors import UsageError
from jaxcnn.tasks import Classification, Task
from jaxcnn.tasks.check import check_fields, check_init, check_kinds, check_model


class Net(nn.Module):
    classes: int = 3
    maps: bool = False

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.classes)(x if self.maps else x.reshape(len(x), -1))


class Picky(nn.Module):
    """Takes images of another size."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(len(x), 25))


def check(task, model=Net(), classes=3, side=4):  # noqa: B008
    fields = {"image": Image(1), "label": Label(tuple(map(str, range(classes))))}

    def batch_of(rows):
        shapes = {"image": ((side, side, 1), jnp.float32), "label": ((), jnp.int32), "mask": ((), bool)}
        return {name: jax.ShapeDtypeStruct((rows, *shape), dtype) for name, (shape, dtype) in shapes.items()}

    check_fields(task, fields)
    check_model(task, model, check_init(task, model, batch_of(1)), batch_of, fields)


def mine(**methods):
    return type("Mine", (Classification,), methods)()


class Least(Task):
    """What a task must have."""

    def losses(self, outputs, batch):
        return jnp.where(batch["mask"][:, None], outputs, 0)


@pytest.mark.parametrize("task", [Classification(label_smoothing=0.1), Least()])
@pytest.mark.parametrize("size", [3, 7])
def test_parts_that_go_together(task, size):
    check(task, Net(size), size, size)


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        (
            Classification(),
            Net(maps=True),
            "the model's output is float32[batch, 4, 4, 3]: classification takes float32[batch, 3]",
        ),
        (Classification(), Net(2), "the model has 2 logits, the data have 3 classes: set model.num_classes"),
        (
            Classification(),
            Picky(),
            "Picky cannot be called on float32[1, 4, 4, 1]: TypeError: cannot reshape array of shape (1, 4, 4, 1) ",
        ),
        (Task(), Net(), "Task has no losses: write losses(self, outputs, batch) -> [batch, ...]"),
        (
            mine(example={"image": Image, "angle": Value}),
            Net(),
            "Mine needs angle (Value) in each example: these data have image (Image), label (Label)",
        ),
        (
            mine(forward=lambda self, model, variables, batch, key, train: model.apply(variables, batch["image"])),
            Net(),
            "Mine.forward returns float32[batch, 3]: expected (outputs, changed collections)",
        ),
        (
            mine(losses=lambda self, outputs, batch: outputs - batch["image"]),
            Net(),
            "the model's output float32[batch, 3] does not fit Mine on image float32[batch, 4, 4, 1]; label int32",
        ),
        (
            mine(losses=lambda self, outputs, batch: outputs.sum()),
            Net(),
            "Mine.losses returns float32[], expected [examples, ...]: the model's output float32[batch, 3] does not",
        ),
        (
            mine(losses=lambda self, outputs, batch: batch["label"]),
            Net(),
            "Mine.losses returns int32[batch]: expected one array of floats [examples, ...]",
        ),
        (
            mine(sums=lambda self, outputs, batch: {"all": outputs[:, 0]}),
            Net(),
            "Mine.sums: all is float32[batch]: expected a sum over the examples",
        ),
        (
            mine(sums=lambda self, outputs, batch: {f"of {len(outputs)}": outputs.sum()}),
            Net(),
            "Mine.sums returns another structure for each number of examples: of ",
        ),
        (mine(sums=lambda self, outputs, batch: {}), Net(), "Mine.metrics does not fit its sums nothing: KeyError: "),
        (
            mine(metrics=lambda self, sums: {"accuracy": jnp.ones(3)}),
            Net(),
            "Mine.metrics: accuracy has shape [3], expected a number",
        ),
        (
            mine(best=("acuracy", "max"), collect=lambda self, outputs, batch: {}),
            Net(),
            "unknown metric of Mine.best 'acuracy': did you mean 'accuracy'?",
        ),
        (
            mine(collect=lambda self, outputs, batch: outputs.sum(0)),
            Net(),
            "Mine.collect returns float32[3], expected [examples, ...]",
        ),
        (
            mine(count=lambda self, batch: batch["mask"]),
            Net(),
            "Mine.count returns bool[batch]: expected one number",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_the_shapes(task, model, message):
    with pytest.raises(UsageError) as error:
        check(task, model)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_number_of_classes_is_never_taken_for_that_of_examples():
    with pytest.raises(UsageError, match=r"float32\[batch, 7, 7, 7\]: classification takes float32\[batch, 7\]"):
        check(Classification(), Net(7, maps=True), 7, 7)


KINDS = {"model": nn.Dense(2), "tx": optax.sgd(0.1), "task": jaxcnn.Classification()}


def test_kinds_that_parts_are_of():
    check_kinds(**KINDS)
    check_kinds(**KINDS | {"tx": lambda params: optax.sgd(0.1)})


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("model", "resnet18", "model is 'resnet18': expected a Linen module that is made"),
        ("model", nn.Dense, "model is <class 'flax.linen.linear.Dense'>: expected a Linen module that is made"),
        ("tx", jaxcnn.Adam(), "tx is Adam(learning_rate=0.1, .*: expected an Optax transformation"),
        ("task", jaxcnn.Classification, "expected a jaxcnn.Task that is made"),
    ],
)
def test_kinds_that_parts_are_not_of(name, wrong, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        check_kinds(**KINDS | {name: wrong})


def test_a_variable_that_holds_nothing_is_told():
    with pytest.raises(UsageError, match=r"Net: params/Dense_0/bias has shape \[0\], which holds nothing"):
        check(Least(), Net(0))
