"""From what an experiment names to objects: network, task, data, weights to start from."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import linen as nn

from jaxcnn import data as data_sets
from jaxcnn import models
from jaxcnn.data import DataConfig, Fields
from jaxcnn.errors import UsageError
from jaxcnn.models.config import ModelConfig
from jaxcnn.parts import Finder, Part, call, is_reference, made
from jaxcnn.tasks import Task
from jaxcnn.train.parallel import gathered, together

if TYPE_CHECKING:
    from jaxcnn.weights import Variables


def find_task(task: Any, finder: Finder) -> Task:
    """Return a task as a value; what a part names is found.

    Raises:
      UsageError: there is no such part, or it is none.
    """
    found = made(task, finder)
    if isinstance(task, Part) and (inspect.isroutine(found) or isinstance(found, partial)):
        found = call(task.name, found, {})
    if not isinstance(found, Task):
        raise UsageError(f"task is a {type(found).__name__}: expected a jaxcnn.Task")
    return found


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
    if config.name.endswith(".py"):
        raise UsageError(f"model.name is {config.name!r}: expected {config.name}:NAME, a network that it holds")
    given: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    return models.create(config.name, **given, dtype=config.dtype, **config.options)  # type: ignore[arg-type]


class Weights:
    """The file that `model.weights` names: what a run starts from."""

    def __init__(self, config: ModelConfig, task: Task, finder: Finder, key: jax.Array) -> None:
        """Note the file; it is read once the data are known: how many classes, how large images."""
        self.config, self.task, self.finder, self._key = config, task, finder, key
        self.model: nn.Module | None = None
        self._read: Variables | None = None

    def __call__(self, key: jax.Array) -> "Variables":
        """Return the variables; a head for other classes than the file's own is drawn from `key`."""
        if self._read is None or (jax.random.key_data(key) != jax.random.key_data(self._key)).any():
            from jaxcnn.weights.pretrained import pretrained

            assert self.model is not None
            self._key, self._read = key, pretrained(self.config, self.model, self.images, key)
        return self._read

    def norms(self, shapes: Mapping[str, Any], fields: Fields) -> data_sets.Norms | None:
        """Return what images were normalised by when the weights were trained; None: they do not say.

        Raises:
          UsageError: the file is not one of weights, of another architecture, or of images that are not such as here.
        """
        image = shapes["image"]
        self.model = find_model(self.config, self.task.outputs(fields), self.finder)
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
        return data_sets.Norms(mean, std)


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
