"""Data sets in, batches out: everything is a pure function of the configuration, a key and the step.

data = load(DataConfig(source="digits"))
for batch in training_batches(data, key, batch_size=64, steps=1000):
    batch = training_batch(batch, key, data.norms, data.augment, data.fields)      # within jit
for batch in eval_batches(data.test, 100):
    batch = eval_batch(batch, data.norms)                                          # within jit
"""

from jaxcnn.data.config import DataConfig
from jaxcnn.data.dataset import Dataset, load
from jaxcnn.data.description import Description
from jaxcnn.data.examples import Examples, Split, eval_batches
from jaxcnn.data.fields import Batch, Boxes, ClassMap, Example, Fields, Image, Label, Value
from jaxcnn.data.norms import Norms, normalisation, normalize
from jaxcnn.data.order import Order
from jaxcnn.data.prepared import eval_batch, training_batch
from jaxcnn.data.resident import Arrays, Stream, gather
from jaxcnn.data.streaming import Feed, Reader
from jaxcnn.data.training import training_batches

__all__ = [
    "Arrays",
    "Batch",
    "Boxes",
    "ClassMap",
    "DataConfig",
    "Dataset",
    "Description",
    "Example",
    "Examples",
    "Feed",
    "Fields",
    "Image",
    "Label",
    "Norms",
    "Order",
    "Reader",
    "Split",
    "Stream",
    "Value",
    "eval_batch",
    "eval_batches",
    "gather",
    "load",
    "normalisation",
    "normalize",
    "training_batch",
    "training_batches",
]
