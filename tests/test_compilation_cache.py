"""What JAX's persistent compilation cache is given: never a program compiled with our options."""

import copy
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxcnn import backend

OPTIONS = backend.compiler_options("cpu")


@pytest.fixture
def saved(tmp_path):
    """Turn the cache on, and return what tells the names of the functions whose programs are in it."""
    backend.compiler_options("cpu")  # what asks the compiler for them is compiled, too, if it was forgotten
    settings = {"jax_compilation_cache_dir": str(tmp_path), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield lambda: {path.name.removeprefix("jit_").split("-")[0] for path in tmp_path.glob("*-cache")}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


IMAGES, KERNEL = np.ones((4, 8, 8, 16), np.float32), np.ones((3, 3, 16, 32), np.float32)


def call(jitted):
    return jitted(IMAGES, KERNEL)


def compile_ahead(jitted):
    return jitted.lower(IMAGES, KERNEL).compile()(IMAGES, KERNEL)


def trace_first(jitted):
    return jitted.trace(IMAGES, KERNEL).lower().compile()(IMAGES, KERNEL)


@pytest.mark.parametrize("use", [call, compile_ahead, trace_first])
def test_our_programs_are_not_saved_and_others_are(saved, use):
    def convolution(images, kernel):  # by oneDNN where jaxlib has it
        return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    ours = use(backend.jit(convolution))
    assert saved() == (set() if OPTIONS else {"convolution"})
    np.testing.assert_allclose(ours, jax.jit(convolution)(IMAGES, KERNEL), rtol=1e-5)
    assert saved() == {"convolution"}


@pytest.mark.skipif(not OPTIONS, reason="this jaxlib has none of our options")
def test_only_the_thread_that_compiles_is_kept_from_saving(saved):
    tracing, go_on = threading.Event(), threading.Event()

    def ours(x):
        tracing.set()
        assert go_on.wait(60)
        return x + 1

    def others(x):
        return x + 2

    thread = threading.Thread(target=backend.jit(ours, platform="cpu"), args=(np.float32(0),))
    thread.start()
    assert tracing.wait(60)
    jax.jit(others)(np.float32(0))
    go_on.set()
    thread.join()
    assert saved() == {"others"}


def test_an_error_leaves_the_cache_on(saved):
    def wrong(x):
        raise ValueError("wrong")

    def right(x):
        return x + 3

    with pytest.raises(ValueError, match="wrong"):
        backend.jit(wrong)(np.float32(0))
    jax.jit(right)(np.float32(0))
    assert saved() == {"right"}


def test_a_jitted_function_is_otherwise_as_jax_made_it():
    jitted = backend.jit(lambda x, n: x * n, static_argnums=1)
    assert jitted.eval_shape(jnp.ones(3), 2).shape == (3,)
    assert "stablehlo.multiply" in jitted.lower(jnp.ones(3), 2).as_text()
    assert copy.copy(jitted)(jnp.ones(3), 2).tolist() == [2, 2, 2]
    with pytest.raises(AttributeError, match="wrong"):
        _ = jitted.wrong
