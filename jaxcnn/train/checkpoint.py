"""Checkpoints: Orbax arrays plus checksums, each complete or absent.

A checkpoint is a folder `<step>` with the arrays, `position.json` and `SHA256SUMS` over all of its files. It is
written under a temporary name and renamed once it is whole, so a kill, a full disk or a second Ctrl-C leave the ones
before it as they were.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax

from jaxcnn.errors import RunError

SUMS = "SHA256SUMS"
POSITION = "position.json"


class DamagedCheckpoint(Exception):
    """A checkpoint whose files are not what was written."""


class Checkpoints:
    """The checkpoints of one run, in `folder`."""

    def __init__(self, folder: Path) -> None:
        """Nothing is created before the first save."""
        self.folder = folder.absolute()

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def path(self, step: int) -> Path:
        """Return the folder of one checkpoint."""
        return self.folder / f"{step:08d}"

    def describe_newest(self) -> str:
        """Return the newest checkpoint as part of a message."""
        steps = self.steps()
        return f"the newest good checkpoint is {self.path(steps[-1])}" if steps else "there is no checkpoint yet"

    def save(self, step: int, tree: Any, position: dict[str, Any]) -> None:
        """Write a checkpoint of `tree` (arrays, replicated) and `position` (plain JSON values).

        Raises:
          RunError: the disk is full or cannot be written; earlier checkpoints are as they were.
        """
        if self.path(step).exists():
            return
        temporary = self.folder / f"tmp-{step:08d}"
        try:
            self._write(temporary, tree, position)
            if jax.process_index() == 0:
                temporary.rename(self.path(step))
                _fsync(self.folder)
        except Exception as error:  # Orbax and TensorStore raise many kinds for a disk that cannot be written
            shutil.rmtree(temporary, ignore_errors=True)
            reason = f"could not save the checkpoint of step {step} ({_reason(error)})"
            raise RunError(f"{reason}: {self.describe_newest()}") from error
        _barrier(f"saved-{step}")

    def _write(self, temporary: Path, tree: Any, position: dict[str, Any]) -> None:
        import orbax.checkpoint as ocp

        if jax.process_index() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        _barrier(f"clean-{temporary.name}")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(temporary / "state", tree)
            checkpointer.wait_until_finished()
        if jax.process_index() == 0:
            (temporary / POSITION).write_text(json.dumps(position, indent=1) + "\n")
            sums = [f"{_sha256(path)}  {path.relative_to(temporary)}\n" for path in _files(temporary)]
            (temporary / SUMS).write_text("".join(sums))
            for path in (*_files(temporary), temporary / SUMS):
                _fsync(path)

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Return the tree and the position of one checkpoint.

        Args:
          step: one of `steps()`.
          like: a tree of the same structure, shapes and dtypes; arrays come back with its shardings.

        Raises:
          DamagedCheckpoint: a file is missing, left over, truncated or changed.
        """
        import orbax.checkpoint as ocp

        folder = self.path(step)
        _verify(folder)
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(folder / "state", jax.tree.map(_abstract, like))
        return tree, json.loads((folder / POSITION).read_text())

    def restore_newest(self, like: Any) -> tuple[Any, dict[str, Any], list[str]]:
        """Return the newest good checkpoint and one line for each damaged one that was passed over.

        The damaged ones are removed, so that the steps they held can be saved anew.

        Raises:
          RunError: there are checkpoints and all are damaged.
          LookupError: there is none.
        """
        reports: list[str] = []
        for step in reversed(self.steps()):
            try:
                tree, position = self.restore(step, like)
            except DamagedCheckpoint as error:
                reports.append(f"checkpoint {self.path(step)} is damaged ({error}): it is not used")
                continue
            if jax.process_index() == 0:
                for bad in [later for later in self.steps() if later > step]:
                    shutil.rmtree(self.path(bad))
            _barrier("restored")
            return tree, position, reports
        if reports:
            raise RunError("no checkpoint is good: " + "; ".join(reports))
        raise LookupError(f"no checkpoint in {self.folder}")

    def prune(self, keep: int, best: int | None) -> None:
        """Remove all but the newest `keep` checkpoints and the one of step `best`, and leftovers of killed saves."""
        if jax.process_index() != 0:
            return
        for step in self.steps()[:-keep]:
            if step != best:
                shutil.rmtree(self.path(step))
        for leftover in self.folder.glob("tmp-*"):
            shutil.rmtree(leftover)


def _verify(folder: Path) -> None:
    try:
        lines = [line.split("  ", 1) for line in (folder / SUMS).read_text().splitlines()]
        listed = {name: digest for digest, name in lines}
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{SUMS} cannot be read") from error
    found = {str(path.relative_to(folder)): path for path in _files(folder)}
    if missing := sorted(listed.keys() ^ found.keys()):
        raise DamagedCheckpoint(f"{missing[0]} is missing or left over")
    for name, path in found.items():
        if _sha256(path) != listed[name]:
            raise DamagedCheckpoint(f"checksum of {name} differs")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _abstract(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    full = next((line for line in lines if "No space left" in line), None)
    return "No space left on device" if full else (lines[0][:200] if lines else type(error).__name__)


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
