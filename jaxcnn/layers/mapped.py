"""How layers learn that they see one device's rows of a batch that is split over a mapped axis."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class _Axes(NamedTuple):
    batch: str | None
    norm: str | None


_WHOLE_BATCH = _Axes(None, None)
_axes: ContextVar[_Axes] = ContextVar("axes", default=_WHOLE_BATCH)


def batch_axis() -> str | None:
    """Return the mapped axis that the batch is split over; None: layers see all of it."""
    return _axes.get().batch


def norm_axis() -> str | None:
    """Return the mapped axis that BatchNorm averages its statistics over; None: it takes those of what it sees."""
    return _axes.get().norm


@contextlib.contextmanager
def mapped_over(axis_name: str | None, *, sync_batch_norm: bool = True) -> Iterator[None]:
    """Within, layers see one device's rows of a batch that is split over a mapped axis (`shard_map`, `pmap`).

    `Dropout` and `StochasticDepth` draw for the whole batch and take their rows, so that what is dropped does not
    depend on the number of devices; give all devices the same key. Where XLA fuses the two, only these rows are drawn.
    `BatchNorm` averages its statistics over the axis. With both, a network computes on many devices what it computes on
    one. Flax's own `nn.Dropout` and `nn.BatchNorm` (where its `axis_name` is None) do the same.

    Enter it inside the mapped function: it is read while that is traced. Initialising variables takes no notice of it.

        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

        @jax.jit
        @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data"), P()), out_specs=P(), check_vma=False)
        def gradients(variables, batch, key):
            def loss(params):
                with mapped_over("data"):
                    logits, updates = model.apply(
                        {**variables, "params": params}, batch["image"], train=True,
                        mutable=["batch_stats"], rngs={"dropout": key},
                    )
                return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), updates

            (value, updates), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
            return jax.lax.pmean((value, grads), "data"), updates

    The backward pass needs no context, and gradients are left alone: they are the caller's to average.

    Args:
      axis_name: the mapped axis, in the order of whose devices the rows lie; None: there is none, as outside of any
        such context, which within another takes it back.
      sync_batch_norm: False: BatchNorm normalises each device's own part. What it adds to the running statistics
        is then another on each device, and the caller's to average.
    """
    axes = _Axes(axis_name, axis_name if sync_batch_norm else None)
    token = _axes.set(axes)
    try:
        with contextlib.nullcontext() if axis_name is None else nn.intercept_methods(_flax_layers(axes)):
            yield
    finally:
        _axes.reset(token)


def _flax_layers(axes: _Axes) -> Callable:
    """Return what calls Flax's BatchNorm and Dropout, which know no context, as ours behave within this one."""

    def call(next_call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        innermost = _axes.get() is axes
        if context.method_name == "__call__" and innermost and not module.is_initializing():
            if isinstance(module, nn.Dropout):
                return _as_rows(axes.batch, next_call, *args, **kwargs)
            if isinstance(module, nn.BatchNorm) and module.axis_name is None and axes.norm is not None:
                # Flax has copied the module for this one `apply`.
                object.__setattr__(module, "axis_name", axes.norm)
                try:
                    return next_call(*args, **kwargs)
                finally:
                    object.__setattr__(module, "axis_name", None)
        return next_call(*args, **kwargs)

    return call


def _as_rows(axis_name: Any, call: Callable, inputs: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """Return a device's rows of what `call` makes of a whole batch with `inputs` in these rows."""
    rows = len(inputs)
    start = rows * lax.axis_index(axis_name)
    whole = jnp.zeros((rows * lax.axis_size(axis_name), *inputs.shape[1:]), inputs.dtype)
    whole = lax.dynamic_update_slice_in_dim(whole, inputs, start, 0)
    return lax.dynamic_slice_in_dim(call(whole, *args, **kwargs), start, rows)
