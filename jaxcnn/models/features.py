"""Read, and differentiate with respect to, any submodule's output by its path."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError, nearest, unknown
from jaxcnn.models.calls import apply

OUTPUT = "output"
# The collection, and the name in each module, that outputs are sown into.
_SOWN = "outputs read by features"


def features(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Float[Array, "batch height width channels"],
    names: Sequence[str],
    *,
    train: bool = False,
    key: jax.Array | None = None,
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
      model: any module that is called with images.
      variables: its variables.
      images: normalised floats.
      names: of which outputs.
      train: as in the model's call; what it would change in the variables is dropped.
      key: of dropout, where `train` needs one.
      add: arrays added to outputs by name, of their shapes; all that follows sees the sums.

    Raises:
      UsageError: for an unknown name, a submodule that is called several times, a change of the wrong shape.
    """
    if isinstance(names, str):
        raise UsageError(f"names is {names!r}: expected a list of names, such as [{names!r}]")
    changes = dict(add or {})
    asked = {*names, *changes}
    paths: set[str] = set()

    def read(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        value, module = call(*args, **kwargs), context.module
        path = "/".join(module.path)
        if context.method_name != "__call__" or not path:
            return value
        paths.add(path)
        value = _changed(path, value, changes)
        if path in asked and not module.sow(_SOWN, _SOWN, value):
            raise UsageError(f"{path!r} lies in a loop of Flax, from which its output does not come out")
        return value

    with nn.intercept_methods(read):
        outputs, updates = apply(model, variables, images, train=train, key=key, collect=[_SOWN])
    found = {OUTPUT: (_changed(OUTPUT, outputs, changes),)}
    found |= {
        path.removesuffix(f"/{_SOWN}"): sown for path, sown in flatten_dict(updates.get(_SOWN, {}), sep="/").items()
    }
    for name in asked - found.keys():
        tops = {path for path in paths if "/" not in path}
        raise unknown(
            f"submodule of {type(model).__name__}", name, (paths if nearest(name, paths) else tops) | {OUTPUT}
        )
    for name in asked:
        if len(found[name]) > 1:
            raise UsageError(f"{name!r} is called several times: its name does not stand for one output")
    return {name: found[name][0] for name in names}


def _changed(name: str, value: Any, changes: Mapping[str, Any]) -> Any:
    """Return an output with what is to be added to it."""
    return jax.tree.map(lambda *pair: _sum(name, *pair), value, changes[name]) if name in changes else value


def _sum(name: str, value: Array, change: Array) -> Array:
    if value.shape != change.shape:
        raise UsageError(f"add[{name!r}] has shape {change.shape}: expected {value.shape}")
    return value + change.astype(value.dtype)
