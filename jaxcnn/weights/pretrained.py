"""Weights to start a run from."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from jaxcnn import models
from jaxcnn.errors import UsageError
from jaxcnn.models.config import ModelConfig
from jaxcnn.weights import Variables, load


class Pretrained:
    """The file that `model.weights` names: what a run starts from."""

    def __init__(self, config: ModelConfig, make_model: Callable[[Any], nn.Module], key: jax.Array) -> None:
        """Note the file; it is read once the data are known: how many classes, how large images.

        Args:
          config: names it, and whose it is.
          make_model: returns the run's own model for the fields of its data.
          key: that the first variables will be drawn from.
        """
        self.config, self.make_model, self._key = config, make_model, key
        self.model: nn.Module | None = None
        self._read: Variables | None = None

    def __call__(self, key: jax.Array) -> Variables:
        """Return the variables; a head for other classes than the file's own is drawn from `key`."""
        if self._read is None or (jax.random.key_data(key) != jax.random.key_data(self._key)).any():
            assert self.model is not None
            self._key, self._read = key, pretrained(self.config, self.model, self.images, key)
        return self._read

    def norms(self, shapes: Mapping[str, Any], fields: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the mean and deviation that images had when the weights were trained; None: they do not say.

        Raises:
          UsageError: the file is not one of weights, of another architecture, or of images that are not such as here.
        """
        image = shapes["image"]
        self.model = self.make_model(fields)
        self.images = jax.ShapeDtypeStruct((1, *image.shape), np.float32)
        prepared, name = self(self._key).preprocessing, f"model.weights {self.config.weights}"
        if prepared is None:
            return None
        if prepared.channels == "BGR":
            raise UsageError(f"{name} expects blue first; images here have red first: give data.mean and data.std, too")
        unit = np.float32(255 * prepared.scale)
        mean, std = (np.asarray(values, np.float32) / unit for values in (prepared.mean, prepared.std))
        if mean.shape not in (image.shape, image.shape[-1:]) or std.shape != image.shape[-1:]:
            raise UsageError(
                f"{name} subtracts a mean of shape {mean.shape}, images are {image.shape}: give data.mean and data.std"
            )
        return mean, std


def pretrained(config: ModelConfig, model: nn.Module, images: jax.ShapeDtypeStruct, key: jax.Array) -> Variables:
    """Return the variables of the file that `config.weights` names, as those of `model`.

    Args:
      config: names the file and whose it is.
      model: the run's own; a head for other classes than the file's is initialised.
      images: what the model is given.
      key: of that initialisation.

    Raises:
      UsageError: the file is not one of weights, or of another architecture than `model`.
    """

    def shapes(variables: Any) -> dict[str, tuple[int, ...]]:
        return {name: leaf.shape for name, leaf in traverse_util.flatten_dict(variables, sep="/").items()}

    assert config.weights is not None
    options: dict[str, Any] = dict(config.options)
    if hasattr(model, "aux_heads"):
        options["aux_heads"] = model.aux_heads
    path = config.weights.expanduser()
    classes = getattr(model, "num_classes", None)
    _, variables = load(config.peer, path, num_classes=classes, key=key, **options)
    found, expected = shapes(variables), shapes(jax.eval_shape(lambda key: models.init(model, key, images), key))
    differ = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if differ:
        name = differ[0]
        raise UsageError(
            f"model.weights {path} holds a {variables.model}, which is not the {config.name} of this experiment: "
            f"{len(differ)} tensors differ, such as {name}: {found.get(name, 'none')} in the file, "
            f"{expected.get(name, 'none')} expected"
        )
    return variables
