"""Where tensors come from: a file of any known format, or a dict of arrays."""

import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxcnn.errors import UsageError, nearest
from jaxcnn.files import parse_json
from jaxcnn.weights import keras_file, torch_file
from jaxcnn.weights.peer import Tensors

# A checkpoint of training holds the weights under one of these names; the first that is there counts: the moving
# average of the weights, where timm's training keeps one, is what is evaluated and published.
WRAPPERS = ("state_dict_ema", "state_dict", "model_state_dict", "model_state", "model", "net")

# Put before every name by wrappers of modules: DataParallel, torch.compile, and modules with an attribute `model`.
PREFIXES = ("module.", "_orig_mod.", "model.")

_SAFETENSORS_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    **{f"{sign}{bits}": np.dtype(f"{sign.lower()}{bits // 8}") for sign in "IU" for bits in (8, 16, 32, 64)},
    "BOOL": np.bool_,
}


def read(source: str | Path | Mapping[str, Any]) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors of a source by their names, and the metadata of a safetensors file ({} elsewhere).

    The content decides what a file is: safetensors; zip or legacy format of torch.save; HDF5 of Keras. Nothing in it is
    run. Of a checkpoint with more than weights in it the weights are taken, see `WRAPPERS`; `PREFIXES` that stand
    before all names are taken off.

    Args:
        source: path of a file, or arrays by name: of numpy, of JAX, or what numpy.asarray takes.

    Raises:
        UsageError: there is no such file, it is none of these, is damaged, or holds no weights.
    """
    if isinstance(source, Mapping):
        return _named(source, "the dict", _array), {}
    if not isinstance(source, str | Path):
        raise UsageError(f"weights come from a path or a dict of arrays: found {type(source).__name__}")
    path = Path(source)
    content = _content(path)
    metadata: dict[str, str] = {}

    def safetensors(content: bytes) -> dict[str, np.ndarray]:
        tensors, found = _read_safetensors(content)
        metadata.update(found)
        return tensors

    if content.startswith(b"PK\x03\x04"):
        found = _read(path, "a zip file of torch.save", torch_file.read_zip, content)
    elif content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        found = _read(path, "a file of torch.save's legacy format", torch_file.read_legacy, content)
    elif content.startswith(b"\x89HDF\r\n\x1a\n"):
        found = _read(path, "an HDF5 file", partial(keras_file.read_hdf5, path=path), content)
    elif content[8:9] == b"{":
        found = _read(path, "a safetensors file", safetensors, content)
    else:
        known = "safetensors, a .pth file of torch.save, or an .h5 file of Keras"
        if content[257:262] == b"ustar":
            raise UsageError(f"{path} is a tar file, as torch wrote them before 2017: save it again with a newer torch")
        if content.startswith(b"version https://git-lfs"):
            raise UsageError(f"{path} is a pointer of git-lfs and not the file itself: run git lfs pull")
        raise UsageError(f"{path} has an unknown format: expected {known}")
    return _named(found, str(path), _tensor), metadata


def _content(path: Path) -> bytes:
    if path.exists() and not (path.is_file() or path.is_dir()):  # A FIFO would be waited for, a device read for ever.
        raise UsageError(f"{path} is no regular file: expected a file of weights")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        guess = nearest(path.name, siblings)
        hint = f": did you mean {path.with_name(guess)}?" if guess else ""
        raise UsageError(f"there is no file {path}{hint}") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder: expected a file of weights") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not content:
        raise UsageError(f"{path} is empty")
    return content


# What the parsers raise on bytes that are not what they take them for.
_DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)


def _read(path: Path, what: str, reader: Callable[[bytes], Any], content: bytes) -> Any:
    """Return what `reader` makes of the content; whatever goes wrong is an error of the file."""
    try:
        return reader(content)
    except UsageError as error:
        raise UsageError(f"{path} is refused: {error}") from error
    except _DAMAGED as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(f"{path} is damaged: it starts as {what} ({why})") from error


def _read_safetensors(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    import safetensors

    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error
    tensors = {}
    for name, tensor in found:
        if tensor["dtype"] not in _SAFETENSORS_TYPES:
            raise UsageError(f"{name} is of type {tensor['dtype']}: expected {', '.join(_SAFETENSORS_TYPES)}")
        dtype = np.dtype(_SAFETENSORS_TYPES[tensor["dtype"]])
        tensors[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")], "its header")
    return tensors, header.get("__metadata__") or {}


def _named(found: Any, what: str, to_array: Callable[[Any, str], np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays by name, out of the wrappers they are in and without the prefixes."""
    for _ in range(4):  # and not for ever: a file can hold a dict that holds itself
        if isinstance(found, Mapping):
            wrapped = (found[name] for name in WRAPPERS if isinstance(found.get(name), Mapping))
            found = next(wrapped, found)
    if not isinstance(found, Mapping) or not found:
        raise UsageError(f"{what} holds no weights: expected tensors by name, or these under {' or '.join(WRAPPERS)}")
    tensors = {}
    for name, value in found.items():
        if not isinstance(name, str):
            raise UsageError(f"{what} has a key of type {type(name).__name__}: expected the names of tensors")
        if name != "n_averaged":  # torch's AveragedModel counts beside its module
            tensors[name] = to_array(value, f"{name} of {what}")
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _tensor(value: Any, what: str) -> np.ndarray:
    """Return a file's value, which must be an array: to make one of nested lists could take for ever."""
    if not isinstance(value, np.ndarray):
        raise UsageError(f"{what} is no tensor")
    return value


def _array(value: Any, what: str) -> np.ndarray:
    """Return a value of the caller's as an array of numbers."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{what} is no array: {error}") from error
    if array.dtype.kind not in "fiub" and array.dtype != ml_dtypes.bfloat16:
        raise UsageError(f"{what} is no array of numbers: found {type(value).__name__}")
    return array
