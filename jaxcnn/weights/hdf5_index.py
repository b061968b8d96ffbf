"""What lies where in an HDF5 file: read in a process of its own, as the HDF5 library is led astray by damaged files.

It may take gigabytes, never end, or crash. `read_index` runs this file as a program, with limits of memory and time,
and takes its word for no more than where values lie. The program imports nothing of the package, and so no JAX.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

MEMORY, SECONDS = 128 << 20, 20
"""Bytes beyond what Python and its modules take, and seconds of computing; 2,000 weights take 20 MiB and 0.5 s."""
_CHARACTERS = 8 << 20
"""Of all names together: 10,000 weights of Keras have 2 million."""

_ATTRIBUTES = re.compile(r"name|(?:layer_names|weight_names)\d*")


class Index(TypedDict):
    """Of each group what names something; of each dataset the type, shape, offset and stored bytes, or a flaw."""

    groups: dict[str, dict[str, str | list[str]]]
    datasets: dict[str, tuple[str, list[int], int, int] | str]


def read_index(path: Path) -> Index:
    """Return what lies where in an HDF5 file; the file's own group is called "".

    No value is read and no link followed. A dataset is a numpy type's name, a shape, and the offset and the number of
    bytes stored in the file; or what is wrong with one whose values do not lie in the file as they are.

    Raises:
        OSError: the file is damaged, or was too much for the limits.
    """
    # -P: the folder of this file is no place of modules. Not -I: h5py may be on PYTHONPATH.
    command = [sys.executable, "-P", __file__, str(MEMORY), str(SECONDS)]
    with path.open("rb") as file:
        done = subprocess.run(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    if done.returncode:
        ended = signal.Signals(-done.returncode).name if done.returncode < 0 else f"status {done.returncode}"
        raise OSError(f"the HDF5 library ended with {ended}; it may take {MEMORY >> 20} MiB and {SECONDS} s")
    found = json.loads(done.stdout)
    if "error" in found:
        raise OSError(found["error"])
    return found


def _index(file: BinaryIO) -> Index:
    import h5py

    groups: dict[str, Any] = {}
    datasets: dict[str, Any] = {}
    left = _CHARACTERS

    def visit(path: str, found: Any) -> None:
        nonlocal left
        left -= len(path)
        if isinstance(found, h5py.Dataset):
            datasets[path] = _place(found)
        elif isinstance(found, h5py.Group):
            groups[path] = {name: _texts(found.attrs[name]) for name in found.attrs if _ATTRIBUTES.fullmatch(name)}
            left -= sum(len(text) for texts in groups[path].values() for text in texts)
        if left < 0:
            raise ValueError(f"its names have more than {_CHARACTERS} characters")

    with h5py.File(file, "r") as opened:
        visit("", opened)
        opened.visititems(visit)  # Each object once, and none that a link leads to: neither a loop nor another file.
    return {"groups": groups, "datasets": datasets}


def _texts(value: Any) -> str | list[str]:
    if isinstance(value, str):
        return value
    return [text.decode() if isinstance(text, bytes) else str(text) for text in value]


def _place(dataset: Any) -> tuple[str, list[int], int, int] | str:
    import h5py

    dtype = dataset.dtype
    if dtype.kind not in "fiub":
        return f"is of type {dtype}: expected numbers"
    properties = dataset.id.get_create_plist()
    layout = properties.get_layout()
    if properties.get_external_count() or layout == h5py.h5d.VIRTUAL:
        return "lies in another file"
    if layout != h5py.h5d.CONTIGUOUS:
        # Compressed, 2 MiB may be 2 GiB, and more than the shape says.
        return "is compressed or in pieces, as Keras never does: h5repack -l CONTI -f NONE undoes it"
    if dataset.id.get_type() != h5py.h5t.py_create(dtype, logical=True):
        return f"is of a type that is only like {dtype}"
    return dtype.str, list(dataset.shape), dataset.id.get_offset() or 0, dataset.id.get_storage_size()


def _limit(memory: int, seconds: int) -> None:
    """Let this process take so many bytes and seconds more, and leave no core behind."""
    import resource

    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: int(time.process_time()) + seconds}
    if sys.platform == "linux":  # macOS has no limit of memory that it heeds.
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limits[resource.RLIMIT_AS] = mapped + memory
    for kind, most in limits.items():  # The hard limit stays: at that of the CPU, SIGKILL would leave no word of why.
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> None:
    """Write the index of the file that is the standard input, or what is wrong with it, as JSON."""
    found: Any
    try:
        import h5py  # noqa: F401  before the limit

        _limit(*map(int, sys.argv[1:]))
        found = _index(sys.stdin.buffer)
    except Exception as error:
        found = {"error": str(error) or type(error).__name__}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
