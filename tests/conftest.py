"""Every test runs on eight fake CPU devices, with strict dtype promotion, warnings as errors and a cache of its own."""

import gc
import os
import shutil
import sys
from pathlib import Path

import pytest

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"

import hypothesis
import jax

# Tracing makes millions of objects, which the collector would go through again and again, for a quarter of the time.
gc.set_threshold(100_000, 10, 50)
# LLVM's optimisations take a third of the suite's time and are not what is tested. In this process alone: what a test
# starts compiles as a user's does; and see `compiled_as_for_users`.
jax.config.update("jax_disable_most_optimizations", True)
# The same examples each time: XLA's compiler ends the process for a few odd convolutions, wherever they come up.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What is cached for a user of this machine is neither read nor added to."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def compiled_as_for_users():
    """Compile with all optimisations: for the formulations of the CPU, and to compare with other processes."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A module that any import finds, and which leaves a mark; where the mark would be."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path/hostile.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path / "path")
    yield tmp_path / "mark"
    sys.modules.pop("hostile", None)


@pytest.fixture
def kept_run(tmp_path):
    """A copy of the small finished run that is kept from an earlier version."""
    folder = tmp_path / "runs" / "compatibility" / "run"
    shutil.copytree(Path(__file__).parent / "compatibility" / "run", folder)
    return folder
