"""Receptive fields, carried through the operations of a traced program to the places that are marked in it.

A field is known of arrays [images, positions, ...], of which it describes the positions, and of [images, features],
whose features see the same. Operations that are known to keep to this are listed here; behind all others, such as a
sum along the positions, a transposition or a loop, it is not known, nor where such maps are added to known ones.
"""

from collections.abc import Callable, Hashable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Primitive, jaxprs_in_params
from jax.interpreters import batching

from jaxcnn.layers.geometry import window_extent

Shape = tuple[int, ...]


class Field(NamedTuple):
    """What one output sees along the first spatial dimension, in pixels of the images."""

    size: int | Fraction
    jump: int | Fraction
    """Pixels between neighbouring outputs: the total stride."""

    def through(self, kernel: int, stride: int = 1, dilation: int = 1, up: int = 1) -> "Field":
        """Return the field behind a window; `up` is the stride of a transposed convolution.

        Outputs of a transposed convolution see more or fewer inputs, in turn: the size is the mean over them.
        """
        more = max(Fraction(window_extent(kernel, dilation), up) - 1, Fraction(0))
        return self.stepped(more, Fraction(stride, up))

    def stepped(self, more: int | Fraction, ratio: int | Fraction) -> "Field":
        """Return a field larger by `more` jumps, with `ratio` times the jump."""
        return Field(_plain(self.size + more * self.jump), _plain(self.jump * ratio))


def _plain(number: int | Fraction) -> int | Fraction:
    return number.numerator if number.denominator == 1 else number


# Passes an array on and marks its place in the jaxpr, within so many lanes of `jax.vmap`. With `like`, which has a
# `step` as `Field.stepped` takes it, it stands for all that a module does to the array.
mark = Primitive("mark")
mark.def_abstract_eval(lambda x, *, place, like, aval, lanes: jax.core.ShapedArray(aval.shape, aval.dtype))

# The place, in what is seen, of the maps that are pooled globally or flattened last.
LAST_MAPS = "last maps"


def marked(place: Hashable, x: jax.Array, like: Any = None, output: jax.ShapeDtypeStruct | None = None) -> jax.Array:
    """Return `x`, with a mark on it; with `like` an array of `output`'s shape and type."""
    aval = jax.ShapeDtypeStruct(x.shape, x.dtype) if output is None else output
    return mark.bind(x, place=place, like=like, aval=aval, lanes=1)


def _mark_lanes(args: tuple, dims: tuple, *, place: Hashable, like: Any, aval: Any, lanes: int) -> tuple:
    x = jnp.moveaxis(args[0], dims[0], 0)
    aval = jax.ShapeDtypeStruct((len(x), *aval.shape), aval.dtype)
    return mark.bind(x, place=place, like=like, aval=aval, lanes=lanes * len(x)), 0


batching.primitive_batchers[mark] = _mark_lanes

# What is done to each number by itself, or beside others of the same place.
_ELEMENTWISE = frozenset(
    """
    abs add add_any and atan2 cbrt ceil clamp convert_element_type copy copy_p cos cosh div eq erf erf_inv erfc exp exp2
    expm1 floor ge gt imag integer_pow is_finite le log log1p logistic lt max min mul materialise ne neg nextafter not
    or pow real reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor
    """.split()  # noqa: SIM905
)
_REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin")


# Of maps that nobody can tell about. None is the field of what does not depend on the image, or on all of it alike.
UNKNOWN = Field(0, 0)


def follow(jaxpr: Jaxpr, inputs: list[Field | None], see: Callable) -> list[Field | None]:
    """Carry receptive fields through the operations, call `see` with those at marks, and return the outputs'."""
    known: dict[Any, Field | None] = dict(zip(jaxpr.invars, inputs, strict=True))

    def look(atoms) -> list[Field | None]:
        return [None if isinstance(atom, Literal) else known.get(atom) for atom in atoms]

    def show(place: Hashable, field: Field | None) -> None:
        see(place, None if field is UNKNOWN else field)

    for eqn in jaxpr.eqns:
        seen = look(eqn.invars)
        if not any(field is not None for field in seen):
            continue
        name, inner = eqn.primitive.name, list(jaxprs_in_params(eqn.params))
        is_call = len(inner) == 1 and not name.startswith(("reduce", "scan", "while", "cond"))
        if is_call and len(inner[0].invars) == len(seen):
            out = follow(inner[0], seen, see)
        elif name == "optimization_barrier":
            out = seen
        else:
            shapes: list[Shape] = [getattr(atom.aval, "shape", ()) for atom in (*eqn.invars, eqn.outvars[0])]
            operand = _decisive(seen, shapes)
            if len(shapes[operand]) > 2 == len(shapes[-1]):
                show(LAST_MAPS, seen[operand])
            out = [_through(eqn, seen, shapes, operand)] * len(eqn.outvars)
        known.update(zip(eqn.outvars, out, strict=True))
        if eqn.primitive is mark:
            show(eqn.params["place"], out[0])
    return look(jaxpr.outvars)


def _decisive(seen: list[Field | None], shapes: list[Shape]) -> int:
    """Return which operand has the field to go on with: maps before features, the unknown before the widest."""
    fields = [(len(shape) > 2, field is UNKNOWN, field) for shape, field in zip(shapes, seen, strict=False) if field]
    return seen.index(max(fields)[2])


def _through(eqn: JaxprEqn, seen: list[Field | None], shapes: list[Shape], operand: int) -> Field | None:
    """Return the field behind one operation, given those of its operands, and the shapes of these and the output."""
    p, name, field = eqn.params, eqn.primitive.name, seen[operand]
    x, y = shapes[operand], shapes[-1]
    assert field is not None
    if len(x) <= 2:
        # Gates and means of the whole image leave the maps that they go into as they are.
        return field if len(y) <= 2 else None
    if field is UNKNOWN or name in _ELEMENTWISE:
        return field
    if eqn.primitive is mark:
        like = p["like"]
        return field if like is None else UNKNOWN if like.step is None else field.stepped(*like.step)
    if sum(other is not None for other in seen) > 1 and name not in ("concatenate", "stack"):
        return UNKNOWN  # Such as attention: what is seen decides what is looked at.
    window = _window(name, p, shapes) if operand == 0 else None
    if window is not None:
        return field.through(*window)
    if len(y) == 2:  # Global pooling, or maps laid out as features.
        return field.through(x[1]) if _takes_all_positions(name, p, x, y) else UNKNOWN
    return field if _keeps_positions(name, p, shapes, operand) else UNKNOWN


def _window(name: str, p: dict[str, Any], shapes: list[Shape]) -> tuple[int, ...] | None:
    """Return how an operation slides a window along the positions, as `Field.through` takes it; None: it does not."""
    match name:
        case "convolve":
            where = p["geometry"]
            return where.window[0], where.strides[0], where.dilation[0]
        case "convolve_input_gradient":  # A transposed convolution.
            where = p["geometry"]
            return where.window[0], 1, where.dilation[0], where.strides[0]
        case "max_pool":
            return p["windows"].window[0], p["windows"].strides[0]
        case "conv_general_dilated":  # Of a layer that is not ours.
            numbers = p["dimension_numbers"]
            is_first = all((spec[0], spec[2]) == (0, 1) for spec in (numbers.lhs_spec, numbers.out_spec))
            if not is_first or p["batch_group_count"] > 1:
                return None
            kernel = shapes[1][numbers.rhs_spec[2]]
            return kernel, p["window_strides"][0], p["rhs_dilation"][0], p["lhs_dilation"][0]
        case _ if name.startswith("reduce_window") and p["base_dilation"][1] == 1:
            return p["window_dimensions"][1], p["window_strides"][1], p["window_dilation"][1]
        case "slice":
            return 1, 1 if p["strides"] is None else p["strides"][1]
    return None


def _takes_all_positions(name: str, p: dict[str, Any], x: Shape, y: Shape) -> bool:
    """Return whether an operation makes features of maps."""
    if name == "reshape":
        return y[0] == x[0]
    return name in _REDUCTIONS and 0 not in p["axes"] and 1 in p["axes"]


def _keeps_positions(name: str, p: dict[str, Any], shapes: list[Shape], operand: int) -> bool:
    """Return whether an operation without a window leaves each position where it is."""
    x, y = shapes[operand], shapes[-1]
    same = y[:2] == x[:2]
    match name:
        case "reshape" | "squeeze" | "split":
            return same
        case "broadcast_in_dim":
            # The last: a dimension of size 1 in front, which a mean over one position has lost.
            return (same and p["broadcast_dimensions"][:2] == (0, 1)) or p["broadcast_dimensions"][:2] == (0, 2)
        case "transpose":
            return p["permutation"][:2] == (0, 1)
        case "rev":
            return min(p["dimensions"]) > 1
        case "pad":
            return p["padding_config"][0] == (0, 0, 0) and p["padding_config"][1][2] == 0
        case "concatenate":
            return p["dimension"] > 1 or (p["dimension"] == 1 and all(shape[1] == 1 for shape in shapes[:-1]))
        case "stack":
            return p["axis"] > 0
        case "gather":
            numbers, sizes = p["dimension_numbers"], p["slice_sizes"]
            return same and 1 not in numbers.start_index_map and sizes[1] == x[1]
        case "dot_general":
            contracted, batch = (sides[operand] for sides in p["dimension_numbers"])
            return operand == 0 and tuple(contracted) == (len(x) - 1,) and not batch
    if name in _REDUCTIONS:
        return min(p["axes"]) > 1 or (tuple(p["axes"]) == (1,) and x[1] == 1)
    return False
