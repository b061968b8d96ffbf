"""Variables that know which model and which images they are for, and the files they are written to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxcnn.errors import UsageError
from jaxcnn.files import parse_json, write_atomically
from jaxcnn.models import MODELS, checked_options, create
from jaxcnn.models import options as options_of
from jaxcnn.parts import is_reference
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.load import Shapes, images_of, listed, shapes_of


@jax.tree_util.register_pytree_with_keys_class
class Variables(dict):
    """A model's variables, {"params": ..., "batch_stats": ...}, and what else makes a prediction of them.

    A dict like any other, and a pytree whose leaves are the dict's; jit, grad, vmap and jax.tree.map keep the rest.

    Attributes:
        model: name of the model in `MODELS`.
        options: the model's, where they differ from its defaults.
        preprocessing: of the images; None where it is not known.
        class_names: of the logits; None where they are not known.
    """

    def __init__(
        self,
        collections: Mapping[str, Any],
        *,
        model: str,
        options: Mapping[str, Any],
        preprocessing: Preprocessing | None = None,
        class_names: Sequence[str] | None = None,
    ):
        """Take the collections as they are."""
        super().__init__(collections)
        self.model, self.options, self.preprocessing = model, dict(options), preprocessing
        self.class_names = None if class_names is None else tuple(class_names)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Any]:
        """Return the collections, and what belongs to the tree's structure."""
        names = tuple(sorted(self))
        about = (names, self.model, tuple(sorted(self.options.items())), self.preprocessing, self.class_names)
        return [(jax.tree_util.DictKey(name), self[name]) for name in names], about

    @classmethod
    def tree_unflatten(cls, about: Any, children: Sequence[Any]) -> "Variables":
        """Return what `tree_flatten_with_keys` took apart."""
        names, model, options, preprocessing, class_names = about
        return cls(
            dict(zip(names, children, strict=True)),
            model=model,
            options=dict(options),
            preprocessing=preprocessing,
            class_names=class_names,
        )


def save(
    path: str | Path,
    variables: Mapping[str, Any],
    *,
    model: str | None = None,
    options: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | EllipsisType | None = ...,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write variables as safetensors, whole or not at all; `load("jaxcnn", path)` reads them.

    Tensors are called as their path, "params/stage1/block1/conv1/kernel". The metadata are `format` ("jaxcnn"),
    `model`, and as JSON `options`, `preprocessing` and, where they are known, `class_names`.

    Args:
        path: of the file.
        variables: of a model. Those of `load` know the rest, which is left out then.
        model: name of the model.
        options: the model's; None: its defaults.
        preprocessing: of the images; None: they come from no image files, as those of two channels do.
        class_names: of the logits, in their order.

    Raises:
        UsageError: the model or the preprocessing is not known, or what is to be written are not the model's variables.
    """
    from safetensors.numpy import save as to_bytes

    if isinstance(variables, Variables):
        model, options = model or variables.model, variables.options if options is None else options
        class_names = class_names or variables.class_names
        if preprocessing is ... and variables.preprocessing is not None:
            preprocessing = variables.preprocessing
    missing = ["model="] * (model is None) + ["preprocessing="] * (preprocessing is ...)
    if model is None or isinstance(preprocessing, EllipsisType):
        raise UsageError(f"the variables do not know what they are for: give save {' and '.join(missing)} too")
    own = is_reference(model)
    if not own:
        checked_options(model, options or {})
    tensors = {}
    for name, value in traverse_util.flatten_dict(dict(variables), sep="/").items():
        array = np.asarray(value)
        if not jax.dtypes.issubdtype(array.dtype, np.number):
            raise UsageError(f"{name} is no array of numbers: found {type(value).__name__}")
        tensors[name] = np.ascontiguousarray(array).reshape(array.shape)
    if not tensors:
        raise UsageError("there are no variables to write")
    shapes = {name: array.shape for name, array in tensors.items()}
    _, wrong = (None, []) if own else fitting_channels(model, options or {}, shapes)
    if wrong:
        raise UsageError(f"these are not the variables of {model}: {len(wrong)} are missing or differ: {listed(wrong)}")
    metadata = {
        "format": "jaxcnn",
        "model": model,
        "options": json.dumps(dict(options or {})),
        "preprocessing": "null" if preprocessing is None else preprocessing.to_json(),
    }
    if class_names is not None:
        metadata["class_names"] = json.dumps(list(class_names))
    write_atomically(Path(path), to_bytes(tensors, metadata))


@dataclass(frozen=True)
class Facts:
    """What a file of `save` says of its tensors."""

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    class_names: Sequence[str] | None = None


def facts(metadata: Mapping[str, str]) -> Facts | None:
    """Return what the metadata of a safetensors file say, None where `save` did not write it.

    Raises:
        UsageError: they are damaged.
    """
    if metadata.get("format") != "jaxcnn":
        return None
    if missing := [name for name in ("model", "options", "preprocessing") if name not in metadata]:
        raise UsageError(f"the metadata lack {missing[0]}")
    model, given = metadata["model"], metadata["preprocessing"]
    options = parse_json(metadata["options"], "what the metadata have as options")
    preprocessing = None if given == "null" else Preprocessing.from_json(given)
    class_names = None
    if "class_names" in metadata:
        class_names = parse_json(metadata["class_names"], "what the metadata have as class names", list)
        if not all(isinstance(name, str) for name in class_names):
            raise UsageError("what the metadata have as class names holds other values than texts")
    if not is_reference(model):
        options = checked_options(model, options)
    return Facts(model, options, preprocessing, class_names)


def fitting_channels(
    model: str, options: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, list[str]]:
    """Return the channels of images that variables of these shapes are for, and which of them fit none.

    The head and auxiliary heads are not looked at: they may have any number of classes, or not be there.

    Raises:
        UsageError: the options ask for many more layers than there are variables.
    """
    no_aux = {"aux_heads": False} if "aux_heads" in options_of(model) else {}
    backbone = create(model, num_classes=None, **{**options, **no_aux})
    published = MODELS[model].input_shape[2]

    def expected(channels: int) -> Shapes:
        return shapes_of(backbone, images_of(model, channels), calls=100 + 10 * len(shapes))

    def wrong(expected: Shapes) -> list[str]:
        return [path for path, shape in expected.items() if shapes.get(path) != shape]

    as_published = expected(published)
    differ = wrong(as_published)
    if not 1 <= len(differ) <= 8:  # The channels are known to the first layers alone.
        return published, differ
    # Where a shape grows with the channels, that in the file says how many there are.
    more = expected(published + 1)
    for path in differ:
        of_one, found = as_published[path], shapes.get(path, ())
        if of_one != more[path] and len(found) == len(of_one):
            channels = next(size for size, a, b in zip(found, of_one, more[path], strict=True) if a != b)
            return channels, wrong(expected(channels))
    return published, differ
