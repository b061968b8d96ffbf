"""A peer's tensors -> our variables, or an error that names the tensors that do not fit."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from types import EllipsisType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxcnn.errors import UsageError
from jaxcnn.layers import initialisers
from jaxcnn.models import MODELS, Model, create
from jaxcnn.weights.peer import Names, Peer, Tensors

Shapes = dict[str, tuple[int, ...]]


def variables_of(
    peer: Peer,
    tensors: Tensors,
    num_classes: int | EllipsisType | None,
    key: jax.Array,
    channels: int | None = None,
    /,
    **options: Any,
) -> tuple[Model, dict[str, Any]]:
    """Return the model and its variables with the peer's tensors in them.

    Args:
        peer: a row of `PEERS`.
        tensors: by the peer's names.
        num_classes: other than the file's, the head is initialised; None: no head; left out: the file's.
        key: of what is initialised.
        channels: of the images; None: as the model was published.
        **options: of the model, beyond the peer's own. `aux_heads` is as in the file where it is left out; False
            drops the file's, True initialises those that it has not.

    Raises:
        UsageError: names tensors that are missing, left over or of another shape.
    """
    options = {**peer.options, **options}
    if peer.names.prepare is not None:
        tensors = peer.names.prepare(tensors)
    wanted_options = options
    if peer.aux:
        options = options | {"aux_heads": any(name.startswith(peer.aux) for name in tensors)}
        wanted_options = options | wanted_options
    published, images = MODELS[peer.model].num_classes, images_of(peer.model, channels)
    shapes = shapes_of(create(peer.model, num_classes=published, **options), images)
    wider = shapes_of(create(peer.model, num_classes=published + 1, **options), images)
    # Whatever grows with the classes is the head; it may hold another number in this file.
    head = {path: wider[path] for path, shape in shapes.items() if wider[path] != shape}
    in_file = _classes_in_file(peer, tensors, head) or published
    for path, shape in head.items():
        shapes[path] = tuple(in_file if size == published + 1 else size for size in shape)
    headless = not any(peer.names.peer_name(_inside(path)) in tensors for path in head)
    if headless and num_classes is not ...:  # a backbone alone will do
        shapes = {path: shape for path, shape in shapes.items() if path not in head}
    values = _fit(peer, tensors, shapes)

    classes = in_file if num_classes is ... else num_classes
    if classes != in_file:
        values = {path: value for path, value in values.items() if path not in head}
    model = create(peer.model, num_classes=classes, **wanted_options)
    if classes == in_file and not headless and wanted_options == options:
        return model, _nested(values)
    wanted = traverse_util.flatten_dict(model.init(key, images), sep="/")
    return model, _nested({path: values.get(path, value) for path, value in wanted.items()})


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.unflatten_dict({path: jnp.asarray(value) for path, value in flat.items()}, sep="/")


def images_of(model_name: str, channels: int | None) -> jax.ShapeDtypeStruct:
    """Return one image of the published size; `channels` None: of the published number."""
    height, width, published = MODELS[model_name].input_shape
    return jax.ShapeDtypeStruct((1, height, width, channels or published), jnp.float32)


def shapes_of(model: Model, images: jax.ShapeDtypeStruct, calls: int | None = None) -> Shapes:
    """Return the shape of every variable by its path, collection included.

    Raises:
        UsageError: the model cannot be made with its options, or makes more than `calls` calls of layers.
    """
    made = 0

    def count(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal made
        made += 1
        if calls is not None and made > calls:
            raise UsageError(
                f"the options ask for a {type(model).__name__} of more layers than its file has tensors for"
            )
        return call(*args, **kwargs)

    try:
        with nn.intercept_methods(count), initialisers.recording():  # nothing is drawn
            variables = jax.eval_shape(partial(nn.Module.init, model), jax.random.key(0), images)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(f"no {type(model).__name__} can be made with these options ({why})") from error
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables, sep="/").items()}


def _classes_in_file(peer: Peer, tensors: Tensors, head: Mapping[str, Any]) -> int | None:
    """Return how many classes the file's head has, None where that tensor is missing."""
    for path in sorted(head):
        if path.endswith("/bias"):
            found = tensors.get(peer.names.peer_name(_inside(path)))
            if found is not None and found.ndim == 1 and found.size:
                return found.size
    return None


def _inside(path: str) -> str:
    """Return the path without its collection."""
    return path.partition("/")[2]


def _fit(peer: Peer, tensors: Tensors, shapes: Shapes) -> dict[str, np.ndarray]:
    """Return each variable's value, or raise the error that lists what does not fit."""
    left = {name for name in tensors if not peer.names.ignores(name)}
    values, missing, wrong = {}, [], []
    for path, shape in shapes.items():
        name = peer.names.peer_name(_inside(path))
        if name not in left:
            missing.append(name)
            continue
        left.remove(name)
        value = _in_our_layout(np.asarray(tensors[name]), path, shape, peer.names)
        if value is None:
            wrong.append(f"{name} is {_by(tensors[name].shape)}, {_inside(path)} needs {_by(shape)}")
        else:
            values[path] = value.astype(np.float32)
    problems = [
        f"{len(names)} {what}: {listed(names)}"
        for what, names in (("missing", missing), ("left over", sorted(left)), ("of the wrong shape", wrong))
        if names
    ]
    if problems:
        raise UsageError(f"the tensors are not those of {peer.model}: " + ". ".join(problems))
    return values


def listed(names: Sequence[str]) -> str:
    """Return the first of a list of names, which may be long and many, for a message."""
    return "; ".join(f"{name:.120}" for name in names[:8]) + "; ..." * (len(names) > 8)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _in_our_layout(value: np.ndarray, path: str, shape: tuple[int, ...], names: Names) -> np.ndarray | None:
    """Return the peer's tensor as our variable of `shape`, None where it cannot be one.

    Convolutions turn from [out, in, *window] into [*window, in, out] (Keras has them so already), fully
    connected layers from [out, in] into [in, out]; a fully connected layer may come as a 1x1 convolution and
    the reverse, a vector with further dimensions of size 1.
    """
    if path.endswith("/kernel") and value.ndim >= 2:
        value = names.kernel_layout(value)
        channels = names.flattened.get(_inside(path).removesuffix("/kernel"))
        if channels is not None and len(value) == math.prod(shape[:-1]) and len(value) % channels == 0:
            # Flattened channels first; the maps are square.
            side = math.isqrt(len(value) // channels)
            value = value.reshape(channels, side, side, -1).transpose(1, 2, 0, 3)
        elif _squeezed(value.shape) != _squeezed(shape):
            return None
        return value.reshape(shape) if value.size == math.prod(shape) else None
    return value.reshape(shape) if _squeezed(value.shape) == _squeezed(shape) else None


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
