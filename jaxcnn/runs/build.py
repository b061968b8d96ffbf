"""From what an experiment names to objects: network, task, data, weights to start from."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import linen as nn

from jaxcnn import data as data_sets
from jaxcnn import models
from jaxcnn.data import DataConfig, Fields
from jaxcnn.errors import UsageError
from jaxcnn.models.config import ModelConfig
from jaxcnn.parts import Finder, call, is_reference
from jaxcnn.tasks import Task
from jaxcnn.train.parallel import gathered, together
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
        options: dict[str, Any] = {"num_classes": num_classes, "dtype": config.dtype, **config.options}
        return models.build(finder.find(config.name), **options)
    given: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    return models.create(config.name, **given, dtype=config.dtype, **config.options)  # type: ignore[arg-type]


class Weights:
    """The file that `model.weights` names, read once the data are known: how many classes, how large images."""

    def __init__(self, config: ModelConfig, task: Task, finder: Finder, key: jax.Array) -> None:
        """Note the file; a head for other classes than its own is initialised by `key`."""
        self.config, self.task, self.finder, self.key = config, task, finder, key
        self.variables: Variables | None = None

    def __call__(self, shapes: Mapping[str, Any], fields: Fields) -> data_sets.Norms | None:
        """Read the variables and return what images were normalised by when they were trained; None: they do not say.

        Raises:
          UsageError: the file is not one of weights, of another architecture, or of images that are not such as here.
        """
        image = shapes["image"]
        model = find_model(self.config, self.task.outputs(fields), self.finder)
        images = jax.ShapeDtypeStruct((1, *image.shape), np.float32)
        self.variables = pretrained(self.config, model, images, self.key)
        prepared, name = self.variables.preprocessing, f"model.weights {self.config.weights}"
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
        return data_sets.Norms(mean, std)


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


def load_together(
    config: DataConfig,
    task: Task,
    finder: Finder,
    poll: Callable[[], None],
    streamed: bool | None,
    norms: Any,
) -> data_sets.Dataset:
    """Return the data set, the same in all processes: streamed where it is so in the first.

    Raises:
      UsageError, RunError, Stopped: it cannot be loaded, here or in another process.
    """

    def loaded(streamed: bool | None) -> data_sets.Dataset:
        with together():
            return data_sets.load(config, finder=finder, like=task.example, streamed=streamed, norms=norms, poll=poll)

    found = loaded(streamed)
    agreed = bool(gathered(found.streamed)[0])
    if (gathered(found.streamed) != agreed).any():  # for the free memory of one of them
        found = loaded(agreed)
    return found
