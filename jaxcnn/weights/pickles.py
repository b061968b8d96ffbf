"""Pickles of torch's checkpoints, read without importing or calling anything that a file chooses.

A pickle is a program: opcodes that put values on a stack. Python's `pickle` imports and calls what they name. Here a
name is in the table `_KNOWN` or the file is refused; what the table holds may be called with anything, and nothing else
that comes on the stack can be called. Opcodes that make plain data do what they do in Python, those that could do more
do what `_Reader` says, all others are refused. Time and memory grow as the file does, not faster.

`pickle.Unpickler` with a closed `find_class` does not give the same. It is C, and in Python 3.11 as in 3.13 it runs
os.system for a file of 17 bytes in a process that has once unpickled that as an extension of `copyreg` (EXT1 finds it
in a cache, and `find_class` is not asked), takes 4 GB for one of 9 bytes (LONG_BINPUT: the memo is an array), and does
not end on one of 492 (the key of a dict is a tree of tuples, hashed in 2^60 steps). Hence its twin in Python, whose
opcodes are a table and whose memo is a dict.
"""

import pickle
import pickletools
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxcnn.errors import UsageError

# Stands for what is not made: an object of another class, or the key of a dict that is no text.
INERT = object()


def _dict(pairs: Iterable[tuple[Any, Any]]) -> dict:
    """Return a dict whose keys take no time to hash: the hash of a tuple or of a number may take for ever."""
    return {key if type(key) is str else INERT: value for key, value in pairs}


def _ordered_dict(arguments: tuple) -> dict:
    """Return the dict of OrderedDict() or, in Python 2, OrderedDict([[key, value], ...])."""
    (pairs,) = arguments or ([],)
    if type(pairs) is not list:
        raise TypeError("the pickle makes a dict of what is no list")
    found = _dict(pairs)
    pairs.clear()  # A list makes one dict: a few bytes could ask for another of all its items, again and again.
    return found


_STORAGES = {
    **{"Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16},
    **{"Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8},
    **{"Byte": np.uint8, "Bool": np.bool_, "Untyped": np.uint8},
}
# What else checkpoints hold, by module.
_NOT_MADE = {
    "torch": "device float64 float32 float16 bfloat16 bool uint8 int8 int16 int32 int64",
    "numpy": "dtype ndarray",
    "numpy.dtypes": "Float64DType Float32DType Int64DType Int32DType BoolDType",
    **dict.fromkeys(("numpy.core.multiarray", "numpy._core.multiarray"), "scalar _reconstruct"),
    "_codecs": "encode",
    "argparse": "Namespace",
    "collections": "Counter defaultdict",
    **dict.fromkeys(("pathlib", "pathlib._local"), "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"),
    **dict.fromkeys(("builtins", "__builtin__"), "dict set frozenset"),
}
# What stands for a global: the dtype of a storage, or a function of the tuple of arguments.
_KNOWN: dict[str, Any] = {
    **{f"torch.{of}{name}Storage": np.dtype(_STORAGES[name]) for of in ("", "cuda.", "storage.") for name in _STORAGES},
    **{f"{module}.{name}": lambda _: INERT for module, names in _NOT_MADE.items() for name in names.split()},
    **dict.fromkeys(("torch.Size", "torch._utils._rebuild_parameter"), itemgetter(0)),
    "collections.OrderedDict": _ordered_dict,
}


def load(file: BinaryIO, storage: Callable[..., Any], tensor: Callable[..., Any]) -> Any:
    """Return the object of the pickle that starts where `file` stands; leave `file` right behind it.

    Args:
        file: open for reading.
        storage: makes a storage of its dtype, key, location and size, to which old files add a view.
        tensor: makes a tensor of storage, offset, size and stride.

    Raises:
        UsageError: the pickle asks for more than checkpoints of weights have need of.
        Exception: of many types; the pickle is damaged.
    """
    reader = _Reader(file, encoding="latin-1")
    reader.storage, reader.tensor = storage, lambda arguments: tensor(*arguments[:4])
    found = reader.load()
    if reader.stack or reader.metastack:
        raise ValueError("the pickle leaves more than one object")
    return found


# The opcodes that make plain data. Not DICT and STRING: protocol 0 alone has them, in which torch writes no tensors.
_PLAIN = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL "
    "BINPERSID NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT"
)
_CODES = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
_PYTHON: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch


class _Closed(dict[int, Callable[[Any], None]]):
    def __missing__(self, code: int) -> Any:
        name = {known: name for name, known in _CODES.items()}.get(code, code)
        raise UsageError(f"it uses the pickle opcode {name}, which no checkpoint of torch has")


class _Reader(pickle._Unpickler):
    storage: Callable[..., Any]
    tensor: Callable[[tuple], Any]
    stack: list[Any]  # since the last mark
    metastack: list[list[Any]]  # before it
    pop_mark: Callable[[], list[Any]]  # returns the one, goes on with the other

    def find_class(self, module: str, name: str) -> Any:
        name = f"{module}.{name}"
        if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return self.tensor
        if name in _KNOWN:
            return _KNOWN[name]
        raise UsageError(
            f"it asks for {name!r:.200}, which is no part of weights and is not run: if the file is to be trusted, "
            "save its state_dict alone with torch, or as safetensors"
        )

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", np.dtype(), str(), _, _) | ("storage", np.dtype(), str(), _, _, _):
                return self.storage(*pid[1:])
        raise TypeError("the pickle refers to what is no storage")

    def reduce(self) -> None:
        function, arguments = self.stack.pop(-2), self.stack.pop()
        if not callable(function) or type(arguments) is not tuple:
            raise UsageError("it calls what is no function")
        self.stack.append(function(arguments))

    def build(self) -> None:
        target, state = self.stack[-2], self.stack.pop()
        # torch's state dicts have the attribute _metadata: versions of the modules.
        metadata = type(target) is type(state) is dict and state.keys() == {"_metadata"}
        if target is not INERT and not metadata:
            raise UsageError("it sets attributes of an object other than a state dict")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is dict:
            target.update(_dict(zip(items[::2], items[1::2], strict=True)))
        elif target is not INERT:
            raise TypeError("the pickle sets items of what is no dict")

    dispatch = _Closed({code: _PYTHON[code] for name, code in _CODES.items() if name in _PLAIN.split()})
    dispatch[_CODES["REDUCE"]] = dispatch[_CODES["NEWOBJ"]] = reduce
    dispatch[_CODES["BUILD"]] = build
    dispatch[_CODES["SETITEM"]] = lambda self: self.set_items([self.stack.pop(-2), self.stack.pop()])
    dispatch[_CODES["SETITEMS"]] = lambda self: self.set_items(self.pop_mark())
    # Sets are read as lists, whose items need no hash.
    dispatch[_CODES["EMPTY_SET"]] = _PYTHON[_CODES["EMPTY_LIST"]]
    dispatch[_CODES["FROZENSET"]] = _PYTHON[_CODES["LIST"]]
    dispatch[_CODES["ADDITEMS"]] = _PYTHON[_CODES["APPENDS"]]
