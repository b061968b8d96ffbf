"""How programs are compiled on each platform, and what the process does for them; nothing here happens on import."""

import contextlib
import ctypes
import functools
import math
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import jax

# XLA's CPU compiler (jaxlib 0.12) holds oneDNN's convolutions, which are off by default, and another library's,
# which are slower for the shapes of convolutional networks: that one is kept for reductions.
ONEDNN = "xla_cpu_experimental_onednn_custom_call"
_OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {
        ONEDNN: True,
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    },
}
# Where a compiler may choose what gives other bits from one run to the next: scatters that add in any order, and
# convolutions by whichever algorithm was fastest when the process tried them. On CPUs and TPUs it does not.
_DETERMINISTIC: dict[str, dict[str, Any]] = {
    platform: {"xla_gpu_deterministic_ops": True} for platform in ("gpu", "cuda", "rocm")
}


with_onednn = jax.make_user_context(False)
"""Whether what is being lowered will be compiled with oneDNN's convolutions. JAX keeps one program for each answer."""


def jit(fun: Callable, *, platform: str | None = None, deterministic: bool = True, **kwargs: Any) -> Any:
    """Return `jax.jit(fun, **kwargs)` with the compiler options that make the platform fast and its results the same.

    It goes around a whole program, gradients and optimiser included: JAX takes compiler options for whole programs
    alone. Within another transformation (`jax.grad(jaxcnn.jit(f))`, a `jit` in a `jit`) it is `jax.jit(fun, **kwargs)`,
    and the program is compiled as what is around it says. Under plain `jax.jit` all of this library computes the same
    numbers, to rounding; on a CPU it takes longer.

    Programs for the CPU are then not kept in JAX's persistent compilation cache, see `_NeverSaved`, and `jax.export`
    takes none of the options, since it does not know who will compile what it exports: give it `jax.jit(fun)`.

    Args:
      fun: a function of arrays.
      platform: "cpu", "cuda", "tpu", ...; None: the default backend's at the first call.
      deterministic: ask the compilers that could do otherwise, those for GPUs, for operations with the same bits each
        time, which may cost time.
      kwargs: as for `jax.jit`.

    >>> jit(lambda x: 2 * x)(3)
    Array(6, dtype=int32, weak_type=True)
    """
    return _Jitted(fun, platform, deterministic, kwargs)


class _Jitted:
    """What `jit` returns. Nothing starts a backend before the first call."""

    def __init__(self, fun: Callable, platform: str | None, deterministic: bool, kwargs: dict[str, Any]) -> None:
        functools.update_wrapper(self, fun, updated=())
        self._fun, self._platform, self._deterministic, self._kwargs = fun, platform, deterministic, kwargs
        self._part = jax.jit(fun, **kwargs)

    @functools.cached_property
    def _whole(self) -> Any:
        platform = self._platform or jax.default_backend()
        options = compiler_options(platform, self._deterministic)
        if not options:
            return self._part
        whole = jax.jit(self._fun, compiler_options=options, **self._kwargs)
        return _NeverSaved(whole, ONEDNN in options) if platform == "cpu" else whole

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        return (self._part if traced else self._whole)(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)  # a method's `self`

    def __getattr__(self, name: str) -> Any:  # trace, lower, ...
        if "_part" not in vars(self):  # while it is copied
            raise AttributeError(name)
        return getattr(self._whole, name)


class _NeverSaved:
    """A jitted function, or a later stage of one, whose program JAX does not write to its persistent compilation cache.

    jaxlib 0.12 has no serial form for oneDNN's convolutions and takes them for something else, which ends in a
    MemoryError at best. JAX writes what took longer to compile than a limit, which is raised here for the duration of
    a call; for as long, `with_onednn` says what the program will be compiled with.
    """

    def __init__(self, stage: Any, onednn: bool) -> None:
        self._stage, self._onednn = stage, onednn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _saving_limit(math.inf), with_onednn(self._onednn):
            return self._stage(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> "_NeverSaved":
        return self._next("trace", *args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> "_NeverSaved":
        return self._next("lower", *args, **kwargs)

    def _next(self, stage: str, *args: Any, **kwargs: Any) -> "_NeverSaved":
        with with_onednn(self._onednn):
            return _NeverSaved(getattr(self._stage, stage)(*args, **kwargs), self._onednn)

    def compile(self, *args: Any, **kwargs: Any) -> Any:
        with _saving_limit(math.inf):
            return self._stage.compile(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_stage":  # not yet there, while it is copied
            raise AttributeError(name)
        return getattr(self._stage, name)


def compiler_options(platform: str, deterministic: bool = True) -> dict[str, Any]:
    """Return the options that `jit` compiles with on a platform: those of ours that the installed jaxlib knows."""
    wanted = _OPTIONS.get(platform, {}) | (_DETERMINISTIC.get(platform, {}) if deterministic else {})
    return {name: value for name, value in wanted.items() if _knows(name, value)}


try:  # for this thread alone, which jax has no public name for
    from jax._src.config import persistent_cache_min_compile_time_secs as _saving_limit
except ImportError:  # another jax: for the process, from now on

    def _saving_limit(seconds: float) -> contextlib.AbstractContextManager:  # type: ignore[misc]
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
        return contextlib.nullcontext()


@cache
def _knows(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep_freed_memory() -> bool:
    """Let malloc keep the memory of freed arrays for the next ones; return whether this C library can (glibc's).

    By default it gives large blocks back to the kernel, which clears each of their pages on every new use: up to
    three times the time of a single operation, up to ten where a worker thread's own arena is too small for the block.
    Once per process, before jax starts its threads. What it costs is that memory stays with the process after its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    # Names and numbers of glibc's malloc.h. -1 is no limit; a number here would be one of 2 GB at most.
    trim_threshold, mmap_max, arena_max = -1, -4, -8
    return all([mallopt(trim_threshold, -1), mallopt(mmap_max, 0), mallopt(arena_max, 1)])
