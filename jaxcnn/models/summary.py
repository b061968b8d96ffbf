"""What a model is made of: parameters, multiply-adds and receptive fields, per layer, stage and model.

All of it is read from one trace of the model over shapes; nothing is computed. A MAC is one multiply-add of a
convolution or fully connected layer, for one image (papers and torchvision say "FLOPs"); parameters are the
trainable ones, so BatchNorm counts scale and bias and not its running statistics. A model made with auxiliary heads
counts with them, as it is trained: `create(name, aux_heads=False)` has the numbers of its evaluation.
"""

import contextlib
import gc
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import flax.linen as nn

from jaxcnn.errors import unknown
from jaxcnn.models import FAMILIES, ModelEntry, create
from jaxcnn.models.receptive_fields import Field, Shape
from jaxcnn.models.trace import Call, Known, added, trace


@dataclass(frozen=True)
class LayerRow:
    """One layer or stage of a model, for one image.

    `output_shape` leaves the batch out. `receptive_field` is in pixels of the first spatial dimension, through
    convolutions and max, average and sum pooling, along the widest path; it may exceed the image. It leaves out
    what depends on the whole image alone, such as the gates of squeeze and excitation; behind transposed
    convolutions it is the mean over the outputs, rounded; behind unshared weights and interpolations it is None.
    `activation_bytes` are those of all layers' outputs. What is not known of a layer from elsewhere is None.
    """

    path: str
    kind: str
    output_shape: Shape
    params: int
    macs: int | None
    receptive_field: int | None
    activation_bytes: int | None


@dataclass(frozen=True)
class ModelRow:
    """One line of `jaxcnn models`: the name with its published input size and number of classes.

    `receptive_field` is that of the last maps, before they are pooled globally or flattened (of the last stage's, where
    they are not, as in segmentation), as in `LayerRow`.
    """

    name: str
    family: str
    year: int
    paper: str
    input_shape: Shape
    num_classes: int
    params: int
    macs: int | None
    receptive_field: int | None


def summarize(model: nn.Module, input_shape: Shape) -> list[LayerRow]:
    """Return one row per layer (a module with parameters of its own), in the order of the calls.

    Args:
      model: any module that is called with images.
      input_shape: (height, width, channels) of the images.
    """
    return [_row(call.kind, call, [call]) for call in trace(model, input_shape) if call.is_layer]


def stage_rows(model: nn.Module, input_shape: Shape) -> list[LayerRow]:
    """Return one row per call of a top-level submodule (stem, stages, head), for images of `input_shape`.

    A model with parameters of its own has a row for these, too, with the path "".
    """
    calls = trace(model, input_shape)
    rows = [_row(call.kind, call, [call]) for call in calls if call.is_layer and not call.path]
    # A stage's call comes before those that it makes; there is none where only another of its methods is called.
    tops = [call.path.partition("/")[0] for call in calls]
    starts = [i for i, call in enumerate(calls) if tops[i] and (call.path == tops[i] or tops[i] != tops[i - 1])]
    for start, end in itertools.pairwise([*starts, len(calls)]):
        stage = calls[start] if calls[start].path == tops[start] else replace(calls[end - 1], path=tops[start])
        blocks = [call.kind for call in calls[start:end] if call.path.count("/") == 1]
        kind = f"{len(blocks)} x {blocks[0]}" if len(set(blocks)) == 1 else stage.kind
        rows.append(_row(kind, stage, [call for call in calls[start:end] if call.is_layer]))
    return rows


def _row(kind: str, call: Call, layers: list[Call]) -> LayerRow:
    """Return the row of a call that holds these layers."""
    return LayerRow(
        path=call.path,
        kind=kind,
        output_shape=call.output.shape[1:],
        params=sum(layer.params for layer in layers),
        macs=added(layer.macs for layer in layers),
        receptive_field=_pixels(call.field),
        activation_bytes=added(_bytes(layer) for layer in layers),
    )


def _bytes(call: Call) -> int | None:
    return None if call.times is None else call.times * call.output.size * call.output.dtype.itemsize


def _pixels(field: Field | None) -> int | None:
    return None if field is None else round(field.size)


def totals(model: nn.Module, input_shape: Shape, known: Known | None = None) -> tuple[int, int | None]:
    """Return (parameters, multiply-adds) for one image of `input_shape`; `known` as `trace` takes it."""
    return _totals(trace(model, input_shape, {} if known is None else known))


def _totals(calls: list[Call]) -> tuple[int, int | None]:
    return sum(call.params for call in calls), added(call.macs for call in calls)


def model_rows(family: str | None = None) -> list[ModelRow]:
    """Return one row per name in `MODELS`, or per name of one family.

    Raises:
      UsageError: for an unknown family.
    """
    if family is not None and family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    known: Known = {}
    with _no_garbage_collection():
        return [
            _model_row(name, home, entry, known)
            for home, entries in FAMILIES.items()
            for name, entry in entries.items()
            if family in (None, home)
        ]


def _model_row(name: str, family: str, entry: ModelEntry, known: Known) -> ModelRow:
    calls = trace(create(name), entry.input_shape, known)
    model = next(call for call in calls if not call.path)
    fields = [call.field for call in calls if call.is_stage and call.field is not None]
    last = model.last_maps if len(model.output.shape) == 2 else fields[-1] if fields else None
    row = (name, family, entry.year, entry.paper, entry.input_shape, entry.num_classes)
    return ModelRow(*row, *_totals(calls), _pixels(last))


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Traces make millions of objects that live on; looking through them again and again takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
