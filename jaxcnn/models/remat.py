"""Rematerialisation: the backward pass computes a block's inner activations again, so that only its input is kept."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

_BLOCK = re.compile(r"block\d+")
Path = tuple[str, ...]


@contextlib.contextmanager
def rematerialised(paths: frozenset[Path]) -> Iterator[None]:
    """Return a context in which modules at these paths keep their inputs and sums over the batch, and nothing else.

    Each is a computation of its own to jax, whose repetition waits for the gradient of its output: one over the
    whole network could be scheduled as soon as the backward pass begins, and would save nothing.
    """
    entered: set[Path] = set()

    def call(next_call: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext) -> Any:
        path = context.module.path
        if context.method_name != "__call__" or path not in paths or path in entered:
            return next_call(*args, **kwargs)
        entered.add(path)  # Within, the module is called once more.
        x, *others = args  # which may be sizes
        again = nn.remat(lambda module, x: module(x, *others, **kwargs), policy=_sums_over_batch)
        result = again(context.module, x)
        entered.remove(path)
        return result

    with nn.intercept_methods(call):
        yield


def blocks_of(params: Any) -> frozenset[Path]:
    """Return the paths of a model's blocks: submodules called block1, block2, ..., the outermost of them.

    A top-level submodule with convolutions but none of these is one itself, such as the stem, or a Fire module.
    """
    blocks, tops = set(), set()
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = tuple(key.key for key in keys)
        inner = next((depth for depth, name in enumerate(path) if _BLOCK.fullmatch(name)), None)
        if inner is not None:
            blocks.add(path[: inner + 1])
        elif leaf.ndim > 2:  # a convolution's kernel
            tops.add(path[:1])
    return frozenset(blocks | (tops - {path[:1] for path in blocks}))


def _sums_over_batch(primitive: Any, *_: Any, **params: Any) -> bool:
    # What BatchNorm takes from the batch: it is small, but another pass over the activations; and on several devices
    # it would cross them once more.
    return primitive.name in ("psum", "channel_moments") or (primitive.name == "reduce_sum" and 0 in params["axes"])
