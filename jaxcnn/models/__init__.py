"""Models: one paper, one file. `MODELS` is the table of names, joined of one per family; `create` makes a model."""

import dataclasses
import typing
from collections.abc import Mapping
from functools import partial
from types import EllipsisType
from typing import Any, Literal

import jax.numpy as jnp

from jaxcnn.errors import UsageError, unknown
from jaxcnn.models import (
    alexnet,
    convnext,
    deeplabv3,
    densenet,
    efficientnet,
    fcn,
    fcn_resnet,
    googlenet,
    inception_resnet,
    inception_v3,
    inception_v4,
    lenet,
    mnasnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    regnet,
    resnet,
    resnet_v2,
    resnext,
    senet,
    shufflenet_v2,
    squeezenet,
    unet,
    vgg,
    wide_resnet,
    zfnet,
)
from jaxcnn.models.base import Model, ModelEntry, WithAux
from jaxcnn.models.calls import apply, build, checked_num_classes, float_type, init

__all__ = [
    "FAMILIES",
    "MODELS",
    "Model",
    "ModelEntry",
    "WithAux",
    "apply",
    "build",
    "checked_options",
    "create",
    "family_of",
    "init",
    "options",
]

# One table per family, made next to its variants, by the name of its file.
FAMILIES: dict[str, dict[str, ModelEntry]] = {
    "lenet": lenet.MODELS,
    "alexnet": alexnet.MODELS,
    "zfnet": zfnet.MODELS,
    "vgg": vgg.MODELS,
    "googlenet": googlenet.MODELS,
    "inception_v3": inception_v3.MODELS,
    "inception_v4": inception_v4.MODELS,
    "inception_resnet": inception_resnet.MODELS,
    "squeezenet": squeezenet.MODELS,
    "resnet": resnet.MODELS,
    "resnet_v2": resnet_v2.MODELS,
    "wide_resnet": wide_resnet.MODELS,
    "resnext": resnext.MODELS,
    "senet": senet.MODELS,
    "densenet": densenet.MODELS,
    "regnet": regnet.MODELS,
    "mobilenet_v1": mobilenet_v1.MODELS,
    "mobilenet_v2": mobilenet_v2.MODELS,
    "mobilenet_v3": mobilenet_v3.MODELS,
    "shufflenet_v2": shufflenet_v2.MODELS,
    "mnasnet": mnasnet.MODELS,
    "efficientnet": efficientnet.MODELS,
    "convnext": convnext.MODELS,
    "fcn": fcn.MODELS,
    "fcn_resnet": fcn_resnet.MODELS,
    "deeplabv3": deeplabv3.MODELS,
    "unet": unet.MODELS,
}


def _joined(families: Mapping[str, Mapping[str, ModelEntry]]) -> dict[str, ModelEntry]:
    """Return the rows of all families; raise ValueError where two have one name."""
    homes: dict[str, str] = {}
    for family, entries in families.items():
        for name in entries:
            if homes.setdefault(name, family) != family:
                raise ValueError(f"two models are called {name!r}: one of {homes[name]} and one of {family}")
    return {name: entry for entries in families.values() for name, entry in entries.items()}


MODELS: dict[str, ModelEntry] = _joined(FAMILIES)

# Beyond these an option of somebody's file of weights could ask for more than any machine has.
_LARGEST, _LONGEST = 2**16, 64

# What every model has, and is no option of one.
_SETTINGS = ("num_classes", "dtype")


def create(
    name: str,
    /,
    num_classes: int | EllipsisType | None = ...,
    dtype: Any = jnp.float32,
    **variant: Any,
) -> Model:
    """Return the model called `name` in `MODELS`.

    Args:
      name: see `MODELS`, or `jaxcnn models`.
      num_classes: outputs; None returns pooled features; left out, the number the model was published with.
      dtype: of the computation, a floating type or its name; parameters, statistics and logits stay float32.
      **variant: the model's own options (see `options`), such as `shortcut="B"` or `zero_gamma=True`.

    Raises:
      UsageError: for an unknown name or option, or a value that is none of its choices.
    """
    variant = checked_options(name, variant)
    entry = MODELS[name]
    if num_classes is ...:
        num_classes = entry.num_classes
    if num_classes is not None:
        num_classes = checked_num_classes(num_classes)
    return entry.factory(num_classes=num_classes, dtype=float_type(dtype), **variant)


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
    common = {*_SETTINGS, "parent", "name"}
    return {field.name: hints[field.name] for field in dataclasses.fields(model) if field.name not in common}


def checked_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of the model called `name` as `create` takes them by keyword, such as those of a command line.

    Raises:
      UsageError: for an unknown name, what is not among `options(name)`, or a value that is none of its choices.
    """
    hints = options(name)
    for option in given:
        if option in _SETTINGS:
            raise UsageError(f"{option} is none of the options of {name}: it is a setting of its own")
        if option not in hints:
            raise unknown(f"option of {name}", option, hints)
    return {option: _checked(f"{option} of {name}", value, hints[option]) for option, value in given.items()}


def family_of(name: str) -> str:
    """Return the family of the model called `name`, in whose file it is.

    Raises:
      UsageError: for an unknown name.
    """
    for family, entries in FAMILIES.items():
        if name in entries:
            return family
    raise unknown("model", name, MODELS)


def _checked(what: str, value: Any, hint: Any) -> Any:
    """Return `value` where it is of type `hint`: a Literal of strings, bool, int, float, or tuple of ints."""
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise unknown(what, str(value), map(str, typing.get_args(hint)))
        return value
    if hint == tuple[int, ...]:
        if isinstance(value, list | tuple) and 1 <= len(value) <= _LONGEST and all(map(_counts, value)):
            return tuple(value)  # JSON has lists only.
        raise UsageError(f"{what} is {value!r:.80}: expected 1 to {_LONGEST} integers of 1 to {_LARGEST}")
    if hint is float:
        if type(value) not in (int, float) or not 0 <= value <= _LARGEST:  # Neither NaN.
            raise UsageError(f"{what} is {value!r:.80}: expected a number of 0 to {_LARGEST}")
        return float(value)
    if type(value) is not hint or (hint is int and not _counts(value)):
        wanted = "True or False" if hint is bool else f"an integer of 1 to {_LARGEST}"
        raise UsageError(f"{what} is {value!r:.80}: expected {wanted}")
    return value


def _counts(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST
