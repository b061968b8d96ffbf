"""Read, and differentiate with respect to, any submodule's output by its path."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError, nearest, unknown
from jaxcnn.models.base import Model

OUTPUT = "output"


def features(
    model: Model,
    variables: Mapping[str, Any],
    images: Float[Array, "batch height width channels"],
    names: Sequence[str],
    *,
    train: bool = False,
    rngs: Any = None,
    add: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what submodules of the model output for these images, by name.

    A name is a submodule's path, such as "stage3", "stage3/block2" or "stage4/block1/conv1" (`model.stages` lists
    the stages), or "output" for what the model returns. A submodule that returns a tuple gives a tuple. Pure, so it
    can be jitted (nothing is then computed beyond what is asked for), differentiated and mapped.

    The gradient of class 3 of the first image with respect to the maps of stage 4, as Grad-CAM takes it:

        def score(change):
            return features(model, variables, images, ["output"], add={"stage4": change})["output"][0, 3]

        jax.grad(score)(jnp.zeros_like(maps))

    Args:
      model: any model.
      variables: its variables.
      images: normalised floats.
      names: of which outputs.
      train: as in the model's call; what it would change in the variables is dropped.
      rngs: keys for dropout, where `train` needs them.
      add: arrays added to outputs by name, of their shapes; all that follows sees the sums.

    Raises:
      UsageError: for an unknown name, a submodule that is called several times, a change of the wrong shape.
    """
    if isinstance(names, str):
        raise UsageError(f"names is {names!r}: expected a list of names, such as [{names!r}]")
    changes = dict(add or {})
    asked = {*names, *changes}
    found: dict[str, Any] = {}
    paths: set[str] = set()

    def keep(name: str, value: Any) -> Any:
        if name in found:
            raise UsageError(f"{name!r} is called several times: its name does not stand for one output")
        if name in changes:
            value = jax.tree.map(lambda *pair: _sum(name, *pair), value, changes[name])
        found[name] = value
        return value

    def read(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        value, path = call(*args, **kwargs), "/".join(context.module.path)
        if context.method_name != "__call__" or not path:
            return value
        paths.add(path)
        return keep(path, value) if path in asked else value

    with nn.intercept_methods(read):
        answer = model.apply(variables, images, train=train, rngs=rngs, mutable=["batch_stats"] if train else False)
    keep(OUTPUT, answer[0] if train else answer)
    for name in asked - found.keys():
        tops = {path for path in paths if "/" not in path}
        raise unknown(
            f"submodule of {type(model).__name__}", name, (paths if nearest(name, paths) else tops) | {OUTPUT}
        )
    return {name: found[name] for name in names}


def _sum(name: str, value: Array, change: Array) -> Array:
    if value.shape != change.shape:
        raise UsageError(f"add[{name!r}] has shape {change.shape}: expected {value.shape}")
    return value + change.astype(value.dtype)
