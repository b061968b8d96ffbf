"""Any plain Linen module as a model: made of what the user has, initialised, and called, each in one way.

What trains, evaluates or looks into a model does so through `build`, `init` and `apply`, which ask little of it: a
`flax.linen.Module` that maps images to outputs, whose call takes `train` if it matters, and which keeps nothing but
parameters and `batch_stats`.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ModifyScopeVariableError

from jaxcnn.errors import UsageError, unknown
from jaxcnn.models.base import Model, initial_variables
from jaxcnn.models.signatures import call_parameters, input_errors, own_errors, takes_train

# What a call may be told in place of `train`, and would not be.
_OTHER_SWITCHES = ("training", "is_training", "deterministic")


def build(
    factory: Callable[..., Any] | nn.Module,
    /,
    *,
    num_classes: int | None = None,
    dtype: Any = None,
    axis_name: str | None = None,
    **options: Any,
) -> nn.Module:
    """Return the module that `factory` makes.

    Args:
      factory: a class of Linen modules, a function that returns one, a partial of either, or a module that is made
        already: it is returned as it is, but for fields of the next three names that are None in it.
      num_classes: outputs; passed where the factory takes it, as a field of the class or a parameter of the function.
        None: not passed.
      dtype: of the computation, a floating type or its name; likewise.
      axis_name: the mapped axis that the batch is split over; likewise. Only a layer that knows no `mapped_over` needs
        it, which those of ours and `nn.BatchNorm` and `nn.Dropout` do.
      **options: the model's own.

    Raises:
      UsageError: an option that the factory does not take, one that it needs and is not given, or no module.
    """
    settings = {
        "num_classes": None if num_classes is None else checked_num_classes(num_classes),
        "dtype": None if dtype is None else float_type(dtype),
        "axis_name": axis_name,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    if isinstance(factory, nn.Module):
        return _completed(factory, settings, options)
    parameters, takes_all, what = _parameters(factory), False, _name(factory)
    for parameter in list(parameters.values()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            takes_all |= parameter.kind is parameter.VAR_KEYWORD
            del parameters[parameter.name]
    own = [name for name in parameters if name not in ("num_classes", "dtype", "axis_name")]
    for option in options:
        if option not in parameters and not takes_all:
            raise unknown(f"option of {what}", option, own) if own else UsageError(f"{what} takes no option {option!r}")
    given = {name: value for name, value in settings.items() if name in parameters or takes_all} | options
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in given:
            raise UsageError(f"{what} needs {name!r}: expected it among the model's options")
    module = factory(**given)
    if not isinstance(module, nn.Module):
        raise UsageError(f"{what} makes {_described(module)}: expected a flax.linen.Module")
    return module


def init(model: nn.Module, key: jax.Array, *args: jax.Array | jax.ShapeDtypeStruct) -> dict[str, Any]:
    """Return a model's first variables: "params", and "batch_stats" where it keeps some.

    Parameters of layers of ours are functions of (key, path), drawn without running the model; with a layer from
    elsewhere, all are those of Flax's `model.init(key, *args)`, compiled.

    Args:
      model: any module.
      key: all else is folded in from it.
      *args: images, and what else the model takes, of which only shapes and dtypes are read.

    Raises:
      UsageError: images that the model does not admit, a model of the user's own that fails, or that keeps variables of
        another kind.
    """
    make = model.init if isinstance(model, Model) else partial(initial_variables, model)
    with own_errors(model, *args):
        variables = make(key, *args, **_switch(model, False))
    for collection in variables:
        if collection not in ("params", "batch_stats"):
            name = type(model).__name__
            raise UsageError(
                f"{name} keeps variables in {collection!r}: expected none but in 'params' and 'batch_stats'"
            )
    return {"params": {}, **variables}


def apply(
    model: nn.Module,
    variables: Mapping[str, Any],
    *args: Any,
    train: bool,
    key: jax.Array | None = None,
    collect: Sequence[str] = (),
) -> tuple[Any, dict[str, Any]]:
    """Return a model's outputs, and what a training step is to replace in `variables`. Pure.

    Args:
      model: any module; where its call has no parameter `train`, it is not told.
      variables: as `init` returns them.
      *args: images, and what else the model takes.
      train: whether it is trained: "batch_stats" are then updated and returned, where there are some.
      key: of dropout, while it is trained.
      collect: collections that its layers sow into, to be returned beside.

    Raises:
      UsageError: images that the model does not admit, dropout without a key, or a call that cannot be told whether
        it is for training.
    """
    kwargs: dict[str, Any] = _switch(model, train)
    mutable = [*collect, "batch_stats"] if train else [*collect]
    rngs = {"dropout": key} if train and key is not None else None
    try:
        with input_errors(model, *args, variables=variables, **kwargs):
            outputs, updates = model.apply(variables, *args, rngs=rngs, mutable=mutable, **kwargs)
    except ModifyScopeVariableError as error:
        if train:
            raise
        raise UsageError(f"{type(model).__name__} changes its batch_stats in evaluation: {_EXPECTED_TRAIN}") from error
    return outputs, dict(updates)


_EXPECTED_TRAIN = "expected a call with a parameter 'train', True while it is trained"


def _switch(model: nn.Module, train: bool) -> dict[str, bool]:
    """Return what tells a module's call whether it is trained."""
    if takes_train(model):
        return {"train": train}
    for other in _OTHER_SWITCHES:
        if train and other in call_parameters(type(model).__call__):
            raise UsageError(f"{type(model).__name__} has a call with {other!r}: {_EXPECTED_TRAIN}")
    return {}


def checked_num_classes(num_classes: Any) -> int:
    """Return a number of classes as an int.

    Raises:
      UsageError: it is no integer of at least 1.
    """
    if isinstance(num_classes, np.integer):
        num_classes = int(num_classes)
    if type(num_classes) is not int or num_classes < 1:
        raise UsageError(f"num_classes={num_classes!r}: expected an integer of at least 1, or None for features")
    return num_classes


def float_type(dtype: Any) -> Any:
    """Return `dtype`, or the type of that name, as a numpy dtype of floating kind.

    Raises:
      UsageError: it is none.
    """
    try:
        found = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise unknown("compute dtype", str(dtype), ("float32", "bfloat16", "float16", "float64"))
    return found


def _completed(module: nn.Module, settings: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    """Return a ready module with `settings` in its fields that are None."""
    if options:
        raise UsageError(f"{_described(module)} is made already: expected no options, found {', '.join(options)}")
    fields = {field.name for field in dataclasses.fields(module)}
    missing: dict[str, Any] = {n: v for n, v in settings.items() if n in fields and getattr(module, n) is None}
    return module.clone(**missing) if missing else module


def _parameters(factory: Any) -> dict[str, inspect.Parameter]:
    """Return what a factory takes, by name."""
    made_by = factory.func if isinstance(factory, partial) else factory
    if not callable(factory) or (isinstance(made_by, type) and not issubclass(made_by, nn.Module)):
        raise UsageError(
            f"{_described(factory)} is no model: expected a flax.linen.Module, its class, or a function of one"
        )
    parameters = dict(inspect.signature(factory).parameters)
    if isinstance(made_by, type):
        for flaxs in ("parent", "name"):
            parameters.pop(flaxs, None)
    return parameters


def _name(factory: Any) -> str:
    """Return what a factory is called."""
    made_by = factory.func if isinstance(factory, partial) else factory
    return getattr(made_by, "__name__", repr(made_by))


def _described(value: Any) -> str:
    """Return what a value is, in words."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    kind = value if isinstance(value, type) else type(value)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return f"the class {name}" if isinstance(value, type) else f"a {name}"
