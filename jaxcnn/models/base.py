"""What every model shares: parameters from shapes alone, stages by name, one clear line for images that do not fit."""

import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError, ScopeParamShapeError

from jaxcnn.errors import InputTooSmall, UsageError
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
        from jaxcnn.models.trace import trace  # which is about models, too

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
        key = rngs["params"] if isinstance(rngs, Mapping) else rngs
        plan: list[tuple[jax.tree_util.KeyPath, Any]] = []

        def trace(images):
            variables = nn.Module.init(self, jax.random.key(0), images, **kwargs)
            for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
                plan.append((path, record.get(id(leaf), (None, None))[0]))
            return variables

        with input_errors(self, images, **kwargs), initialisers.recording() as record:
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


@dataclass(frozen=True)
class ModelEntry:
    """A row of a table of models: what makes the model, where it comes from, and the images it was made for."""

    factory: Callable[..., Model]
    paper: str
    year: int
    input_shape: tuple[int, int, int]
    num_classes: int


@contextlib.contextmanager
def input_errors(model: Model, images: Any, *args, variables: Any = None, **kwargs) -> Iterator[None]:
    """Check the images of a call, and turn errors within that are the images' fault into one clear line each.

    Args:
      model: what is called.
      images: with what; only shape and dtype are read.
      *args: further arguments of the call.
      variables: with what, too, where they exist.
      **kwargs: further arguments of the call, or of Flax's `apply`.
    """
    if not hasattr(images, "shape") or not hasattr(images, "dtype"):
        raise UsageError(f"images are a {type(images).__name__}: expected an array [batch, height, width, channels]")
    if len(images.shape) != 4:
        raise UsageError(f"images have shape {images.shape}: expected [batch, height, width, channels]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UsageError(f"images are of type {images.dtype}: expected floats, normalised as for training")
    try:
        yield
    except InputTooSmall as error:
        of_flax = ("rngs", "mutable", "capture_intermediates")
        call = {name: value for name, value in kwargs.items() if name not in of_flax}
        smallest = _smallest_side(model, images.shape[3], *args, **call)
        if smallest is None:
            raise
        height, width = images.shape[1:3]
        needs = f"{type(model).__name__} needs at least {smallest}x{smallest}"
        raise UsageError(f"images of {height}x{width}: this {needs}") from error
    except InvalidRngError as error:
        if "dropout" not in str(error):
            raise
        message = 'train=True drops units at random: give apply rngs={"dropout": key}'
        raise UsageError(message) from error
    except ScopeParamShapeError as error:
        channels = _channels_of(model, variables, images, *args, **kwargs)
        if channels is None:
            raise
        message = f"images have {images.shape[3]} channels: the variables are made for {channels}"
        raise UsageError(message) from error


def _smallest_side(model: Model, channels: int, *args, **kwargs) -> int | None:
    """Return the smallest side of square images that the model admits, by tracing it for some; None: none found."""

    def admits(side: int) -> bool:
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
        images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
        try:
            with initialisers.recording():
                jax.eval_shape(lambda x: nn.Module.init(model, keys, x, *args, **kwargs), images)
        except UsageError:
            return False
        return True

    high = next((side for side in (2**n for n in range(13)) if admits(side)), None)
    if high is None:
        return None
    low = high // 2  # not admitted
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if admits(middle) else (middle, high)
    return high


def _channels_of(model: Model, variables: Any, images: Any, *args, **kwargs) -> int | None:
    """Return the channels that fit the variables, found among their kernels' by tracing; None: none do."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    kernels = [leaf for leaf in jax.tree.leaves(shapes["params"]) if len(leaf.shape) == 4]
    for channels in sorted({kernel.shape[-2] for kernel in kernels} - {images.shape[3]}):
        other = jax.ShapeDtypeStruct((*images.shape[:3], channels), images.dtype)
        with contextlib.suppress(ScopeParamShapeError, UsageError):
            jax.eval_shape(lambda v, x: nn.Module.apply(model, v, x, *args, **kwargs), shapes, other)
            return channels
    return None
