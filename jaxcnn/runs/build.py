"""From what an experiment names to objects: network, task, data, weights to start from."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import linen as nn

from jaxcnn import data as data_sets
from jaxcnn import models
from jaxcnn.data import DataConfig, Dataset
from jaxcnn.errors import UsageError
from jaxcnn.models.config import ModelConfig
from jaxcnn.parts import Finder, call, is_reference
from jaxcnn.tasks import Task
from jaxcnn.typed import Part

if TYPE_CHECKING:
    from jaxcnn.weights import Variables


def find_task(task: Any, finder: Finder) -> Task:
    """Return a task as a value; what a part names is found.

    Raises:
      UsageError: there is no such part, or it is none.
    """
    if isinstance(task, Part):
        found = finder.find(task.name)
        if isinstance(found, Task) and task.options:
            raise UsageError(f"{task.name} is made already and takes no options, such as {min(task.options)!r}")
        task = found if isinstance(found, Task) else call(f"task {task.name}", found, task.options)
    if not isinstance(task, Task):
        raise UsageError(f"task is a {type(task).__name__}: expected a jaxcnn.Task")
    return task


def find_model(config: ModelConfig, outputs: int | None, finder: Finder) -> nn.Module:
    """Return the network.

    Args:
      config: names it.
      outputs: what `num_classes` is where the config does not say; None: the network's own number.
      finder: of parts that are named.

    Raises:
      UsageError: there is no such network, or it does not take its options.
    """
    num_classes = config.num_classes or outputs
    if is_reference(config.name):
        options = {"num_classes": num_classes, "dtype": config.dtype, **config.options}
        return models.build(finder.find(config.name), **options)
    given = {} if num_classes is None else {"num_classes": num_classes}
    return models.create(config.name, **given, dtype=config.dtype, **config.options)


def pretrained(config: ModelConfig, model: nn.Module, images: jax.ShapeDtypeStruct, key: jax.Array) -> "Variables":
    """Return the variables of the file that `config.weights` names, as those of `model`.

    Args:
      config: names the file and whose it is.
      model: the run's own; a head for other classes than the file's is initialised.
      images: what the model is given.
      key: of that initialisation.

    Raises:
      UsageError: the file is not one of weights, or of another architecture than `model`.
    """
    from flax import traverse_util

    from jaxcnn import weights

    def shapes(variables: Any) -> dict[str, tuple[int, ...]]:
        return {name: leaf.shape for name, leaf in traverse_util.flatten_dict(variables, sep="/").items()}

    assert config.weights is not None
    options: dict[str, Any] = dict(config.options)
    if hasattr(model, "aux_heads"):
        options["aux_heads"] = model.aux_heads
    path = config.weights.expanduser()
    classes = getattr(model, "num_classes", None)
    _, variables = weights.load(config.peer, path, num_classes=classes, key=key, **options)
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


def norms_of_weights(config: ModelConfig, data: Dataset, variables: "Variables") -> Any:
    """Return mean and standard deviation, for pixels in 0..1, that weights were trained with; None: they do not say.

    Raises:
      UsageError: images here cannot be normalised so.
    """
    given: DataConfig = data.config
    prepared = variables.preprocessing
    if prepared is None or given.mean is not None or given.std is not None or given.per_pixel_mean:
        return None
    name = f"model.weights {config.weights}"
    if prepared.channels == "BGR":
        raise UsageError(f"{name} expects blue first; images here have red first: give data.mean and data.std to go on")
    unit = 255 * prepared.scale
    mean, std = (np.asarray(values, np.float32) / np.float32(unit) for values in (prepared.mean, prepared.std))
    shape = data.shapes["image"].shape
    if mean.shape not in (shape, shape[-1:]) or std.shape != shape[-1:]:
        raise UsageError(
            f"{name} subtracts a mean of shape {mean.shape}, the images are {shape}: give data.mean and data.std"
        )
    return data_sets.Norms(mean, std)
