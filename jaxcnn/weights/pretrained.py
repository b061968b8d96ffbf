"""Weights to start a run from."""

from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util

from jaxcnn import models
from jaxcnn.errors import UsageError
from jaxcnn.models.config import ModelConfig
from jaxcnn.weights import Variables, load


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
