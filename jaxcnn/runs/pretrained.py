"""The variables that a run starts from where `model.weights` names a file."""

from typing import Any

import jax
from flax import traverse_util

from jaxcnn import weights
from jaxcnn.errors import UsageError
from jaxcnn.experiment import ModelConfig
from jaxcnn.models import Model


def pretrained(config: ModelConfig, model: Model, images: jax.ShapeDtypeStruct, key: jax.Array) -> weights.Variables:
    """Return the file's variables, as those of `model`.

    Args:
      config: names the file and whose it is.
      model: the run's own; a head for other classes than the file's is initialised.
      images: what the model is given.
      key: of that initialisation.

    Raises:
      UsageError: the file is not one of weights, or of another architecture than `model`.
    """
    assert config.weights is not None
    options: dict[str, Any] = dict(config.options)
    if hasattr(model, "aux_heads"):
        options["aux_heads"] = model.aux_heads
    path = config.weights.expanduser()
    _, variables = weights.load(config.peer, path, num_classes=model.num_classes, key=key, **options)
    found, expected = _shapes(variables), _shapes(jax.eval_shape(model.init, key, images))
    differ = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if differ:
        name = differ[0]
        raise UsageError(
            f"model.weights {path} holds a {variables.model}, which is not the {config.name} of this experiment: "
            f"{len(differ)} tensors differ, such as {name}: {found.get(name, 'none')} in the file, "
            f"{expected.get(name, 'none')} expected"
        )
    return variables


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in traverse_util.flatten_dict(variables, sep="/").items()}
