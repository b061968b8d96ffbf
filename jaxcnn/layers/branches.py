"""The notation of the Inception papers' figures: convolutions in a chain, chains side by side.

    chain     (step, step, ...)      one after the other
    branches  (chain, chain, ...)    on the same input, their results concatenated
    step      Row(...), a parameter-free function such as a pooling, or branches

So `((Row(64, 1),), (Row(48, 1), Row(64, 5)), (pool, Row(32, 1)))` is a block of three branches.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxcnn.layers.geometry import Padding


class Row(NamedTuple):
    """One convolution of a chain; without `padding` half the kernel on each side, which at stride 1 keeps the size."""

    features: int
    kernel_size: int | tuple[int, int]
    strides: int = 1
    padding: Padding | None = None

    @property
    def edges(self) -> Padding:
        """The padding, in numbers where it was left out."""
        if self.padding is not None:
            return self.padding
        sizes = (self.kernel_size,) * 2 if isinstance(self.kernel_size, int) else self.kernel_size
        return tuple(size // 2 for size in sizes)


# Recursive, which neither jaxtyping nor Linen's fields can say: see the notation above.
Step = Row | Callable[[Array], Array] | tuple[Any, ...]
Steps = tuple[Step, ...]


def named_steps(steps: Steps) -> Iterator[tuple[str, Step]]:
    """Yield each step with its name: conv1, conv2, ... and block1, block2, ...; functions have none."""
    counts: Counter[str] = Counter()
    for step in steps:
        kind = "conv" if isinstance(step, Row) else "block" if isinstance(step, tuple) else ""
        counts[kind] += 1
        yield kind and f"{kind}{counts[kind]}", step


def conv_paths(steps: Steps, path: str) -> Iterator[str]:
    """Yield the paths of all convolutions of the chain called `path`, in the order of the figure.

    >>> list(conv_paths((Row(8, 3), ((Row(4, 1),), (Row(2, 1), Row(4, 3)))), "stem"))
    ['stem/conv1', 'stem/block1/branch1/conv1', 'stem/block1/branch2/conv1', 'stem/block1/branch2/conv2']
    """
    for name, step in named_steps(steps):
        if isinstance(step, Row):
            yield f"{path}/{name}"
        elif isinstance(step, tuple):
            yield from branch_paths(step, f"{path}/{name}")


def branch_paths(branches: tuple[Steps, ...], path: str) -> Iterator[str]:
    """Yield the paths of all convolutions of the branches called `path`, one branch after the other."""
    for i, steps in enumerate(branches, 1):
        yield from conv_paths(steps, f"{path}/branch{i}")


class Chain(nn.Module):
    """Steps one after the other, named as in `named_steps`.

    Attributes:
        steps: see the notation above.
        conv: makes a row's module when called as `conv(features, kernel_size, strides=, padding=, name=)`.
    """

    steps: Steps
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c2"]:
        """Return the result of the last step."""
        for name, step in named_steps(self.steps):
            if isinstance(step, Row):
                x = self.conv(step.features, step.kernel_size, strides=step.strides, padding=step.edges, name=name)(x)
            elif isinstance(step, tuple):
                x = Branches(step, self.conv, name=name)(x)
            else:
                x = step(x)
        return x


class Branches(nn.Module):
    """Chains side by side, named branch1, branch2, ...; the attributes are those of `Chain`."""

    branches: tuple[Steps, ...]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c2"]:
        """Return the results of all chains, concatenated along the channels."""
        results = [Chain(steps, self.conv, name=f"branch{i}")(x) for i, steps in enumerate(self.branches, 1)]
        return jnp.concatenate(results, axis=-1)
