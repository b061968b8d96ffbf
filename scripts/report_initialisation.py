"""Write docs/initialisation.md: how large each network's activations are before its first training step.

    python scripts/report_initialisation.py            every classification model, about 20 minutes on two cores
    python scripts/report_initialisation.py NAME ...   the named ones, printed only

Each model is created at full depth, initialised with key 0 and given 4 images of independent standard normal pixels
at its published size, in training mode (BatchNorm normalises by the batch). The table has the standard deviation of
what each of its top-level parts returns. A network whose signal grows or shrinks without bound from part to part
cannot be trained from there.
"""

import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.layers import Dropout
from jaxcnn.models import MODELS, Model, create

DOCUMENT = Path(__file__).parents[1] / "docs/initialisation.md"
# Neither does the signal vanish nor explode within these.
SANE = 1e-2, 1e2


def deviations(model: Model, input_shape: tuple[int, int, int]) -> dict[str, float]:
    """Return the standard deviation of each top-level part's output, in the order of the calls."""
    images = jax.random.normal(jax.random.key(1), (4, *input_shape), jnp.float32)
    variables = model.init(jax.random.key(0), images)
    order: list[str] = []

    @jax.jit
    def measure(variables, images):
        found = {}

        def note(call, args, kwargs, context):
            y = call(*args, **kwargs)
            is_part = len(context.module.path) == 1 and not isinstance(context.module, Dropout)
            if context.method_name == "__call__" and is_part:
                name = context.module.path[0]
                order.append(name)
                found[name] = jnp.std(y.astype(jnp.float32))
            return y

        with nn.intercept_methods(note):
            model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(2)})
        return found

    found = jax.device_get(measure(variables, images))
    return {name: float(found[name]) for name in dict.fromkeys(order)}


def classifies(name: str) -> bool:
    """Return whether the model has one row of logits for an image."""
    images = jax.ShapeDtypeStruct((1, *MODELS[name].input_shape), jnp.float32)
    model = create(name)
    outputs = jax.eval_shape(lambda key, x: nn.Module.init_with_output(model, key, x)[0], jax.random.key(0), images)
    return outputs.ndim == 2


def line(name: str, **options: Any) -> str:
    """Return the table's row of one model."""
    found = deviations(create(name, **options), MODELS[name].input_shape)
    values = np.array(list(found.values()))
    sane = np.isfinite(values).all() and SANE[0] <= values.min() and values.max() <= SANE[1]
    parts = ", ".join(f"{part} {value:.2g}" for part, value in found.items())
    label = name + "".join(f", {key}={value}" for key, value in options.items())
    return f"| {label} | {values.min():.2g} | {values.max():.2g} | {'yes' if sane else '**no**'} | {parts} |"


def main(names: list[str]) -> None:
    """Print the rows of `names`; without any, write the document."""
    rows = []
    for name in names or [name for name in MODELS if classifies(name)]:
        # Where the paper's own is not the default, both.
        kinds = dict.fromkeys((getattr(create(name), "initialisation", None), "paper"))
        cases: list[dict[str, Any]] = [{}] if None in kinds else [{"initialisation": kind} for kind in kinds]
        for case in cases:
            rows.append(line(name, **case))
            print(rows[-1], flush=True)
    if not names:
        DOCUMENT.write_text(HEADER + "\n".join(rows) + "\n")


HEADER = f"""# Activations at initialisation

Written by `scripts/report_initialisation.py`, on a CPU in float32: the standard deviation of what each top-level part
of a network returns, at full depth, with its initial parameters (key 0), for 4 images of standard normal pixels at the
published size, in training mode. "Sane" means that all lie between {SANE[0]:g} and {SANE[1]:g}.

Two papers have initialisations of their own that do not do for such inputs; where a name is listed twice, the first is
the default here and the second the paper's.

- VGG, "variance 10^-2": a layer with c input channels multiplies the deviation by about sqrt(9 c / 2) / 10, which is
  1.7 for 64 channels and 4.8 for 512. The paper trains its shallowest network, A, from it and starts the others from
  A's layers; for starting without that it offers Glorot and Bengio's initialisation (`initialisation="glorot"`). The
  default is He's, with which the deepest keep their scale, too.
- ZFNet, N(0, 0.01^2) with biases of zero: meant for pixels of 0 to 255, it vanishes for inputs of variance 1. The
  default is He's.

In evaluation before any training, BatchNorm divides by running statistics that are still 1, so the numbers of networks
with it are others there: the signal may vanish (MobileNet) or grow (DenseNet) until the first steps have moved them.

| model | smallest | largest | sane | parts |
|---|---|---|---|---|
"""

if __name__ == "__main__":
    main(sys.argv[1:])
