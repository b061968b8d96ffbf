"""What training changes, as data and nothing else."""

import hashlib
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any


@flax.struct.dataclass
class TrainState:
    """Everything a training step reads and replaces. Model, optimiser and task are closed over by the step."""

    step: jax.Array  # int32 scalar: optimiser steps done
    params: Tree
    batch_stats: Tree  # {} for models without BatchNorm
    opt_state: Tree
    ema: Tree  # averaged parameters, or None
    key: jax.Array  # uint32[2], the experiment's key as plain data; constant, all else is folded in from it

    @property
    def variables(self) -> dict[str, Tree]:
        """Return what `model.apply` takes for evaluation: the averaged parameters where there are any."""
        return {"params": self.params if self.ema is None else self.ema, "batch_stats": self.batch_stats}


def create_state(variables: Tree, tx: optax.GradientTransformation, key: jax.Array, *, ema: bool = False) -> TrainState:
    """Return the state before the first step.

    Args:
      variables: the model's, initialised or loaded.
      tx: the optimiser.
      key: from which all that is random in training is drawn.
      ema: keep an average of the parameters; it starts as a copy of them.
    """
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        key=jnp.copy(jax.random.key_data(key)),  # a training step may donate the state; the key is the caller's
    )


def params_sha256(params: Tree) -> str:
    """Return the SHA-256 over all parameters (path, dtype, shape, bytes), in the order of their sorted paths."""
    digest = hashlib.sha256()
    leaves = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    for path, leaf in sorted(leaves, key=lambda item: item[0]):
        array = np.asarray(leaf)
        digest.update(f"{path} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
