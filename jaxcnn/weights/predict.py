"""The most probable classes of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn

from jaxcnn import backend
from jaxcnn.errors import UsageError
from jaxcnn.models import apply
from jaxcnn.weights.variables import Variables


@dataclass(frozen=True)
class Guess:
    """A class, and how probable it is."""

    index: int
    name: str
    probability: float


def predict(model: nn.Module, variables: Variables, images: Sequence[str | Path], top: int = 5) -> list[list[Guess]]:
    """Return the `top` most probable classes of each image, the best first.

    Args:
        model: a classifier.
        variables: as `load` returns them.
        images: paths.
        top: how many classes; all where there are fewer.

    Raises:
        UsageError: an image cannot be read, or the model is no classifier of images prepared in a known way.
    """
    if variables.preprocessing is None:
        raise UsageError("how images are prepared for these weights is not known: see jaxcnn.weights.save")
    forward = backend.jit(lambda variables, images: jax.nn.softmax(apply(model, variables, images, train=False)[0]))
    found = []
    for image in images:  # one by one: they are few, and one shape is compiled once
        pixels = variables.preprocessing(image)[None]
        probabilities = forward.eval_shape(variables, pixels)
        if getattr(model, "num_classes", 0) is None or probabilities.ndim != 2:
            raise UsageError(f"{variables.model} with these weights does not classify images: it has no such head")
        values = np.asarray(forward(variables, pixels)[0])
        if not np.isfinite(values).all():
            raise UsageError(f"{image} gives probabilities that are no finite numbers: the weights are not good")
        names = class_names(variables, len(values))
        best = np.argsort(-values, kind="stable")[:top]
        found.append([Guess(int(index), names[index], float(values[index])) for index in best])
    return found


def class_names(variables: Variables, num_classes: int) -> Sequence[str]:
    """Return the names of the classes: those of the file, of ImageNet where there are 1000, or "class 0", ..."""
    if variables.class_names is not None and len(variables.class_names) == num_classes:
        return variables.class_names
    if num_classes == 1000:
        return [name for _, name in imagenet_classes()]
    return [f"class {index}" for index in range(num_classes)]


def imagenet_classes() -> list[tuple[str, str]]:
    """Return WordNet id and name of the 1000 classes of ImageNet (ILSVRC-2012), sorted by the id as everywhere."""
    text = (resources.files("jaxcnn.weights") / "imagenet_classes.txt").read_text(encoding="utf-8")
    return [(wnid, name) for wnid, _, name in (line.partition(" ") for line in text.splitlines())]
