"""BatchNorm of frozen parts normalises as in evaluation, also while the rest trains."""

import contextlib
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn

from jaxcnn.layers import BatchNorm


def frozen_batch_norm(patterns: Sequence[str]) -> contextlib.AbstractContextManager[None]:
    """Return a context in which each BatchNorm with a parameter that matches uses its running statistics.

    With the statistics of the batch a frozen network would compute something else than the one that was trained,
    and its running statistics would drift to the new images.

    Args:
      patterns: shell patterns over paths of parameters, such as "stage1/*".
    """

    def call(next_call: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if isinstance(module, BatchNorm | nn.BatchNorm) and context.method_name == "__call__":
            path = "/".join(module.path)
            leaves = (f"{path}/scale", f"{path}/bias")
            if any(fnmatchcase(leaf, pattern) for leaf in leaves for pattern in patterns):
                kwargs = {**kwargs, "use_running_average": True}
                # Flax takes it in one place alone. The module is a copy for this one `apply`.
                object.__setattr__(module, "use_running_average", None)
        return next_call(*args, **kwargs)

    return nn.intercept_methods(call) if patterns else contextlib.nullcontext()
