"""Data sets in, batches out: everything is a pure function of the configuration, a key and the step."""

from jaxcnn.data.config import DataConfig
from jaxcnn.data.dataset import Dataset, Examples, Split, normalisation
from jaxcnn.data.sources import load

__all__ = ["DataConfig", "Dataset", "Examples", "Split", "load", "normalisation"]
