"""U-Net (Ronneberger, Fischer and Brox 2015, 1505.04597).

A contracting path `down1`, `down2`, ... that halves the maps and doubles the channels, and an expansive path
`up4`, ..., `up1` back, each level of which also sees the contracting path's maps of its own level (figure 1).
`unet` is the paper's; `unet_same` the form in wide use since, with maps that keep their size and BatchNorm.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Conv, ConvNorm, ConvTranspose, Dropout, max_pool
from jaxcnn.layers.initialisers import VarianceScaling, he_normal_fan_in
from jaxcnn.models.base import Model, ModelEntry

# Section 3: deviation sqrt(2 / N), N being the incoming nodes of one neuron. An output of the 2x2 up-convolution
# sees one of the kernel's four positions, so its N is a quarter of the kernel's fan.
upconv_init = VarianceScaling(4 * 2.0, "fan_in")


class Down(nn.Module):
    """Two 3x3 convolutions with ReLU; `conv(features, kernel_size, name=...)` makes them, a partial of `ConvNorm`."""

    features: int
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 features"]:
        """Return maps of the same size with padding, smaller by 4 without."""
        x = self.conv(self.features, 3, name="conv1")(x)
        return self.conv(self.features, 3, name="conv2")(x)


class Up(nn.Module):
    """2x2 up-convolution `upconv`, the skipped maps beside it, and two 3x3 convolutions with ReLU."""

    features: int
    conv: Callable[..., nn.Module]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch h w c"], skip: Float[Array, "batch h3 w3 features"]
    ) -> Float[Array, "batch h2 w2 features"]:
        """Return maps of twice the size with padding, smaller by 4 without; `skip` is cropped at its centre."""
        # No ReLU here, as in the paper's text; the network that its authors released has one.
        x = ConvTranspose(self.features, 2, strides=2, kernel_init=upconv_init, dtype=self.dtype, name="upconv")(x)
        height, width = x.shape[1:3]
        top, left = (skip.shape[1] - height) // 2, (skip.shape[2] - width) // 2
        x = jnp.concatenate([skip[:, top : top + height, left : left + width], x], axis=-1)
        x = self.conv(self.features, 3, name="conv1")(x)
        return self.conv(self.features, 3, name="conv2")(x)


class UNet(Model):
    """A U-Net; see the variants at the end of this file.

    Logits are [batch, height, width, num_classes], of the input's size with padding "same" and smaller by 184
    (for five levels) with "valid". The sizes that are admitted halve evenly at each level: multiples of 16 from 16
    with "same"; 188, 204, 220, ..., 572, ... with "valid".

    Attributes:
        widths: channels of each level; the last one is the bottom of the U.
        padding: of the 3x3 convolutions.
        batch_norm: whether BatchNorm, in place of a bias, follows each of them.
        dropout_rate: behind the last two levels of the contracting path.
        num_classes: None returns the maps of `up1`.
        dtype: of the computation; parameters, statistics and logits are float32.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    padding: Literal["valid", "same"] = "valid"
    batch_norm: bool = False
    dropout_rate: float = 0.5
    num_classes: int | None = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height2 width2 outputs"]:
        """Return logits, or the last maps; `train=True` drops units and uses the batch's statistics."""
        self.check_size(x.shape[1:3])
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        conv = partial(
            ConvNorm,
            padding=1 if self.padding == "same" else 0,
            conv=partial(Conv, use_bias=not self.batch_norm, kernel_init=he_normal_fan_in, dtype=self.dtype),
            norm=norm if self.batch_norm else None,
        )
        levels, maps = len(self.widths), []
        for level, width in enumerate(self.widths, 1):
            x = Down(width, conv, name=f"down{level}")(x)
            if level > levels - 2:
                # "At the end of the contracting path"; the places and the rate are the released network's.
                x = Dropout(self.dropout_rate, deterministic=not train)(x)
            maps.append(x)
            x = max_pool(x, 2) if level < levels else x
        for level in range(levels - 1, 0, -1):
            x = Up(self.widths[level - 1], conv, self.dtype, name=f"up{level}")(x, maps[level - 1])
        x = x.astype(jnp.float32)
        if self.num_classes is None:
            return x
        return Conv(self.num_classes, 1, kernel_init=he_normal_fan_in, name="head")(x)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Images that the model admits: the paper's size, or one that the other padding halves evenly."""
        side = 572 if self.padding == "valid" else 512
        return side, side, 1

    @nn.nowrap
    def admitted_sizes(self) -> tuple[int, int]:
        """Return the smallest size that halves evenly at each level and leaves something, and the step to the next."""
        step = 2 ** (len(self.widths) - 1)
        if self.padding == "same":
            return step, step
        # Bottom maps of size b come from images of size step * (b + 8) - 4 and lead to logits of size
        # step * (b - 4) + 4, which leaves something from b = 4 on (from 3 with two levels, from 1 with one).
        bottom = 4 - 3 // step
        return step * (bottom + 8) - 4, step

    @nn.nowrap
    def check_size(self, sizes: tuple[int, ...]) -> None:
        """Raise UsageError unless all of these are admitted; names the nearest that are."""
        smallest, step = self.admitted_sizes()
        for size in sizes:
            below = max(smallest, size - (size - smallest) % step)
            if size != below:
                nearest = f"{below}" if size < smallest else f"{below} and {below + step}"
                raise UsageError(
                    f"input of size {size}: this U-Net takes {smallest}, {smallest + step}, {smallest + 2 * step}, "
                    f"...; nearest valid {nearest}"
                )


unet = UNet
unet_same = partial(UNet, padding="same", batch_norm=True, dropout_rate=0.0)

# For tests: every kind of block in a second.
unet_tiny = partial(UNet, widths=(4, 8, 8), num_classes=5)

_entry = partial(ModelEntry, paper="1505.04597", year=2015, num_classes=2)
MODELS = {
    "unet": _entry(unet, input_shape=(572, 572, 1)),
    "unet_same": _entry(unet_same, input_shape=(512, 512, 3)),
}
