"""Compiler options only where they are known, malloc's settings only where there are any, nothing on import."""

import ctypes
import subprocess
import sys
from functools import partial
from unittest.mock import Mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import Classification, TrainConfig, Trainer, backend

NAMES = {"xla_cpu_experimental_onednn_custom_call", "xla_cpu_experimental_ynn_fusion_type"}


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x.reshape(len(x), -1))


@pytest.fixture(autouse=True)
def forgotten():
    """What has been asked of the compiler is not remembered from one test to the next."""
    backend._knows.cache_clear()
    yield
    backend._knows.cache_clear()


def test_the_options_are_the_cpus_alone():
    assert set(backend.compiler_options("cpu")) <= NAMES
    assert backend.compiler_options("cuda", deterministic=False) == backend.compiler_options("tpu") == {}


def test_gpus_are_asked_for_the_same_bits_each_time():
    for platform in ("gpu", "cuda", "rocm"):  # as a device calls it, and as a program is lowered for it
        assert backend.compiler_options(platform) == {"xla_gpu_deterministic_ops": True}


def test_train_deterministic_reaches_the_compiler(monkeypatch):
    monkeypatch.setitem(backend._DETERMINISTIC, "cpu", {"xla_cpu_enable_fast_math": False})  # as if this were a GPU
    assert "xla_cpu_enable_fast_math" in backend.compiler_options("cpu")
    batch = {"image": np.arange(128, dtype=np.uint8).reshape(8, 4, 4, 1), "label": np.arange(8) % 2}
    for deterministic in (True, False):
        train = TrainConfig(batch_size=4, steps=1, devices=1, deterministic=deterministic)
        trainer = Trainer(Tiny(), optax.sgd(0.1), Classification(), {"train": batch, "test": batch}, train=train)
        spy = Mock(side_effect=lambda fun, **kwargs: fun)
        with monkeypatch.context() as spied:
            spied.setattr(jax, "jit", spy)
            trainer.parallel.jit(len)([])
        _, whole = spy.call_args_list
        assert ("xla_cpu_enable_fast_math" in whole.kwargs["compiler_options"]) == deterministic


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="what jaxlib 0.12 knows")
def test_jaxlib_knows_the_options():
    assert set(backend.compiler_options("cpu")) == NAMES


def test_what_jaxlib_does_not_know_is_left_out(monkeypatch):
    known = {"xla_cpu_enable_fast_math": False}
    monkeypatch.setitem(backend._OPTIONS, "cpu", {"xla_of_next_year": True, **known})
    assert backend.compiler_options("cpu") == known
    assert backend.jit(lambda x: x + 1, platform="cpu")(1) == 2
    with pytest.raises(jax.errors.JaxRuntimeError):  # otherwise this test would show nothing
        jax.jit(lambda x: x + 1, compiler_options={"xla_of_next_year": True})(1)


def test_errors_of_another_kind_are_not_taken_for_an_unknown_option(monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("something else")

    monkeypatch.setattr(jax, "jit", broken)
    with pytest.raises(ValueError, match="something else"):
        backend.compiler_options("cpu")


def test_jit_compiles_with_the_options_and_passes_the_rest_on(monkeypatch):
    seen = []
    real = jax.jit
    options, cuda = backend.compiler_options("cpu"), backend.compiler_options("cuda")

    def spy(fun, **kwargs):
        seen.append(kwargs)
        return real(fun, **kwargs)

    monkeypatch.setattr(jax, "jit", spy)
    added = backend.jit(lambda x, n: x + n, static_argnums=1, donate_argnums=0)
    assert added(jnp.float32(1), 2) == 3
    rest = {"static_argnums": 1, "donate_argnums": 0}
    assert seen == [rest, {"compiler_options": options, **rest}]
    assert backend.jit(lambda x: x, platform="cuda").lower(1)
    assert seen[2:] == [{}, {"compiler_options": cuda}]
    assert backend.jit(lambda x: x, platform="cuda", deterministic=False).lower(1)
    assert seen[4:] == [{}]


def test_jit_within_another_transformation_is_part_of_it():
    squared = backend.jit(lambda x: x**2)
    assert jax.grad(squared)(3.0) == 6
    assert jax.jit(squared)(3.0) == 9
    assert backend.jit(jax.grad(squared))(3.0) == 6
    np.testing.assert_array_equal(jax.vmap(squared)(np.arange(3.0)), [0, 1, 4])
    assert jax.eval_shape(squared, jax.ShapeDtypeStruct((2,), jnp.float32)).shape == (2,)


def test_jit_decorates_methods():
    class Scaled:
        factor = 3

        @partial(backend.jit, static_argnums=0)
        def of(self, x):
            """Scaled."""
            return self.factor * x

    assert Scaled().of(2) == 6
    assert Scaled.of.__doc__ == "Scaled."


def test_a_program_knows_which_compiler_will_have_it():
    if backend.ONEDNN not in backend.compiler_options("cpu"):
        pytest.skip("this jaxlib has no oneDNN")
    seen = []

    def f(x):
        seen.append(backend.with_onednn.value)
        return x + 1

    like = jax.ShapeDtypeStruct((), jnp.float32)
    for jit, platform, expected in ((backend.jit, "cpu", True), (backend.jit, "cuda", False), (jax.jit, None, False)):
        compiled = jit(f) if platform is None else jit(f, platform=platform)
        for call in (lambda g: g(1.0), lambda g: g.trace(like), lambda g: g.lower(like)):
            seen.clear()
            jax.clear_caches()
            call(compiled)
            assert seen == [expected]
    # The same function again, for the other compiler: traced anew.
    g = lambda x: f(x)  # noqa: E731
    seen.clear()
    assert backend.jit(g, platform="cpu")(1.0) == jax.jit(g)(1.0) == backend.jit(g, platform="cpu")(1.0)
    assert seen[:2] == [True, False]


def test_the_numbers_are_those_of_jit():
    x, kernel = np.random.default_rng(0).normal(size=(2, 8, 8, 16)), np.random.default_rng(1).normal(size=(3, 3, 16, 8))

    def loss(x, kernel):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(jnp.sin(y))

    arguments = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    found = backend.jit(jax.grad(loss, (0, 1)))(*arguments)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, jax.grad(loss, (0, 1))(*arguments)
    )


class Libc:
    """A C library that notes what it is asked for; `mallopt` answers 0 where it fails."""

    def __init__(self, answer):
        self.calls = []
        self.answer = answer

    def mallopt(self, parameter, value):
        self.calls.append((parameter, value))
        return self.answer


@pytest.mark.parametrize(("answer", "kept"), [(1, True), (0, False)])
def test_malloc_is_told_to_keep_everything(monkeypatch, answer, kept):
    libc = Libc(answer)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(sys, "platform", "linux")
    assert backend.keep_freed_memory() is kept
    # M_TRIM_THRESHOLD, M_MMAP_MAX and M_ARENA_MAX of glibc's malloc.h.
    assert libc.calls == [(-1, -1), (-4, 0), (-8, 1)]


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(sys, "platform", "linux")
    assert backend.keep_freed_memory() is False


def test_another_system_is_left_alone(monkeypatch):
    libc = Libc(1)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert backend.keep_freed_memory() is False
    assert libc.calls == []


IMPORT = """
import os, sys
import jax
from jax._src import xla_bridge
before = dict(os.environ), dict(jax.config.values)
import jaxcnn
import jaxcnn.backend, jaxcnn.layers, jaxcnn.models, jaxcnn.tasks, jaxcnn.data, jaxcnn.runs, jaxcnn.cli
import jaxcnn.train.loop, jaxcnn.train.parallel, jaxcnn.train.together, jaxcnn.runs.seeds
found = [getattr(jaxcnn, name) for name in jaxcnn.__all__]
assert all(callable(one) or type(one) is type(sys) for one in found)
assert not xla_bridge.backends_are_initialized()
for was, now in zip(before, (dict(os.environ), dict(jax.config.values)), strict=True):
    changed = {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}
    assert not changed, changed
assert jaxcnn.backend._knows.cache_info().currsize == 0
print("nothing changed")
"""


def test_importing_changes_nothing_and_starts_no_backend():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=300)
    assert done.stdout == "nothing changed\n", done.stderr[-3000:]


MALLOC = """
from jaxcnn.backend import keep_freed_memory
kept = keep_freed_memory()
assert type(kept) is bool
import jax.numpy as jnp
assert float(jnp.ones((512, 512)).sum()) == 512 * 512  # computing goes on
print(kept)
"""


def test_the_real_c_library():
    done = subprocess.run([sys.executable, "-c", MALLOC], capture_output=True, text=True, timeout=300)
    glibc = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt")
    assert done.stdout == f"{glibc}\n", done.stderr[-3000:]
