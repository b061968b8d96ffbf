"""Models: one paper, one file. `MODELS` is the table of names, `create` makes a model of one."""

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import EllipsisType
from typing import Any, Literal

import jax.numpy as jnp

from jaxcnn.errors import UsageError, unknown
from jaxcnn.models import lenet, resnet, resnet_v2
from jaxcnn.models.base import Model

__all__ = ["MODELS", "Model", "ModelEntry", "create", "options"]


@dataclass(frozen=True)
class ModelEntry:
    """A row of `MODELS`: what makes the model, where it comes from, and the images it was made for."""

    factory: Callable[..., Model]
    paper: str
    year: int
    input_shape: tuple[int, int, int]
    num_classes: int


_lenet = partial(ModelEntry, paper="LeCun et al. 1998", year=1998, num_classes=10)
_cifar = partial(ModelEntry, paper="1512.03385", year=2015, input_shape=(32, 32, 3), num_classes=10)
_imagenet = partial(ModelEntry, paper="1512.03385", year=2015, input_shape=(224, 224, 3), num_classes=1000)
_cifar_v2 = partial(_cifar, paper="1603.05027", year=2016)
_imagenet_v2 = partial(_imagenet, paper="1603.05027", year=2016)

MODELS: dict[str, ModelEntry] = {
    "lenet5": _lenet(lenet.lenet5, input_shape=(28, 28, 1)),
    "lenet5_valid": _lenet(lenet.lenet5_valid, input_shape=(28, 28, 1)),
    "lenet5_1998": _lenet(lenet.lenet5_1998, input_shape=(32, 32, 1)),
    "resnet20": _cifar(resnet.resnet20),
    "resnet32": _cifar(resnet.resnet32),
    "resnet44": _cifar(resnet.resnet44),
    "resnet56": _cifar(resnet.resnet56),
    "resnet110": _cifar(resnet.resnet110),
    "resnet1202": _cifar(resnet.resnet1202),
    "plain20": _cifar(resnet.plain20),
    "plain32": _cifar(resnet.plain32),
    "plain44": _cifar(resnet.plain44),
    "plain56": _cifar(resnet.plain56),
    "plain110": _cifar(resnet.plain110),
    "resnet18": _imagenet(resnet.resnet18),
    "resnet34": _imagenet(resnet.resnet34),
    "resnet50": _imagenet(resnet.resnet50),
    "resnet101": _imagenet(resnet.resnet101),
    "resnet152": _imagenet(resnet.resnet152),
    "plain18": _imagenet(resnet.plain18),
    "plain34": _imagenet(resnet.plain34),
    "resnet164v2": _cifar_v2(resnet_v2.resnet164v2),
    "resnet1001v2": _cifar_v2(resnet_v2.resnet1001v2),
    "resnet18v2": _imagenet_v2(resnet_v2.resnet18v2),
    "resnet34v2": _imagenet_v2(resnet_v2.resnet34v2),
    "resnet50v2": _imagenet_v2(resnet_v2.resnet50v2),
    "resnet101v2": _imagenet_v2(resnet_v2.resnet101v2),
    "resnet152v2": _imagenet_v2(resnet_v2.resnet152v2),
    "resnet200v2": _imagenet_v2(resnet_v2.resnet200v2),
}


def create(
    name: str,
    num_classes: int | EllipsisType | None = ...,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    **variant: Any,
) -> Model:
    """Return the model called `name` in `MODELS`.

    Args:
      name: see `MODELS`, or `jaxcnn models`.
      num_classes: outputs; None returns pooled features; left out, the number the model was published with.
      dtype: of the computation, a floating type or its name; parameters, statistics and logits stay float32.
      axis_name: the mapped axis over which BatchNorm takes its statistics, for pmap and shard_map.
      **variant: the model's own options (see `options`), such as `shortcut="B"` or `zero_gamma=True`.

    Raises:
      UsageError: for an unknown name or option, or a value that is none of its choices.
    """
    hints = options(name)
    entry = MODELS[name]
    if num_classes is ...:
        num_classes = entry.num_classes
    if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
        raise UsageError(f"num_classes={num_classes!r}: expected an integer of at least 1, or None for features")
    for option, value in variant.items():
        if option not in hints:
            raise unknown(f"option of {name}", option, hints)
        variant[option] = _checked(f"{option} of {name}", value, hints[option])
    return entry.factory(num_classes=num_classes, dtype=_float_type(dtype), axis_name=axis_name, **variant)


def options(name: str) -> dict[str, Any]:
    """Return the options of the model called `name` that `create` takes by keyword, with their types.

    Raises:
      UsageError: for an unknown name.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    factory = MODELS[name].factory
    model: Any = factory.func if isinstance(factory, partial) else factory
    hints = typing.get_type_hints(model)
    common = {"num_classes", "dtype", "axis_name", "parent", "name"}
    return {field.name: hints[field.name] for field in dataclasses.fields(model) if field.name not in common}


def _checked(what: str, value: Any, hint: Any) -> Any:
    """Return `value` where it is of type `hint`: a Literal of strings, bool, int, or tuple of ints."""
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise unknown(what, str(value), typing.get_args(hint))
        return value
    if hint == tuple[int, ...]:
        if isinstance(value, list | tuple) and value and all(type(v) is int and v >= 1 for v in value):
            return tuple(value)  # JSON has lists only.
        raise UsageError(f"{what} is {value!r}: expected integers of at least 1")
    if type(value) is not hint or (hint is int and value < 1):
        raise UsageError(f"{what} is {value!r}: expected {'True or False' if hint is bool else 'an integer >= 1'}")
    return value


def _float_type(dtype: Any) -> Any:
    """Return `dtype` as a numpy dtype of floating kind."""
    try:
        found = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise unknown("compute dtype", str(dtype), ("float32", "bfloat16", "float16", "float64"))
    return found
