"""Pairs of examples mixed, and their labels with them.

The partner of an example is the one before it in the batch, which the shuffled order makes a random one. A mixed batch
has `target` float32 [batch, classes], whose rows sum to 1; `label` stays, or becomes, the one with the larger share. An
example that is masked, or whose partner is, is left as it is.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key

from jaxcnn.data.transforms.base import Batch, Transform, check_range, product
from jaxcnn.data.transforms.erasing import box


@dataclass(frozen=True, kw_only=True)
class Mixup(Transform):
    """Blend each image with another one, and its label alike (Zhang et al. 2017). Images become float32, 0..255."""

    kind: Literal["mixup"] = "mixup"
    alpha: float = 0.2
    """The image's share comes from Beta(alpha, alpha), drawn for each image; 0: nothing is mixed."""
    probability: float = 1.0
    """Of each image."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range(self, 0, math.inf, "alpha")
        check_range(self, 0, 1, "probability")

    def __call__(self, key: Key[Array, ""], batch: Batch, num_classes: int) -> Batch:
        """Return the batch mixed."""
        share = _shares(key, self.alpha, self.probability, batch["mask"])
        images = batch["image"].astype(jnp.float32)
        weight = share[:, None, None, None]
        blended = product(weight, images) + product(1 - weight, _partner(images))
        mixed = jnp.where(weight < 1, blended, images)
        return _with_labels({**batch, "image": mixed}, share, num_classes)


@dataclass(frozen=True, kw_only=True)
class CutMix(Transform):
    """Paste a rectangle of another image into each, and mix the labels by area (Yun et al. 2019)."""

    kind: Literal["cutmix"] = "cutmix"
    alpha: float = 1.0
    """The area that stays comes from Beta(alpha, alpha), drawn for each image; 0: nothing is mixed."""
    probability: float = 1.0
    """Of each image; the paper has 0.5 for CIFAR."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range(self, 0, math.inf, "alpha")
        check_range(self, 0, 1, "probability")

    def __call__(self, key: Key[Array, ""], batch: Batch, num_classes: int) -> Batch:
        """Return the batch mixed."""
        images = batch["image"]
        count, height, width, _ = images.shape
        share_key, across, down = jax.random.split(key, 3)
        side = jnp.sqrt(1 - _shares(share_key, self.alpha, self.probability, batch["mask"]))
        tall, wide = (jnp.floor(side * size).astype(jnp.int32) for size in (height, width))
        top = jax.random.randint(down, (count,), 0, height) - tall // 2
        left = jax.random.randint(across, (count,), 0, width) - wide // 2
        pasted = box(images, top, left, top + tall, left + wide)
        # The rectangle may reach over the edge: the labels' shares are those of the pixels that are seen.
        share = 1 - pasted.mean((1, 2, 3), dtype=jnp.float32)
        return _with_labels({**batch, "image": jnp.where(pasted, _partner(images), images)}, share, num_classes)


def _partner(values: Array) -> Array:
    return jnp.roll(values, 1, axis=0)


def _shares(key: Key[Array, ""], alpha: float, probability: float, mask: Array) -> Float32[Array, " batch"]:
    """Return what share each image keeps of itself, in 1024ths; 1 where it is not to be mixed."""
    if alpha == 0:
        return jnp.ones(len(mask), jnp.float32)
    which, how = jax.random.split(key)
    # So that another program, which may round the draw otherwise, has the same share and mixes to the same bits.
    share = jnp.round(1024 * jax.random.beta(how, alpha, alpha, mask.shape, jnp.float32)) / 1024
    return jnp.where(mask & _partner(mask) & jax.random.bernoulli(which, probability, mask.shape), share, 1.0)


def _with_labels(batch: Batch, share: Float32[Array, " batch"], num_classes: int) -> Batch:
    """Return the batch with `target`, each the mixture of an example's and its partner's, and the label that leads."""
    label = batch["label"]
    target = batch["target"] if "target" in batch else jax.nn.one_hot(label, num_classes, dtype=jnp.float32)
    other = jnp.where(share[:, None] < 1, _partner(target), 0)  # a masked partner's may be anything
    return {
        **batch,
        "target": product(share[:, None], target) + product(1 - share[:, None], other),
        "label": jnp.where(share >= 0.5, label, _partner(label)),
    }
