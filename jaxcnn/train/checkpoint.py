"""Checkpoints: Orbax arrays plus checksums, each complete or absent.

A checkpoint is a folder `<step>` with the arrays, `position.json` and `SHA256SUMS` over all of its files. It is
written under a temporary name and renamed once it is whole, so a kill, a full disk or a second Ctrl-C leave the ones
before it as they were.
"""

import contextlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxcnn.errors import RunError
from jaxcnn.files import fsync, inode, read_json, sha256
from jaxcnn.train.parallel import together

_SPACE_BESIDE_ARRAYS = 200_000
STATE, POSITION, SUMS = "state", "position.json", "SHA256SUMS"
# Times that checkpoints which come and go are listed anew.
_TRIES = 20
# Runs that train together save at the same time, which Orbax does not bear.
_ORBAX = threading.Lock()


class DamagedCheckpoint(Exception):
    """A checkpoint whose files are not what was written."""


class Vanished(Exception):
    """A checkpoint that a run under way removed or replaced while it was read."""


class Checkpoints:
    """The checkpoints of one run, in `folder`."""

    def __init__(self, folder: Path) -> None:
        """Nothing is created before the first save."""
        self.folder = folder.absolute()

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir()]
        return sorted(int(name) for name in names if len(name) >= 8 and name.isascii() and name.isdigit())

    def path(self, step: int) -> Path:
        """Return the folder of one checkpoint."""
        return self.folder / f"{step:08d}"

    def describe_newest(self) -> str:
        """Return the newest good checkpoint as part of a message."""
        for step in reversed(self.steps()):
            with contextlib.suppress(DamagedCheckpoint):
                verify(self.path(step))
                return f"the newest good checkpoint is {self.path(step)}"
        return "there is no good checkpoint"

    def save(self, step: int, state: Any, position: Mapping[str, Any]) -> None:
        """Write a checkpoint of `state` (arrays, replicated) and `position` (plain JSON values).

        One of the same step is replaced.

        Raises:
          RunError: the disk is full or cannot be written; the other checkpoints are as they were.
        """
        first, final = jax.process_index() == 0, self.path(step)
        temporary, replaced = (self.folder / f"tmp-{kind}-{step:08d}" for kind in ("new", "old"))
        try:
            with together():
                if first:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self.recover()
                    temporary.mkdir()
                    _check_space(temporary / "reserved", sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
            with together():
                _write(temporary, state, position)
                if first:
                    if final.exists():
                        final.rename(replaced)
                    temporary.rename(final)
                    fsync(self.folder)
                    shutil.rmtree(replaced, ignore_errors=True)
        except Exception as error:  # Orbax and TensorStore raise many kinds for a disk that cannot be written
            shutil.rmtree(temporary, ignore_errors=True)
            raise RunError(f"could not save the checkpoint of step {step} ({_reason(error)})") from error

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Return the state and the position of one checkpoint.

        Args:
          step: one of `steps()`.
          like: the state's tree of `jax.ShapeDtypeStruct`, with shardings.

        Raises:
          DamagedCheckpoint: a file is missing, left over, truncated or changed.
          RunError: the files are good, and hold something else than `like`.
          Vanished: it is no longer there, or no longer the same.
        """
        import orbax.checkpoint as ocp

        folder = self.path(step)
        before = inode(folder)
        try:
            with together():
                verify(folder)
            try:
                with _quiet(), ocp.StandardCheckpointer() as checkpointer:
                    state = checkpointer.restore(folder / STATE, like)
            except Exception as error:  # written by a version of this package whose states were others
                raise RunError(f"{folder} does not hold the state of this experiment ({_reason(error)})") from error
            return state, read_json(folder / POSITION)
        finally:
            if before is None or inode(folder) != before:  # whatever was read or raised
                raise Vanished(folder)

    def listed(self, read: Callable[[], Any]) -> Any:
        """Return what `read` returns, which lists the checkpoints and restores one: anew where that has vanished.

        Raises:
          RunError: they come and go faster than they are read.
        """
        for _ in range(_TRIES):
            with contextlib.suppress(Vanished):
                return read()
        raise RunError(f"the checkpoints in {self.folder} come and go faster than they are read: try again")

    def restore_newest(self, like: Any) -> tuple[Any, dict[str, Any], list[str]]:
        """Return the newest good checkpoint and one line for each damaged one that was passed over.

        Raises:
          RunError: there are checkpoints and all are damaged.
          LookupError: there is none.
        """
        return self.listed(lambda: self._newest(like))

    def _newest(self, like: Any) -> tuple[Any, dict[str, Any], list[str]]:
        reports: list[str] = []
        for step in reversed(self.steps()):
            try:
                return *self.restore(step, like), reports
            except DamagedCheckpoint as error:
                reports.append(f"checkpoint {self.path(step)} is damaged ({error}): it is not used")
        if reports:
            raise RunError("no checkpoint is good: " + "; ".join(reports))
        raise LookupError(f"no checkpoint in {self.folder}")

    def drop_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, so that they are saved anew."""
        for later in self.steps():
            if later > step:
                self._remove(later)

    def prune(self, keep: int, best: int | None) -> None:
        """Remove all but the newest `keep` checkpoints and the one of step `best`."""
        for step in self.steps()[:-keep]:
            if step != best:
                self._remove(step)

    def _remove(self, step: int) -> None:
        """Remove a checkpoint, at once for whoever reads it."""
        gone = self.folder / f"tmp-gone-{step:08d}"
        self.path(step).rename(gone)
        shutil.rmtree(gone)

    def recover(self) -> None:
        """Clear up after a killed save: put back the checkpoint that it was about to replace, remove the rest.

        For the process that alone writes here.
        """
        for replaced in self.folder.glob("tmp-old-*"):
            final = self.folder / replaced.name.removeprefix("tmp-old-")
            if not final.exists():
                replaced.rename(final)
        for leftover in self.folder.glob("tmp-*"):
            shutil.rmtree(leftover)


def _write(folder: Path, state: Any, position: Mapping[str, Any]) -> None:
    import orbax.checkpoint as ocp

    with _quiet(), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / STATE, state)
        checkpointer.wait_until_finished()
    if jax.process_index() == 0:
        (folder / POSITION).write_text(json.dumps(position, indent=1) + "\n")
        (folder / SUMS).write_text(_checksums(folder))
        for path in (*folder.rglob("*"), folder):
            fsync(path)


def verify(folder: Path) -> None:
    """Raise DamagedCheckpoint unless a checkpoint's files are those that were written."""
    try:
        listed, found = (folder / SUMS).read_text(), _checksums(folder)
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{getattr(error, 'filename', None) or SUMS} cannot be read") from error
    if listed != found or not listed:
        odd = {line.partition("  ")[2] for line in set(listed.splitlines()) ^ set(found.splitlines())}
        raise DamagedCheckpoint(f"{min(odd, default=SUMS)} is not as it was written")


def _checksums(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    return "".join(f"{sha256(path)}  {path.relative_to(folder)}\n" for path in files)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Orbax, which logs the traceback of each of its threads, from saying what the raised error will say."""
    logger = logging.getLogger("absl")
    with _ORBAX:
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def _check_space(path: Path, size: int) -> None:
    """Raise OSError where a disk or a quota has no room: Orbax's threads would print tracebacks of their own."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, size + size // 10 + _SPACE_BESIDE_ARRAYS)
    path.unlink()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line for line in str(error).splitlines() if line.strip()]
    full = next((line for line in lines if "No space left" in line), None)
    return "No space left on device" if full else (lines[0][:200] if lines else type(error).__name__)
