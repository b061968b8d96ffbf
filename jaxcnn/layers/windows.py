"""What the windows of a convolution or pooling see, tap by tap."""

import itertools
from collections.abc import Iterator, Sequence

from jax import lax
from jaxtyping import Array

from jaxcnn.layers.geometry import Geometry
from jaxcnn.layers.precision import zero


def taps(x: Array, geometry: Geometry) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Yield each tap of the window in row-major order, with what it sees."""
    padded = lax.pad(x, zero(x.dtype), [(0, 0, 0), *[(lo, hi, 0) for lo, hi in geometry.padding], (0, 0, 0)])
    taps = itertools.product(*map(range, geometry.window))
    seen = window_slices(padded, geometry.window, geometry.strides, geometry.dilation, geometry.outputs)
    yield from zip(taps, seen, strict=True)


def window_slices(
    padded: Array,
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    outputs: Sequence[int],
) -> Iterator[Array]:
    """Yield, for each tap of the window in row-major order, what it sees: [batch, *outputs, channels]."""
    batch, channels = padded.shape[0], padded.shape[-1]
    for tap in itertools.product(*map(range, window)):
        start = [t * d for t, d in zip(tap, dilation, strict=True)]
        limit = [b + (o - 1) * s + 1 for b, o, s in zip(start, outputs, strides, strict=True)]
        yield lax.slice(padded, (0, *start, 0), (batch, *limit, channels), (1, *strides, 1))
