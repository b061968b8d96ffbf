"""Weights of other libraries, and files of our own: `load`, `save`, and the `preprocessing` of images for them."""

from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from jaxcnn.errors import UsageError, unknown
from jaxcnn.models import MODELS, build, create, options
from jaxcnn.parts import Finder, is_reference
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.load import images_of, listed, shapes_of, variables_of
from jaxcnn.weights.peer import Names, Peer, Tensors, keras_kernel
from jaxcnn.weights.peers import PEERS
from jaxcnn.weights.source import read
from jaxcnn.weights.variables import Facts, Variables, facts, fitting_channels, save

__all__ = ["PEERS", "Names", "Peer", "Preprocessing", "Variables", "load", "preprocessing", "save"]

# What torchvision calls the weights that a row of `PEERS` without a tag is for.
_TORCHVISION_TAG = "IMAGENET1K_V1"


def load(
    peer: str,
    source: str | Path | Mapping[str, Any],
    *,
    num_classes: int | EllipsisType | None = ...,
    key: jax.Array | None = None,
    finder: Finder | None = None,
    **model_options: Any,
) -> tuple[nn.Module, Variables]:
    """Return a model and its variables, with weights from a file or a dict in them.

    >>> model, variables = load("torchvision/resnet50", "resnet50.pth")  # doctest: +SKIP
    >>> logits = model.apply(variables, variables.preprocessing("image.jpg")[None])  # doctest: +SKIP

    Args:
        peer: a name in `PEERS`, such as "torchvision/resnet50", or with the tag of the weights where their images are
            prepared in another way, "torchvision/resnet50.IMAGENET1K_V2". "jaxcnn", or "jaxcnn/NAME" with the name of a
            model: a file of `save`.
        source: path of a .safetensors, .pth, .th, .pt, .h5 or .weights.h5 file, or arrays by the peer's names; see
            `jaxcnn.weights.source.read`.
        num_classes: other than the file's: the head is initialised; None: features, no head. Left out: the file's.
        key: of the head's initialisation; left out: key 0.
        finder: of the network, where a file of our own names one of a user's, such as nets.py:tiny; left out: it is
            looked for in the working folder alone, since to import a file is to run it.
        **model_options: of the model, beyond those of the peer, and its `dtype`.

    Raises:
        UsageError: there is no such peer or file, the file is damaged, or tensors are missing, left over or of the
            wrong shape.
    """
    own = peer == "jaxcnn" or peer.startswith("jaxcnn/")
    row, prepared = (None, None) if own else _row(peer)
    tensors, metadata = read(source)
    class_names, channels = None, None
    if row is None:
        about = _own_facts(peer, source, metadata)
        if is_reference(about.model):
            return _users(about, tensors, finder or Finder(installed=False), num_classes, model_options)
        shapes = {name: np.shape(value) for name, value in tensors.items()}
        channels, wrong = fitting_channels(about.model, {**about.options, **model_options}, shapes)
        if wrong:
            found = f"{len(wrong)} are missing or of another shape"
            raise UsageError(f"the tensors are not those of {about.model}: {found}: {listed(wrong)}")
        prepared, class_names = about.preprocessing, about.class_names if num_classes is ... else None
        row = _own_row(about)
        tensors = {name.partition("/")[2]: value for name, value in tensors.items()}
        if num_classes is ... and _headless(row, tensors, channels, model_options):
            num_classes = None
    key = jax.random.key(0) if key is None else key
    model, variables = variables_of(row, tensors, num_classes, key, channels, **model_options)
    plain = create(row.model)
    chosen = {name: getattr(model, name) for name in options(row.model) if getattr(model, name) != getattr(plain, name)}
    return model, Variables(variables, model=row.model, options=chosen, preprocessing=prepared, class_names=class_names)


def _users(
    about: Facts, tensors: Tensors, finder: Finder, num_classes: Any, model_options: Mapping[str, Any]
) -> tuple[nn.Module, Variables]:
    """Return a user's own network with the tensors of a file; there is no other head for it."""
    if num_classes is not ...:
        raise UsageError(f"num_classes={num_classes}: the weights of {about.model} come with their own head alone")
    model = build(finder.find(about.model), **{**about.options, **model_options})
    variables = traverse_util.unflatten_dict(dict(tensors), sep="/")
    prepared, names = about.preprocessing, about.class_names
    named = {"model": about.model, "options": about.options}
    return model, Variables(variables, preprocessing=prepared, class_names=names, **named)  # type: ignore[arg-type]


def preprocessing(peer: str) -> Preprocessing:
    """Return how images are prepared for a peer's weights, such as "torchvision/resnet50.IMAGENET1K_V2".

    Raises:
        UsageError: there is no such peer or tag.
    """
    return _row(peer)[1]


def _row(peer: str) -> tuple[Peer, Preprocessing]:
    if peer in PEERS:
        return PEERS[peer], PEERS[peer].preprocessing
    name, _, tag = peer.partition(".")
    if name not in PEERS:
        raise unknown("peer", peer, [*PEERS, "jaxcnn"])
    row = PEERS[name]
    tags = dict(row.tags)
    if name.startswith("torchvision/") and MODELS[row.model].num_classes == 1000:
        tags.setdefault(_TORCHVISION_TAG, row.preprocessing)
    if not tags:
        raise UsageError(f"unknown peer {peer!r}: {name} has no tags")
    if tag not in tags:
        raise unknown(f"tag of {name}", tag, tags)
    return row, tags[tag]


def _own_facts(peer: str, source: Any, metadata: Mapping[str, str]) -> Facts:
    """Return what a file of our own says, or what `peer` does where it is a dict without metadata."""
    wanted = peer.partition("/")[2]
    try:
        found = facts(metadata)
    except UsageError as error:
        raise UsageError(f"{source} is refused: {error}") from error
    if found is None:
        if not wanted:
            what = source if isinstance(source, str | Path) else "a dict"
            raise UsageError(f"{what} does not say which model it is for: expected a peer such as torchvision/resnet50")
        found = Facts(wanted)
    if wanted and wanted != found.model:
        raise UsageError(f"{source} holds weights of {found.model}, not of {wanted}")
    if not is_reference(found.model):
        options(found.model)  # refuses an unknown model
    return found


def _own_row(about: Facts) -> Peer:
    """Return the row of `PEERS` that a file of our own would have: our names, our layouts."""
    names = Names(((r"(.+)", "{0}"),), kernel_layout=keras_kernel, ignore=())
    return Peer(
        model=about.model,
        names=names,
        options=about.options,
        aux=("aux",) if "aux_heads" in options(about.model) else (),
        preprocessing=about.preprocessing or Preprocessing(),
    )


def _headless(row: Peer, tensors: Tensors, channels: int, model_options: Mapping[str, Any]) -> bool:
    """Return whether a file of our own has the features of a model alone."""
    images = images_of(row.model, channels)

    def names(num_classes: int | None) -> set[str]:
        model = create(row.model, num_classes=num_classes, **{**row.options, **model_options})
        return {path.partition("/")[2] for path in shapes_of(model, images)}

    return not (names(MODELS[row.model].num_classes) - names(None)) & set(tensors)
