"""A dense task of one's own: a class for each pixel. Flips and crops move the map along with the image.

jaxcnn train examples/shapes.py      # a mean intersection over union above 0.85, in a minute on 2 cores
"""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn import AdamW, CosineDecay, DataConfig, Experiment, Flip, ModelConfig, PadCrop, Task, TrainConfig
from jaxcnn.data.fields import ClassMap, Image


def scenes(count=800, size=32):
    """Return images of discs and frames of random grey on random ground, and the class of each pixel."""
    rng = np.random.default_rng(0)
    apart = np.abs(np.mgrid[:size, :size] - rng.integers(6, size - 6, (count, 2, 2, 1, 1)))
    radius = rng.integers(4, 8, (count, 2, 1, 1))
    disc = np.square(apart[:, 0]).sum(1) < radius[:, 0] ** 2
    frame = np.abs(apart[:, 1].max(1) - radius[:, 1]) < 1.5
    maps = np.where(frame, 2, disc).astype(np.uint8)
    greys = rng.permuted(np.tile([40, 120, 200], (count, 1)), axis=1) + rng.integers(-20, 20, (count, 3))
    pixels = greys[np.arange(count)[:, None, None], maps] + rng.normal(0, 8, maps.shape)
    data = {"image": pixels.clip(0, 255).astype(np.uint8)[..., None], "map": maps}
    train, test = ({name: array[part] for name, array in data.items()} for part in (np.s_[:600], np.s_[600:]))
    fields = {"image": Image(channels=1), "map": ClassMap(class_names=("ground", "disc", "frame"))}
    return {"train": train, "test": test, "fields": fields}


class Net(nn.Module):
    """Dilated convolutions at full resolution."""

    @nn.compact
    def __call__(self, x):
        for dilation in (1, 2, 4, 8, 1):
            x = nn.relu(nn.GroupNorm(4)(nn.Conv(16, (3, 3), kernel_dilation=dilation)(x)))
        return nn.Conv(3, (1, 1))(x)


@dataclass(frozen=True, kw_only=True)
class Segmentation(Task):
    """Name the class of each pixel."""

    example: ClassVar = {"image": Image, "map": ClassMap}
    best: ClassVar = ("mean_iou", "max")

    def counted(self, batch):  # 255 is what a crop brings in from outside
        return batch["mask"][:, None, None] & (batch["map"] != 255)

    def count(self, batch):
        return self.counted(batch).sum(dtype=jnp.int32)

    def losses(self, outputs, batch):
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.minimum(batch["map"], 2))
        return jnp.where(self.counted(batch), losses, 0.0)

    def sums(self, outputs, batch):  # a confusion matrix: rows are the truth
        truth, found = jnp.arange(3) == batch["map"][..., None], jnp.arange(3) == outputs.argmax(-1)[..., None]
        both = truth[..., :, None] & found[..., None, :] & self.counted(batch)[..., None, None]
        return {"confusion": both.sum((0, 1, 2), dtype=jnp.int32)}

    def metrics(self, sums):
        both = np.diag(sums["confusion"])
        union = sums["confusion"].sum(0) + sums["confusion"].sum(1) - both
        return {"mean_iou": float(np.mean(both / np.maximum(union, 1)))}


EXPERIMENT = Experiment(
    name="shapes",
    model=ModelConfig(name="shapes.py:Net"),
    task=Segmentation(),
    data=DataConfig(source="shapes.py:scenes", augment=(Flip(), PadCrop(pad=4))),
    optim=AdamW(learning_rate=5e-3),
    schedule=CosineDecay(),
    train=TrainConfig(batch_size=32, epochs=20),
)
