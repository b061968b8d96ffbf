"""Fully convolutional networks on VGG-16: FCN-32s, 16s and 8s (Long, Shelhamer and Darrell 2015, 1411.4038).

VGG-16 with its fully connected layers as convolutions, a 1x1 convolution that scores each position for each class
(section 4.1), and upsampling back to the image. The 16s and 8s networks add scores of the finer maps behind pool4,
and pool3, on the way (section 4.2, figure 3). Geometry and offsets are those of the authors' released networks.

The paper trains in stages, each network from the one before:

    variables = from_vgg(fcn32s.init(key, images), vgg16_variables)
    variables = from_coarser(fcn16s.init(key, images), fcn32s_variables)
    variables = from_coarser(fcn8s.init(key, images), fcn16s_variables)
"""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.layers import BilinearUpsample, Conv, ConvNorm, Dropout, max_pool
from jaxcnn.layers.initialisers import glorot_uniform, zeros
from jaxcnn.models.base import Model, ModelEntry
from jaxcnn.models.vgg import Stage

# By the stride of the finest scores: where the image lies within the upsampled scores.
IMAGE_OFFSET = {32: 19, 16: 27, 8: 31}
# Names of the upsampling to a skip and of its scores, the skip's stride, and where in it the upsampled scores lie.
SKIPS = (("upscore2", "score_pool4", 16, 5), ("upscore_pool4", "score_pool3", 8, 9))


def crop(x: Float[Array, "batch h w c"], offset: int, sizes: tuple[int, ...]) -> Float[Array, "batch h2 w2 c"]:
    """Return the maps of `sizes` that begin at `offset`, from the top and from the left."""
    return x[:, offset : offset + sizes[0], offset : offset + sizes[1]]


class Head(nn.Module):
    """Scores of the coarsest maps, upsampled and added to those of finer maps, with the released networks' names.

    Attributes:
        stride: of the finest scores, 32, 16 or 8.
        num_classes: channels of the scores.
        learned_upsampling: see `FCN`.
    """

    stride: int
    num_classes: int
    learned_upsampling: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch h w c"], skips: dict[int, Array], sizes: tuple[int, ...]
    ) -> Float[Array, "batch height width num_classes"]:
        """Return float32 logits of `sizes`; `skips` are maps by their stride."""
        # Section 4.1: starting the scores at random was neither better nor faster.
        score = partial(Conv, self.num_classes, 1, kernel_init=zeros)
        upsample = partial(BilinearUpsample, learned=self.learned_upsampling)
        x = score(name="score_fr")(x)
        for upscore_name, score_name, stride, offset in SKIPS:
            if stride >= self.stride:
                x = upsample(2, name=upscore_name)(x)
                x += crop(score(name=score_name)(skips[stride]), offset, x.shape[1:3])
        x = upsample(self.stride, name=f"upscore{self.stride}")(x)
        return crop(x, IMAGE_OFFSET[self.stride], sizes)


class FCN(Model):
    """A fully convolutional VGG; see the variants at the end of this file.

    Logits are [batch, height, width, num_classes], of the input's size, which may be any. A stage's output is that
    before the pooling.

    Attributes:
        stride: of the finest maps that are scored.
        depths: convolutions per stage.
        widths: their channels, per stage.
        hidden: channels of `fc6` and `fc7`.
        learned_upsampling: whether the upsampling starts bilinear and is trained. The paper trains all but the last
            one; its released networks, to which the published numbers belong, none.
        num_classes: None returns the maps of `fc7`.
        dtype: of the computation; parameters and logits are float32.
    """

    stride: Literal[32, 16, 8]
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = 4096
    learned_upsampling: bool = False
    num_classes: int | None = 21
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height2 width2 outputs"]:
        """Return logits of the image's size, or the maps of `fc7`; `train=True` drops units."""
        sizes = x.shape[1:3]
        # All of it is meant to start from VGG-16's weights (`from_vgg`); Glorot's is what VGG offers without.
        conv = partial(Conv, kernel_init=glorot_uniform, dtype=self.dtype)
        # The released networks pad the first convolution by 100, so that fc6 fits whatever the image's size: 99 here
        # and 1 there.
        x = jnp.pad(x, ((0, 0), (99, 99), (99, 99), (0, 0)))
        pooled = {}
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            x = Stage(width, (3,) * depth, conv, name=f"stage{i}")(x)
            # Caffe rounds the sizes of poolings up; rounded down, the upsampled scores would not cover the image.
            x = pooled[2**i] = max_pool(x, 2, ceil_mode=True)
        x = ConvNorm(self.hidden, 7, conv=conv, name="fc6")(x)
        x = Dropout(0.5, deterministic=not train)(x)
        x = ConvNorm(self.hidden, 1, conv=conv, name="fc7")(x)
        if self.num_classes is None:
            return x.astype(jnp.float32)
        x = Dropout(0.5, deterministic=not train)(x)
        return Head(self.stride, self.num_classes, self.learned_upsampling, name="head")(x, pooled, sizes)


def from_vgg(variables: dict[str, Any], vgg: dict[str, Any]) -> dict[str, Any]:
    """Return the FCN's `variables` with the convolutions and `fc6`, `fc7` of a VGG classifier (section 4.1).

    Args:
        variables: of an `FCN`; its head is kept.
        vgg: of a `VGG` with the same stages and without BatchNorm; its head is not used.

    Raises:
        UsageError: lists the parameters that do not fit.
    """
    params = traverse_util.flatten_dict(vgg["params"], sep="/")
    # Both flatten maps as (height, width, channels), so fc6 is a 7x7 convolution once it is reshaped.
    found = {path.replace("/dense/", "/conv/"): value for path, value in params.items()}
    return _filled(variables, {path: value for path, value in found.items() if not path.startswith("head/")})


def from_coarser(variables: dict[str, Any], coarser: dict[str, Any]) -> dict[str, Any]:
    """Return the `variables` of FCN-16s with all that FCN-32s has, or those of 8s with all that 16s has.

    With the new scores at zero, as `init` leaves them, it goes on where the coarser network stopped; only that it
    interpolates in two steps.

    Raises:
        UsageError: lists the parameters that do not fit.
    """
    params = traverse_util.flatten_dict(coarser["params"], sep="/")
    new = traverse_util.flatten_dict(variables["params"], sep="/")
    # Where upsampling is learned, the coarser network's last one has no counterpart.
    return _filled(variables, {path: v for path, v in params.items() if path in new or "/upscore" not in path})


def _filled(variables: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return `variables` with the parameters `values`, by path, in place: all but the head's must be among them."""
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    missing = [path for path in params if path not in values and not path.startswith("head/")]
    wrong = [path for path, value in values.items() if path not in params or params[path].size != value.size]
    if missing or wrong:
        raise UsageError(
            f"these are not the variables to start from: missing {', '.join(missing) or 'nothing'}; "
            f"left over or of another size {', '.join(wrong) or 'nothing'}"
        )
    params |= {path: value.reshape(params[path].shape) for path, value in values.items()}
    return {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}


fcn32s_vgg16 = partial(FCN, stride=32)
fcn16s_vgg16 = partial(FCN, stride=16)
fcn8s_vgg16 = partial(FCN, stride=8)

# For tests: every kind of block in a second.
fcn_tiny = partial(FCN, stride=8, depths=(1, 1, 2, 1, 1), widths=(4, 4, 8, 8, 8), hidden=16, num_classes=5)

_entry = partial(ModelEntry, paper="1411.4038", year=2014, input_shape=(500, 500, 3), num_classes=21)
MODELS = {
    "fcn32s_vgg16": _entry(fcn32s_vgg16),
    "fcn16s_vgg16": _entry(fcn16s_vgg16),
    "fcn8s_vgg16": _entry(fcn8s_vgg16),
}
