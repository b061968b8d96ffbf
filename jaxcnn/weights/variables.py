"""Variables that know which model and which images they are for, and the files they are written to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxcnn.errors import UsageError
from jaxcnn.files import write_atomically
from jaxcnn.models import MODELS, checked_options, create
from jaxcnn.models import options as options_of
from jaxcnn.parts import is_reference
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.load import images_of, shapes_of


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
    preprocessing: Preprocessing | None = None,
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
        preprocessing: of the images.
        class_names: of the logits, in their order.

    Raises:
        UsageError: the model or the preprocessing is not known, or what is to be written are not the model's variables.
    """
    from safetensors.numpy import save as to_bytes

    if isinstance(variables, Variables):
        model, options = model or variables.model, variables.options if options is None else options
        preprocessing, class_names = preprocessing or variables.preprocessing, class_names or variables.class_names
    missing = [f"{name}=" for name, value in (("model", model), ("preprocessing", preprocessing)) if value is None]
    if model is None or preprocessing is None:
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
        raise UsageError(
            f"these are not the variables of {model}: {len(wrong)} are missing or differ: {'; '.join(wrong)}"
        )
    metadata = {
        "format": "jaxcnn",
        "model": model,
        "options": json.dumps(dict(options or {})),
        "preprocessing": preprocessing.to_json(),
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
    try:
        options, class_names = json.loads(metadata["options"]), json.loads(metadata.get("class_names", "null"))
        model, preprocessing = metadata["model"], Preprocessing.from_json(metadata["preprocessing"])
    except (KeyError, ValueError) as error:
        raise UsageError(f"the metadata of the file are damaged: {error}") from error
    if not isinstance(options, dict) or not isinstance(class_names, list | None):
        raise UsageError("the metadata of the file are damaged: expected options by name and a list of class names")
    if not is_reference(model):
        checked_options(model, options)
    return Facts(model, options, preprocessing, class_names)


def fitting_channels(
    model: str, options: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, list[str]]:
    """Return the channels of images that variables of these shapes are for, and which of them fit none.

    The head and auxiliary heads are not looked at: they may have any number of classes, or not be there.
    """
    no_aux = {"aux_heads": False} if "aux_heads" in options_of(model) else {}
    backbone = create(model, num_classes=None, **{**options, **no_aux})
    published = MODELS[model].input_shape[2]
    found: dict[int, list[str]] = {}
    for channels in dict.fromkeys((published, 3, 1)):
        expected = shapes_of(backbone, images_of(model, channels))
        found[channels] = [path for path, shape in expected.items() if shapes.get(path) != shape]
        if not found[channels]:
            break
    best = min(found, key=lambda channels: len(found[channels]))
    return best, found[best]
