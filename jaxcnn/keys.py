"""Randomness: an experiment has one key; what each thing that is random draws from is folded in from that."""

import jax

INIT, DROPOUT, SHUFFLE, AUGMENT, CROP = range(5)
"""The purposes of keys."""


def init_key(key: jax.Array) -> jax.Array:
    """Return the key of the initialisation, from the experiment's."""
    return jax.random.fold_in(key, INIT)


def step_key(key_data: jax.Array, purpose: int, step: jax.Array | int) -> jax.Array:
    """Return the key of one purpose at one step, from the experiment's as plain data, which a state carries."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key_data), purpose), step)
