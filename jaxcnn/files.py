"""Writing a file whole or not at all, its checksum, a folder's lock, and JSON that comes from outside."""

import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import IO, Any

from jaxcnn.errors import UsageError

FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What an experiment may be called: its name becomes that of a folder."""
# Nothing of ours comes near them: levels of JSON, which others go through by recursion, and bytes of one text.
_LEVELS, _BYTES = 50, 2**25
# Processes that begin and end while one waits for a lock.
_TRIES = 100
_WORDS = {dict: "values by name", list: "a list", str: "text", int: "a whole number"}


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`, making its folder; a reader sees the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        fsync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def inode(folder: Path) -> int | None:
    """Return what tells a folder from another of its name; None: there is none."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def lock(folder: Path, what: str) -> IO[str]:
    """Make a folder, if need be, and return its file `lock`, which is locked as long as it is open.

    Raises:
      UsageError: another process has it, or the folder cannot be made; `what` it is, is named.
    """
    path = folder / "lock"
    for left in reversed(range(_TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
            file.close()  # whoever had it has removed it since it was opened: another process may have the next
        except BlockingIOError:
            file.close()
            break
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            if not (isinstance(error, FileNotFoundError) and left):  # the folder, too, may be removed meanwhile
                raise UsageError(f"{what} cannot be written: {error.strerror}") from error
    raise UsageError(f"{what} is in use by another process")


def check_writable(path: Path) -> None:
    """Raise UsageError where no file can be written beside `path`, whose folder is made if need be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def sha256(path: Path) -> str:
    """Return a file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, kind: type = dict) -> Any:
    """Return what a JSON file holds; see `parse_json`.

    Raises:
      UsageError: there is no such file, it cannot be read, or it holds something else.
    """
    if not path.is_file():  # a FIFO would be waited for
        raise UsageError(f"{path} is no file" if path.exists() else f"there is no {path}")
    try:
        with path.open("rb") as file:
            return parse_json(file.read(_BYTES + 1), str(path), kind)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def parse_json(text: str | bytes, what: str, kind: type = dict) -> Any:
    """Return the value of JSON text that may be anybody's.

    Args:
      text: UTF-8, where it is bytes.
      what: it is, for messages: a path, or such as "the metadata of weights.safetensors".
      kind: of the value: dict, list, str, int; object: any.

    Raises:
      UsageError: it is not valid JSON, is nested deeper than 50 levels or larger than 32 MiB, holds a whole number
        beyond 64 bits, or its value is of another kind.
    """
    if len(text) > _BYTES:
        raise UsageError(f"{what} is larger than {_BYTES >> 20} MiB, which is no JSON of ours")
    try:
        found = json.loads(text)
    except RecursionError:
        raise UsageError(f"{what} is nested deeper than {_LEVELS} levels") from None
    except ValueError as error:
        raise UsageError(f"{what} is not valid JSON") from error
    level, depth = [found], 0
    while level := [each for one in level if isinstance(one, dict | list) for each in _inside(one)]:
        if (depth := depth + 1) > _LEVELS:
            raise UsageError(f"{what} is nested deeper than {_LEVELS} levels")
        if any(isinstance(one, int) and abs(one) >= 2**63 for one in level):
            raise UsageError(f"{what} holds a whole number that does not fit 64 bits")
    if not isinstance(found, kind):
        raise UsageError(f"{what} holds a {type(found).__name__}: expected {_WORDS.get(kind, 'something else')}")
    return found


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value
