"""Data sets in, batches out: everything is a pure function of the configuration, a key and the step."""

from jaxcnn.data.config import DataConfig
from jaxcnn.data.dataset import Dataset, Examples, Split, check_split, eval_batches, normalisation
from jaxcnn.data.description import Description
from jaxcnn.data.prepared import Norms
from jaxcnn.data.sources import load

NO_NORMS = Norms(__import__("numpy").zeros(1, "float32"), __import__("numpy").ones(1, "float32"))


def check_images(images, shape, what):
    return check_split(images, __import__("numpy").zeros(len(images), "int32"), what)
