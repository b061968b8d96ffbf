"""What a model is made of: parameters, multiply-adds and receptive fields, per layer, stage and model.

All of it is read from one trace of the model over shapes; nothing is computed. A MAC is one multiply-add of a
convolution or fully connected layer, for one image (papers and torchvision say "FLOPs"); parameters are the
trainable ones, so BatchNorm counts scale and bias and not its running statistics.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxprs_in_params

from jaxcnn.layers import ConvTranspose, LocallyConnected, ReceptiveField, initialisers, receptive_field
from jaxcnn.models import MODELS, Model, create

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerRow:
    """One layer or stage of a model, for one image.

    `output_shape` leaves the batch out. `receptive_field` is in pixels of the first spatial dimension,
    through convolutions and max, average and sum pooling, along the widest path; it may exceed the image,
    and is None behind transposed convolutions and unshared weights. `activation_bytes` are those of all
    layers' outputs.
    """

    path: str
    kind: str
    output_shape: Shape
    params: int
    macs: int
    receptive_field: int | None
    activation_bytes: int


@dataclass(frozen=True)
class ModelRow:
    """One line of `jaxcnn models`: the name with its published input size and number of classes."""

    name: str
    year: int
    paper: str
    input_shape: Shape
    num_classes: int
    params: int
    macs: int


def count_params(variables: Any) -> int:
    """Return the number of trainable parameters in `variables`, arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def count_macs(model: Model, input_shape: Shape) -> int:
    """Return the multiply-adds for one image of `input_shape` (height, width, channels)."""
    return totals(model, input_shape)[1]


def summarize(model: Model, input_shape: Shape) -> list[LayerRow]:
    """Return one row per layer (a module with parameters of its own), in the order of the calls.

    Args:
      model: any model.
      input_shape: (height, width, channels) of the images.
    """
    return [row for row, is_layer in _trace(model, input_shape) if is_layer]


def stage_rows(model: Model, input_shape: Shape) -> list[LayerRow]:
    """Return one row per top-level submodule (stem, stages, head), for images of `input_shape`."""
    calls = _trace(model, input_shape)
    rows = []
    for stage, _ in calls:
        if not stage.path or "/" in stage.path:
            continue
        layers = [row for row, is_layer in calls if is_layer and row.path.split("/")[0] == stage.path]
        blocks = [row.kind for row, _ in calls if row.path.rpartition("/")[0] == stage.path]
        alike = len(set(blocks)) == 1
        rows.append(
            dataclasses.replace(
                stage,
                kind=f"{len(blocks)} x {blocks[0]}" if alike else stage.kind,
                params=sum(row.params for row in layers),
                macs=sum(row.macs for row in layers),
                activation_bytes=sum(row.activation_bytes for row in layers),
            )
        )
    return rows


def model_rows() -> list[ModelRow]:
    """Return one row per name in `MODELS`."""
    return [
        ModelRow(
            name,
            entry.year,
            entry.paper,
            entry.input_shape,
            entry.num_classes,
            *totals(create(name), entry.input_shape),
        )
        for name, entry in MODELS.items()
    ]


def totals(model: Model, input_shape: Shape) -> tuple[int, int]:
    """Return (parameters, multiply-adds) for one image of `input_shape`.

    Of submodules with equal fields and inputs, as a stage's blocks, only the first is traced: ResNet-1202
    takes 0.2 s in place of 3 s.
    """
    params = macs = 0
    seen: dict[Hashable, tuple[jax.ShapeDtypeStruct, int, int]] = {}

    def count(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        nonlocal params, macs
        module = context.module
        if context.method_name != "__call__" or kwargs or len(args) != 1:
            return call(*args, **kwargs)
        fields = (getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name"))
        key = (type(module), *fields, args[0].shape, args[0].dtype)
        if key in seen:
            out, inner_params, inner_macs = seen[key]
            params, macs = params + inner_params, macs + inner_macs
            return jnp.zeros(out.shape, out.dtype)
        before = params, macs
        y = call(*args)
        own = _own(module, args[0], y)
        params, macs = params + own[0], macs + own[1]
        seen[key] = jax.ShapeDtypeStruct(y.shape, y.dtype), params - before[0], macs - before[1]
        return y

    _shapes(model, input_shape, count)
    return params, macs


def _shapes(model: Model, input_shape: Shape, interceptor: Callable) -> ClosedJaxpr:
    """Trace the model's call on one image with every submodule's call going through `interceptor`."""

    def call(images):
        return nn.Module.init_with_output(model, jax.random.key(0), images)[0]

    with initialisers.recording(), nn.intercept_methods(interceptor):
        return jax.make_jaxpr(call)(jax.ShapeDtypeStruct((1, *input_shape), jnp.float32))


def _own(module: nn.Module, x: jax.Array, y: jax.Array) -> tuple[int, int]:
    """Return (parameters, multiply-adds) of the module itself, without its submodules."""
    params = {k: v for k, v in module.variables.get("params", {}).items() if isinstance(v, jax.Array)}
    count = sum(v.size for v in params.values())
    if "kernel" not in params:
        return count, 0
    # Each weight of a kernel is used once per position of the output; of the input, where it is transposed;
    # and only once where each position has its own.
    positions = () if isinstance(module, LocallyConnected) else y.shape[1:-1]
    positions = x.shape[1:-1] if isinstance(module, ConvTranspose) else positions
    return count, params["kernel"].size * math.prod(positions)


def _trace(model: Model, input_shape: Shape) -> list[tuple[LayerRow, bool]]:
    """Return a row for every submodule called, containers before what they hold, and whether it is a layer.

    A container's numbers are its own, without those of what it holds.
    """
    rows: list[tuple[LayerRow, bool]] = []
    counted: set[str] = set()

    def note(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        module, place = context.module, len(rows)
        y = call(*args, **kwargs)
        path = "/".join(module.path)
        params, macs = _own(module, args[0], y)
        new = 0 if path in counted else params  # A module called twice has its parameters once.
        counted.add(path)
        row = LayerRow(path, type(module).__name__, y.shape[1:], new, macs, None, y[0].nbytes)
        rows.insert(place, (row, params > 0))
        return checkpoint_name(y, path)  # Names the value in the jaxpr, where the receptive field is read.

    jaxpr = _shapes(model, input_shape, note).jaxpr
    fields: dict[str, int] = {}
    _follow(jaxpr, [ReceptiveField(1, 1)], fields)
    return [(dataclasses.replace(row, receptive_field=fields.get(row.path)), is_layer) for row, is_layer in rows]


def _follow(jaxpr: Jaxpr, inputs: list[ReceptiveField | None], fields: dict[str, int]) -> list[ReceptiveField | None]:
    """Carry receptive fields through the operations, note those of named values, and return the outputs'."""
    known: dict[Any, ReceptiveField | None] = dict(zip(jaxpr.invars, inputs, strict=True))

    def look(atoms) -> list[ReceptiveField | None]:
        return [None if isinstance(atom, Literal) else known.get(atom) for atom in atoms]

    for eqn in jaxpr.eqns:
        seen = look(eqn.invars)
        inner = list(jaxprs_in_params(eqn.params))
        is_call = not eqn.primitive.name.startswith("reduce")  # Their jaxpr is the sum or product.
        if is_call and len(inner) == 1 and len(inner[0].invars) == len(seen):
            out = _follow(inner[0], seen, fields)
        else:
            widest = max((field for field in seen if field is not None), default=None)
            out = [widest and _through(eqn, widest)] * len(eqn.outvars)
        known.update(zip(eqn.outvars, out, strict=True))
        if eqn.primitive.name == "name" and out[0] is not None:
            fields[eqn.params["name"]] = out[0].size
    return look(jaxpr.outvars)


def _through(eqn: JaxprEqn, field: ReceptiveField) -> ReceptiveField | None:
    """Return the receptive field behind one operation, or None where it is not known."""
    p = eqn.params
    shapes: list[Any] = [getattr(atom.aval, "shape", ()) for atom in (*eqn.invars, *eqn.outvars)]
    if eqn.primitive.name == "conv_general_dilated":
        if p["lhs_dilation"][0] != 1:
            return None
        kernel = shapes[1][p["dimension_numbers"].rhs_spec[2]]
        window = kernel, p["window_strides"][0], p["rhs_dilation"][0]
    elif eqn.primitive.name.startswith("reduce_window"):
        window = p["window_dimensions"][1], p["window_strides"][1], p["window_dilation"][1]
    elif len(shapes[0]) > 2 == len(shapes[-1]):  # Global pooling, or maps laid out as features.
        window = shapes[0][1], 1, 1
    elif eqn.primitive.name == "dot_general" and any(p["dimension_numbers"][1]):
        return None  # Weights per position.
    else:
        return field
    step = receptive_field([window])
    return ReceptiveField(field.size + (step.size - 1) * field.jump, field.jump * step.jump)
