"""What every model shares: parameters from shapes alone."""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcnn.layers import initialisers


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


class Model(nn.Module):
    """A Linen module whose `init` traces for shapes and never runs or compiles the forward pass.

    Called as `model.apply(variables, images, train=False)` with normalised float images, NHWC; returns float32
    logits, or pooled features where `num_classes` is None.
    """

    @nn.nowrap
    def init(self, rngs: jax.Array | Mapping[str, jax.Array], images: Any, **kwargs) -> dict[str, Any]:  # type: ignore[override]
        """Return the initial variables for images of the given shape.

        Each parameter is drawn with the key folded with its own path, so it depends on nothing but (key, path):
        adding a layer leaves all others as they were.

        Args:
          rngs: a key, or a mapping with the key "params".
          images: array or `jax.ShapeDtypeStruct`; only shape and dtype are read.
          **kwargs: further arguments of the call, such as `train`.
        """
        key = rngs["params"] if isinstance(rngs, Mapping) else rngs
        plan: list[tuple[jax.tree_util.KeyPath, Any]] = []

        def trace(images):
            variables = nn.Module.init(self, jax.random.key(0), images, **kwargs)
            for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
                plan.append((path, record.get(id(leaf), (None, None))[0]))
            return variables

        with initialisers.recording() as record:
            shapes = jax.eval_shape(trace, images)
        if any(initializer is None for _, initializer in plan):
            # A layer from elsewhere, with initialisers of its own: these can only be run.
            return jax.jit(lambda key, images: nn.Module.init(self, key, images, **kwargs))(key, images)
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
