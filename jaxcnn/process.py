"""What belongs to a process and not to the library: the allocator, the compilation cache, the cluster."""

import os
import warnings
from pathlib import Path
from typing import Any

from jaxcnn.errors import UsageError

_CLUSTER = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def prepare_process(*, distributed: bool) -> None:
    """Set them; `distributed`: this is one process of several.

    Raises:
        UsageError: there is no such cluster, or no device.
    """
    import jax

    from jaxcnn import backend

    backend.keep_freed_memory()
    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxcnn" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.01)
        # A process killed, or a disk full, while it was written: what is there is not used, and that is all.
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    cluster = _cluster() if distributed else {}
    try:
        if distributed:
            jax.distributed.initialize(**cluster)
        jax.devices()
    except (ValueError, RuntimeError) as error:
        what = f"--distributed found no cluster: set {', '.join(_CLUSTER)}" if distributed else "JAX finds no device"
        raise UsageError(f"{what} ({str(error).splitlines()[0]})") from error


def _cluster() -> dict[str, Any]:
    """Return how the environment describes the cluster; {}: JAX is to find it."""
    address, *counts = (os.environ.get(name, "") for name in _CLUSTER)
    if not address and not any(counts):
        return {}
    if not address:
        raise UsageError(f"--distributed: {_CLUSTER[0]} is not set: expected HOST:PORT of the first process")
    for name, value in zip(_CLUSTER[1:], counts, strict=True):
        if not value.isdecimal():
            raise UsageError(f"--distributed: {name} is {value!r}: expected a whole number")
    return {"coordinator_address": address, "num_processes": int(counts[0]), "process_id": int(counts[1])}
