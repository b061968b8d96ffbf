"""What a Linen module may be called with: whether it takes `train`, and one clear line for images that do not fit."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError, ScopeParamShapeError

from jaxcnn.errors import InputTooSmall, UsageError
from jaxcnn.layers import initialisers
from jaxcnn.parts import told


def takes_train(module: nn.Module) -> bool:
    """Return whether a call of the module has a parameter `train`, by name: `**kwargs` may be anybody's."""
    return "train" in call_parameters(type(module).__call__)


@cache
def call_parameters(call: Callable) -> frozenset[str]:
    """Return the names of a function's parameters, through what Flax and others wrap it in."""
    return frozenset(inspect.signature(call).parameters)


def check_images(images: Any) -> None:
    """Refuse, with a UsageError, what is no array of floats [batch, height, width, channels]."""
    if not hasattr(images, "shape") or not hasattr(images, "dtype"):
        raise UsageError(f"images are a {type(images).__name__}: expected an array [batch, height, width, channels]")
    if len(images.shape) != 4:
        raise UsageError(f"images have shape {images.shape}: expected [batch, height, width, channels]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UsageError(f"images are of type {images.dtype}: expected floats, normalised as for training")


@contextlib.contextmanager
def input_errors(model: nn.Module, images: Any, *args, variables: Any = None, **kwargs) -> Iterator[None]:
    """Turn errors within that are the fault of images, or of a missing key, into one clear line each.

    Args:
      model: what is called.
      images: with what; only the shape is read, and only of images [batch, height, width, channels].
      *args: further arguments of the call.
      variables: with what, too, where they exist.
      **kwargs: further arguments of the call, or of Flax's `apply`.
    """
    shape: tuple[int, ...] = getattr(images, "shape", ())
    try:
        yield
    except InputTooSmall as error:
        of_flax = ("rngs", "mutable", "capture_intermediates")
        call = {name: value for name, value in kwargs.items() if name not in of_flax}
        smallest = _smallest_side(model, shape[3], *args, **call) if len(shape) == 4 else None
        if smallest is None:
            raise
        height, width = shape[1:3]
        needs = f"{type(model).__name__} needs at least {smallest}x{smallest}"
        raise UsageError(f"images of {height}x{width}: this {needs}") from error
    except InvalidRngError as error:
        if "dropout" not in str(error):
            raise
        otherwise = "train=False" if takes_train(model) else "a call with a parameter 'train'"
        message = f'{type(model).__name__} drops units at random: it needs rngs={{"dropout": key}}, or {otherwise}'
        raise UsageError(message) from error
    except ScopeParamShapeError as error:
        channels = _channels_of(model, variables, images, *args, **kwargs) if len(shape) == 4 else None
        if channels is None:
            raise
        message = f"images have {shape[3]} channels: the variables are made for {channels}"
        raise UsageError(message) from error


@contextlib.contextmanager
def own_errors(model: nn.Module, *args: Any) -> Iterator[None]:
    """Turn whatever a user's own module raises for such arguments into one line that says where."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UsageError) or type(model).__module__.startswith("jaxcnn."):
            raise
        shapes = ", ".join(f"{leaf.dtype}{[*leaf.shape]}" for leaf in jax.tree.leaves(args))
        raise UsageError(f"{type(model).__name__} cannot be called on {shapes}: {told(error)}") from error


def _smallest_side(model: nn.Module, channels: int, *args, **kwargs) -> int | None:
    """Return the smallest side of square images that the model admits, by tracing it for some; None: none found."""

    def admits(side: int) -> bool:
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
        images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
        try:
            with initialisers.recording():
                jax.eval_shape(lambda x: nn.Module.init(model, keys, x, *args, **kwargs), images)
        except Exception:  # of a layer from elsewhere, which may raise anything
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


def _channels_of(model: nn.Module, variables: Any, images: Any, *args, **kwargs) -> int | None:
    """Return the channels that fit the variables, found among their kernels' by tracing; None: none do."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    kernels = [leaf for leaf in jax.tree.leaves(shapes["params"]) if len(leaf.shape) == 4]
    for channels in sorted({kernel.shape[-2] for kernel in kernels} - {images.shape[3]}):
        other = jax.ShapeDtypeStruct((*images.shape[:3], channels), images.dtype)
        with contextlib.suppress(ScopeParamShapeError, UsageError):
            jax.eval_shape(lambda v, x: nn.Module.apply(model, v, x, *args, **kwargs), shapes, other)
            return channels
    return None
