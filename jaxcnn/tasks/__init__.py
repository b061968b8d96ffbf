"""What a network is trained for: a loss and its metrics, as pure functions of outputs and batch."""

from jaxcnn.tasks.classification import Classification

__all__ = ["Classification"]
