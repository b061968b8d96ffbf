"""How programs are compiled on each platform, and what the process does for them; nothing here happens on import."""

import contextlib
import ctypes
import math
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import jax

# XLA's CPU compiler (jaxlib 0.12) holds oneDNN's convolutions, which are off by default, and another library's,
# which are slower for the shapes of convolutional networks: that one is kept for reductions.
_OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {
        "xla_cpu_experimental_onednn_custom_call": True,
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    },
}


def jit(fun: Callable, *, platform: str | None = None, **kwargs: Any) -> Any:
    """Return `jax.jit(fun, **kwargs)` with the compiler options that make the platform fast.

    Programs compiled with such options are not kept in JAX's persistent compilation cache, see `_NeverSaved`. JAX
    takes compiler options for whole programs alone: within another `jit` call `fun` itself.

    Args:
      fun: a function of arrays.
      platform: "cpu", "cuda", "tpu", ...; None: the default backend's, which is started to know it.
      kwargs: as for `jax.jit`.
    """
    options = compiler_options(platform or jax.default_backend())
    jitted = jax.jit(fun, compiler_options=options, **kwargs)
    return _NeverSaved(jitted) if options else jitted


class _NeverSaved:
    """A jitted function, or a later stage of one, whose program JAX does not write to its persistent compilation cache.

    jaxlib 0.12 has no serial form for oneDNN's convolutions and takes them for something else, which ends in a
    MemoryError at best. JAX writes what took longer to compile than a limit, which is raised here for the duration of
    a call.
    """

    def __init__(self, stage: Any) -> None:
        self._stage = stage

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _saving_limit(math.inf):
            return self._stage(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> "_NeverSaved":
        return _NeverSaved(self._stage.trace(*args, **kwargs))

    def lower(self, *args: Any, **kwargs: Any) -> "_NeverSaved":
        return _NeverSaved(self._stage.lower(*args, **kwargs))

    def compile(self, *args: Any, **kwargs: Any) -> Any:
        with _saving_limit(math.inf):
            return self._stage.compile(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_stage":  # not yet there, while it is copied
            raise AttributeError(name)
        return getattr(self._stage, name)


def compiler_options(platform: str) -> dict[str, Any]:
    """Return the options that `jit` compiles with on a platform: those of ours that the installed jaxlib knows."""
    return {name: value for name, value in _OPTIONS.get(platform, {}).items() if _knows(name, value)}


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
