"""What a network is trained for: losses and metrics, as pure functions of outputs and batch."""

from typing import Annotated, Any

from jaxcnn.tasks.base import Batch, Finished, Task
from jaxcnn.tasks.classification import Classification
from jaxcnn.typed import Open

AnyTask = Annotated[Classification | Any, Open("a task", "losses")]
"""One of ours, or a user's own."""

__all__ = ["AnyTask", "Batch", "Classification", "Finished", "Task"]
