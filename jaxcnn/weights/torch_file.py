"""Files of torch.save, read without torch: the zip format of 1.6 and later, and the one before it."""

import io
import math
import sys
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights import pickles

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@dataclass(frozen=True)
class _Storage:
    """The numbers that one or more tensors see: contiguous, so what lies within its size lies in memory."""

    values: np.ndarray


def read_zip(content: bytes) -> Any:
    """Return the object in a file of the zip format: an archive of data.pkl and data/KEY, one entry per storage.

    Raises:
        UsageError: it is another archive, or asks for more than tensors.
        Exception: of many types; the file is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        pickled = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(pickled) != 1:
            raise UsageError("it is a zip archive, but not one that torch.save writes: it has no data.pkl")
        root = pickled[0].removesuffix("data.pkl")
        if root + "constants.pkl" in names:
            raise UsageError("it is a TorchScript archive: save the module's state_dict() with torch.save")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise UsageError("its entries are compressed, as torch.save never does")
        if sum(entry.file_size for entry in archive.infolist()) > len(content):
            raise UsageError("its entries overlap")
        order = archive.read(root + "byteorder").decode() if root + "byteorder" in names else "little"
        if order not in ("little", "big"):
            raise ValueError(f"unknown byte order {order!r}")
        storages: dict[str, np.ndarray] = {}

        def storage(dtype: np.dtype, key: str, location: Any, size: Any) -> _Storage:
            if key not in storages:
                storages[key] = _values(archive.read(f"{root}data/{key}"), dtype, order)
            found = storages[key]
            if found.size != size or found.dtype != dtype:
                raise ValueError(f"the storage {key} has {found.size} numbers of {found.dtype}")
            return _Storage(found)

        return pickles.load(io.BytesIO(archive.read(root + "data.pkl")), storage, _tensor)


def read_legacy(content: bytes) -> Any:
    """Return the object in a file of the older format.

    Five pickles: a magic number, a version, facts of the system, the object, the keys of its storages; then for each
    storage how many numbers it has, and these.

    Raises:
        UsageError: it is another pickle, or asks for more than tensors.
        Exception: of many types; the file is damaged.
    """
    file = io.BytesIO(content)
    if _plain(file) != _MAGIC or _plain(file) != _PROTOCOL:
        raise UsageError("it is a pickle, but not one that torch.save writes")
    order = "little" if _plain(file)["little_endian"] else "big"
    # The storages come behind the object that is made of them: it is read twice, first for their types.
    start = file.tell()
    dtypes: dict[str, np.dtype] = {}
    pickles.load(file, lambda dtype, key, *_: dtypes.update({key: dtype}), lambda *_: None)
    storages = {}
    keys = _plain(file)
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise TypeError("the keys of its storages are no list of texts")
    for key in keys:
        size = int.from_bytes(file.read(8), order)  # type: ignore[arg-type]
        dtype = dtypes[key]
        if size * dtype.itemsize > len(content) - file.tell():
            raise EOFError(f"the storage {key} is cut off")
        storages[key] = _values(file.read(size * dtype.itemsize), dtype, order)

    def storage(dtype: np.dtype, key: str, location: Any, size: Any, view: Any) -> _Storage:
        if view is None:
            return _Storage(storages[key])
        _, offset, size = view  # of torch before 0.4
        return _Storage(_tensor(_Storage(storages[key]), offset, (size,), (1,)))

    file.seek(start)
    return pickles.load(file, storage, _tensor)


def _plain(file: io.BytesIO) -> Any:
    """Return the next pickle's object, which has no tensors."""
    return pickles.load(file, _no_tensors, _no_tensors)


def _no_tensors(*_: Any) -> Any:
    raise ValueError("a tensor where none belongs")


def _values(raw: bytes, dtype: np.dtype, order: str) -> np.ndarray:
    if order != sys.byteorder:  # bfloat16 has no other byte order in numpy: the bytes are turned.
        return np.frombuffer(raw, f"u{dtype.itemsize}").byteswap().view(dtype)
    return np.frombuffer(raw, dtype)


# An expanded tensor repeats the numbers of its storage; beyond this many it is no weight but a trap.
_REPEATED = 1 << 24


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """Return the part of a storage that a tensor sees, read-only, without a copy."""
    if type(storage) is not _Storage or not len(size) == len(stride) <= 64:
        raise ValueError("no tensor can be made of what is there")
    if any(type(number) is not int or not 0 <= number < 1 << 62 for number in (offset, *size, *stride)):
        raise ValueError("a tensor's size, stride or offset is no number of elements")
    values, count = storage.values, math.prod(size)
    if count == 0:
        return np.zeros(size, values.dtype)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if last >= values.size or count > max(values.size, _REPEATED):
        raise ValueError("a tensor reaches beyond its storage")
    strides = [step * values.itemsize if length > 1 else 0 for length, step in zip(size, stride, strict=True)]
    return np.lib.stride_tricks.as_strided(values[offset:], tuple(size), strides, writeable=False)
