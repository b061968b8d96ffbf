"""What is noted of the place where a run happened."""

import json
import shutil
import subprocess
from pathlib import Path

import jax
import pytest

from jaxcnn import environment as module


@pytest.fixture
def environment():
    """The function, asked anew."""
    module.environment.cache_clear()
    yield module.environment
    module.environment.cache_clear()


def git(folder, *words):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True).stdout


def test_what_is_noted(environment):
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["jax"] == jax.__version__ and found["platform"] == jax.default_backend()
    assert (found["device_count"], found["process_count"]) == (jax.device_count(), 1)
    assert found["cpu"] and found["cpu_count"] >= 1


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_package(environment, tmp_path, monkeypatch):
    package = tmp_path / "checkout/jaxcnn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(module, "_ROOM", package)
    assert environment()["commit"] is None and environment()["dirty"] is None  # no checkout

    git(tmp_path, "init", "checkout")
    git(tmp_path / "checkout", "commit", "--allow-empty", "-m", "of something else")
    module.environment.cache_clear()
    assert environment()["commit"] is None and environment()["dirty"] is None  # a copy that the checkout does not track

    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "commit", "-m", "ours")
    module.environment.cache_clear()
    assert environment()["commit"] == git(package, "rev-parse", "HEAD").strip() and environment()["dirty"] is False

    (package / "__init__.py").write_text("changed = True")
    module.environment.cache_clear()
    assert environment()["dirty"] is True


def test_without_git(environment, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None and environment()["dirty"] is None


def test_packages_that_are_not_installed(environment, monkeypatch):
    monkeypatch.setattr(module, "_PACKAGES", ("jax", "no-such-package"))
    assert environment()["no-such-package"] is None
    monkeypatch.setattr(Path, "read_text", lambda self: (_ for _ in ()).throw(FileNotFoundError))
    assert isinstance(module._cpu(), str)
