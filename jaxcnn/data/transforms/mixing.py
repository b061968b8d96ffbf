"""Pairs of examples mixed, and their labels with them.

The partner of an example is the one before it in the batch, which the shuffled order makes a random one. All images of
an example are mixed alike. Where it has a label, a mixed batch has `target` float32 [batch, classes], whose rows sum to
1; the label stays, or becomes, the one with the larger share. An example that is masked, or whose partner is, is left
as it is.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key

from jaxcnn.data.fields import Batch, ClassMap, Fields, Image, Label
from jaxcnn.data.transforms.base import Transform, name_of, pixels_of, product
from jaxcnn.data.transforms.erasing import box
from jaxcnn.errors import UsageError
from jaxcnn.typed import NotNegative, Probability


@dataclass(frozen=True, kw_only=True)
class Mixup(Transform):
    """Blend each image with another one, and its label alike (Zhang et al. 2017). Images become float32, 0..255."""

    kind: Literal["mixup"] = "mixup"
    alpha: NotNegative = 0.2
    """The image's share comes from Beta(alpha, alpha), drawn for each image; 0: nothing is mixed."""
    probability: Probability = 1.0
    """Of each image."""

    def __call__(self, key: Key[Array, ""], batch: Batch, fields: Fields) -> Batch:
        """Return the batch mixed.

        Raises:
          UsageError: a field is no image and no label: of its kind there is no blend.
        """
        label = _label(self, fields, Image | Label)
        share = _shares(key, self.alpha, self.probability, batch["mask"])
        weight = share[:, None, None, None]
        found = dict(batch)
        for name, values in pixels_of(self, batch, fields).items():
            images = values.astype(jnp.float32)
            blended = product(weight, images) + product(1 - weight, _partner(images))
            found[name] = jnp.where(weight < 1, blended, images)
        return _with_labels(found, share, label)


@dataclass(frozen=True, kw_only=True)
class CutMix(Transform):
    """Paste a rectangle of another image into each, and mix the labels by area (Yun et al. 2019).

    Class maps are pasted along with the pixels.
    """

    kind: Literal["cutmix"] = "cutmix"
    alpha: NotNegative = 1.0
    """The area that stays comes from Beta(alpha, alpha), drawn for each image; 0: nothing is mixed."""
    probability: Probability = 1.0
    """Of each image; the paper has 0.5 for CIFAR."""

    def __call__(self, key: Key[Array, ""], batch: Batch, fields: Fields) -> Batch:
        """Return the batch mixed.

        Raises:
          UsageError: a field is no image, class map or label: of its kind nothing can be pasted.
        """
        label = _label(self, fields, Image | ClassMap | Label)
        pixels = pixels_of(self, batch, fields)
        count, height, width, _ = batch["image"].shape
        share_key, across, down = jax.random.split(key, 3)
        side = jnp.sqrt(1 - _shares(share_key, self.alpha, self.probability, batch["mask"]))
        tall, wide = (jnp.floor(side * size).astype(jnp.int32) for size in (height, width))
        top = jax.random.randint(down, (count,), 0, height) - tall // 2
        left = jax.random.randint(across, (count,), 0, width) - wide // 2
        pasted = box(batch["image"], top, left, top + tall, left + wide)
        # The rectangle may reach over the edge: the labels' shares are those of the pixels that are seen.
        share = 1 - pasted.mean((1, 2, 3), dtype=jnp.float32)
        found = dict(batch)
        for name, values in pixels.items():
            found[name] = jnp.where(pasted, _partner(values), values).reshape(batch[name].shape)
        return _with_labels(found, share, label)


def _label(transform: Any, fields: Fields, mixed: Any) -> tuple[str, int] | None:
    """Return the name and number of classes of the label among fields that can all be mixed; None: there is none.

    Raises:
      UsageError: a field is of another kind than `mixed`, or there are two labels; naming the transform and the field.
    """
    name = name_of(transform)
    for other, field in fields.items():
        if not isinstance(field, mixed):
            raise UsageError(f"{name} cannot mix field {other!r}: {type(field).__name__} is a kind that has no mixture")
    if "target" in fields:
        raise UsageError(f"{name} writes mixed labels to 'target': give the field of that name another one")
    labels = [(other, len(field.class_names)) for other, field in fields.items() if isinstance(field, Label)]
    if len(labels) > 1:
        raise UsageError(f"{name} mixes one label: {' and '.join(repr(other) for other, _ in labels)} are both labels")
    return labels[0] if labels else None


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


def _with_labels(batch: Batch, share: Float32[Array, " batch"], label: tuple[str, int] | None) -> Batch:
    """Return the batch with `target`, each the mixture of an example's and its partner's, and the label that leads."""
    if label is None:
        return batch
    name, classes = label
    own = batch[name]
    target = batch["target"] if "target" in batch else jax.nn.one_hot(own, classes, dtype=jnp.float32)
    other = jnp.where(share[:, None] < 1, _partner(target), 0)  # a masked partner's may be anything
    return {
        **batch,
        "target": product(share[:, None], target) + product(1 - share[:, None], other),
        name: jnp.where(share >= 0.5, own, _partner(own)),
    }
