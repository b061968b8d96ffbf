"""Data sets in, batches out: everything is a pure function of the configuration, a key and the step.

data = load(DataConfig(source="digits"))
arrays, stream = Arrays.of(data.train), Stream(Order(key, len(data.train), 64))
batch = gather(arrays, *stream.at(step), 64)                                           # in memory; or
batch = data.train.stream(order, rows, steps, key).at(step)                            # streamed
batch = training_batch(batch, key, data.norms, data.augment, data.fields)
for batch in eval_batches(data.test, 100): ...
"""

from jaxcnn.data.config import DataConfig
from jaxcnn.data.dataset import Dataset, load, training_batches
from jaxcnn.data.description import Description
from jaxcnn.data.examples import Examples, Split, eval_batches
from jaxcnn.data.fields import Batch, Boxes, ClassMap, Example, Fields, Image, Label, Value
from jaxcnn.data.norms import NO_NORMS, Norms, normalisation, normalize
from jaxcnn.data.order import Order
from jaxcnn.data.prepared import eval_batch, training_batch
from jaxcnn.data.resident import Arrays, Stream, gather
from jaxcnn.data.stores.arrays import check_images
from jaxcnn.data.streaming import Feed, Reader

__all__ = [
    "NO_NORMS",
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
    "check_images",
    "eval_batch",
    "eval_batches",
    "gather",
    "load",
    "normalisation",
    "normalize",
    "training_batch",
    "training_batches",
]
