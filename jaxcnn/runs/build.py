"""From what an experiment names to objects: network, task, data."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from flax import linen as nn

from jaxcnn import data as data_sets
from jaxcnn import models
from jaxcnn.data import DataConfig
from jaxcnn.errors import UsageError
from jaxcnn.models.config import ModelConfig
from jaxcnn.parts import Finder, Part, call, is_reference, made
from jaxcnn.tasks import Task
from jaxcnn.train.parallel import gathered, together


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


def find_model(config: ModelConfig, finder: Finder, outputs: int | None) -> nn.Module:
    """Return the network.

    Args:
      config: names it.
      finder: of parts that are named.
      outputs: what `num_classes` is where the config does not say; None: the network's own number.

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
