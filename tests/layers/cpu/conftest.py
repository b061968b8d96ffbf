"""The formulations for the CPU are tested as they are compiled for users."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def compiled_as_for_users():
    """Compile with all optimisations."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
