"""What every model shares: parameters from shapes alone, stages by name, and the rows of its family's table."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.layers import initialisers
from jaxcnn.models.signatures import check_images, input_errors
from jaxcnn.models.trace import trace


class WithAux(NamedTuple):
    """What a model with auxiliary heads returns while training.

    Attributes:
        logits: of the main head.
        aux: logits of the auxiliary heads, in the order of the network.
        weight: of each auxiliary loss beside the main one.
    """

    logits: jax.Array
    aux: tuple[jax.Array, ...]
    weight: float


class Stage(NamedTuple):
    """A top-level submodule that makes maps.

    Attributes:
        name: as `jaxcnn.features` takes it.
        strides: pixels of the image between neighbouring positions; None behind an interpolation.
        channels: of its output.
    """

    name: str
    strides: int | Fraction | None
    channels: int


class Model(nn.Module):
    """A Linen module whose `init` traces for shapes and never runs or compiles the forward pass.

    Called as `model.apply(variables, images, train=False)` with normalised float images, NHWC; returns float32
    logits, or pooled features where `num_classes` is None.
    """

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of images that the model admits, as `stages` is computed with."""
        return 224, 224, 3

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The top-level submodules that make maps, in the order of their calls, as traced; not auxiliary heads."""
        return tuple(
            Stage(call.path, call.field and call.field.jump, call.output.shape[-1])
            for call in trace(self, self.image_shape, known={})
            if call.is_stage
        )

    @nn.nowrap
    def apply(self, variables: Mapping[str, Any], *args, method: Any = None, **kwargs) -> Any:  # type: ignore[override]
        """Call the model as Flax does.

        Raises:
          UsageError: for images of the wrong rank or type, with other channels than the variables are made for, or
            too small for the architecture; names what it admits. Also for dropout without a key.
        """
        if method is not None or not args:
            return nn.Module.apply(self, variables, *args, method=method, **kwargs)
        images, *others = args
        check_images(images)
        with input_errors(self, images, *others, variables=variables, **kwargs):
            return nn.Module.apply(self, variables, images, *others, **kwargs)

    @nn.nowrap
    def init(self, rngs: jax.Array | Mapping[str, jax.Array], images: Any, **kwargs) -> dict[str, Any]:  # type: ignore[override]
        """Return the initial variables for images of the given shape.

        Each parameter is drawn with the key folded with its own path, so it depends on nothing but (key, path):
        adding a layer leaves all others as they were.

        Args:
          rngs: a key, or a mapping with the key "params".
          images: array or `jax.ShapeDtypeStruct`; only shape and dtype are read.
          **kwargs: further arguments of the call, such as `train`.

        Raises:
          UsageError: for images of the wrong rank or type, or too small for the architecture.
        """
        check_images(images)
        return initial_variables(self, rngs["params"] if isinstance(rngs, Mapping) else rngs, images, **kwargs)


def initial_variables(model: nn.Module, key: jax.Array, *args: Any, **kwargs) -> dict[str, Any]:
    """Return the variables of any module, as `Model.init` does; it may be called with more than images.

    Where a layer draws with other initialisers than ours, all are drawn as Flax's `init(key, *args)` draws them, by a
    compiled forward pass.
    """
    plan: list[tuple[jax.tree_util.KeyPath, Any]] = []

    def initialise(key, *args):
        rngs = {"params": key, "dropout": jax.random.fold_in(key, 1)}
        return nn.Module.init(model, rngs, *args, **kwargs)

    def trace_once(*args):
        variables = initialise(jax.random.key(0), *args)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
            plan.append((path, record.get(id(leaf), (None, None))[0]))
        return variables

    with input_errors(model, *args, **kwargs), initialisers.recording() as record:
        shapes = jax.eval_shape(trace_once, *args)
    if any(initializer is None for _, initializer in plan):
        return jax.jit(lambda key: initialise(key, *(jnp.zeros(x.shape, x.dtype) for x in args)))(key)
    leaves, treedef = jax.tree.flatten(shapes)
    values = [
        initializer(
            jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode())),
            leaf.shape,
            leaf.dtype,
        )
        for (path, initializer), leaf in zip(plan, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, values)


@dataclass(frozen=True)
class ModelEntry:
    """A row of a table of models: what makes the model, where it comes from, and the images it was made for."""

    factory: Callable[..., Model]
    paper: str
    year: int
    input_shape: tuple[int, int, int]
    num_classes: int
