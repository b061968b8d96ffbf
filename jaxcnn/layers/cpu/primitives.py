"""JAX primitives of which the CPU, and where need be others, have a program of their own, and all others XLA's."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir


def platform_primitive(
    name: str, reference: Callable, own: Callable, batch: Callable, platforms: Sequence[str] = ("cpu",)
) -> Primitive:
    """Return a primitive that does what `reference` does.

    Programs for `platforms` do it by `own` where all sizes are known and none is zero. Both take arrays, and by name
    what is known when a program is traced. `batch` maps the primitive, its first argument, over an axis of its
    operands, as JAX's batchers do. Derivatives are for the caller to add.
    """
    primitive = Primitive(name)

    def abstract(*avals: Any, **static: Any) -> Any:
        plain = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
        out = jax.eval_shape(partial(reference, **static), *plain)
        return avals[0].update(shape=out.shape, dtype=out.dtype, weak_type=False)

    def where_sizes_are_known(*operands: jax.Array, **static: Any) -> jax.Array:
        known = all(isinstance(size, int) and size > 0 for x in operands for size in x.shape)
        return (own if known else reference)(*operands, **static)

    def call(*operands: jax.Array, **static: Any) -> jax.Array:
        with jax.disable_jit(False):  # one operation is compiled where none are compiled together, as lax's own
            return _compiled(primitive, **static)(*operands)

    primitive.def_impl(call)
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = partial(batch, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(reference, multiple_results=False))
    for platform in platforms:
        lowering = mlir.lower_fun(where_sizes_are_known, multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform=platform)
    return primitive


def alike_over_devices(*operands: jax.Array) -> tuple[jax.Array, ...]:
    """Return the operands, in a shard_map as what differs between devices if one of them does, as the result will."""
    varying = [jax.typeof(x).manual_axis_type.varying for x in operands]
    missing = [frozenset().union(*varying) - each for each in varying]
    return tuple(lax.pcast(x, tuple(m), to="varying") if m else x for x, m in zip(operands, missing, strict=True))


@cache
def _compiled(primitive: Primitive, **static: Any) -> Callable:
    """Return what a call outside of `jit` runs."""
    return jax.jit(partial(primitive.bind, **static))
