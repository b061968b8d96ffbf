"""Pickles of torch's checkpoints, read by a machine that imports and calls nothing.

Python's own `pickle` runs what a file tells it to. This machine knows the opcodes that data needs, and a global of a
file is never looked up in Python: it is one of the names below, with what that name means here, or the file is refused.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxcnn.errors import UsageError

STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "UntypedStorage": np.dtype(np.uint8),
}

# What else checkpoints hold beside tensors: each becomes an `Inert`, which keeps nothing and does nothing.
_INERT = {
    *(f"torch.{name}" for name in ("device", "float64", "float32", "float16", "bfloat16", "bool", "uint8")),
    *(f"torch.int{bits}" for bits in (8, 16, 32, 64)),
    *(f"{core}.multiarray.{name}" for core in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Int64", "Int32", "Bool")),
    "_codecs.encode",
    "argparse.Namespace",
    "collections.Counter",
    "collections.defaultdict",
    *(
        f"{module}.{pure}{name}"
        for module in ("pathlib", "pathlib._local")
        for pure in ("", "Pure")
        for name in ("Path", "PosixPath", "WindowsPath")
    ),
    *(f"{builtins}.{name}" for builtins in ("builtins", "__builtin__") for name in ("dict", "set", "frozenset")),
}

Storage = Callable[[tuple], Any]
Tensor = Callable[[Any, Any, Any, Any], Any]


class Inert:
    """Stands for an object of a class that is not made."""


class _Global(str):
    """A global's dotted name."""


class _Mark:
    pass


def load(file: BinaryIO, storage: Storage, tensor: Tensor) -> Any:
    """Return the object of the pickle that starts where `file` stands; leave `file` right behind it.

    Args:
        file: open for reading.
        storage: makes a storage of its persistent id, in which the type is a name of `STORAGES`.
        tensor: makes a tensor of storage, offset, size and stride.

    Raises:
        UsageError: the pickle asks for a global that checkpoints of weights have no need of.
        Exception: of many types; the pickle is damaged.
    """
    machine = _Machine(storage, tensor)
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            (found,) = machine.stack
            return found
        machine.step(opcode.name, argument)
    raise EOFError("the pickle has no end")


class _Machine:
    def __init__(self, storage: Storage, tensor: Tensor):
        self.storage, self.tensor = storage, tensor
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def step(self, name: str, argument: Any) -> None:
        """Obey one opcode."""
        stack = self.stack
        if name in _IGNORED:
            return
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _NEW:
            stack.append(_NEW[name]())
        elif name == "MARK":
            stack.append(_Mark)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self.pop_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self.pop(int(name[-1]))))
        elif name in ("TUPLE", "LIST"):
            items = self.pop_mark()
            stack.append(tuple(items) if name == "TUPLE" else items)
        elif name == "DICT":
            items = self.pop_mark()
            stack.append({})
            self.set_items(items)
        elif name == "APPEND":
            self.extend(self.pop(1))
        elif name in ("APPENDS", "ADDITEMS"):
            self.extend(self.pop_mark())
        elif name == "FROZENSET":
            self.pop_mark()
            stack.append(Inert())
        elif name == "SETITEM":
            self.set_items(self.pop(2))
        elif name == "SETITEMS":
            self.set_items(self.pop_mark())
        elif name == "GLOBAL":
            stack.append(_known(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            module, attribute = self.pop(2)
            stack.append(_known(f"{_text(module)}.{_text(attribute)}"))
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = self.pop(2)
            stack.append(self.call(function, arguments))
        elif name == "BUILD":
            target, state = stack[-2], stack.pop()
            # torch's state dicts have the attribute _metadata: versions of the modules.
            if type(target) is not Inert and not (type(target) is dict and _is_metadata(state)):
                raise UsageError("it sets attributes of an object other than a state dict")
        elif name == "BINPERSID":
            stack.append(self.storage(self.persistent_id(stack.pop())))
        else:
            raise UsageError(f"it uses the pickle opcode {name}, which no checkpoint of torch has")

    def pop(self, count: int) -> list[Any]:
        """Return the last `count` items of the stack and take them off."""
        if len(self.stack) < count:
            raise EOFError("the pickle's stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_mark(self) -> list[Any]:
        """Return what was pushed since the last mark, and take it off, the mark included."""
        items = []
        while (item := self.stack.pop()) is not _Mark:
            items.append(item)
        return items[::-1]

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Inert:
            raise TypeError("the pickle appends to what is no list")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is dict:
            for key, value in zip(items[::2], items[1::2], strict=True):
                # The hash of a tuple may take for ever: ((t, t), (t, t)) sixty deep.
                target[key if type(key) in (str, int, float, bool) else Inert()] = value
        elif type(target) is not Inert:
            raise TypeError("the pickle sets items of what is no dict")

    def call(self, function: Any, arguments: Any) -> Any:
        """Return what a global means when it is called: nothing of Python is."""
        if type(arguments) is not tuple or type(function) not in (_Global, Inert):
            raise UsageError("it calls what is no function")
        if type(function) is Inert:
            return Inert()
        match function:
            case "collections.OrderedDict":
                pairs = self.copy(arguments[0]) if arguments else ()
                return {key if type(key) is str else Inert(): value for key, value in pairs}
            case "torch.Size":
                return self.copy(arguments[0])
            case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
                return self.tensor(*arguments[:4])
            case "torch._utils._rebuild_parameter":
                return arguments[0]
        raise UsageError(f"it calls {function}")

    def copy(self, items: Any) -> tuple[Any, ...]:
        """Return the items of a list or tuple; so many copies of a long one that memory fills up are refused."""
        if type(items) not in (list, tuple):
            raise TypeError("the pickle makes a sequence of what is none")
        self.copied += len(items)
        if self.copied > 1 << 22:
            raise UsageError("it makes more copies of its lists than any checkpoint does")
        return tuple(items)

    def persistent_id(self, found: Any) -> tuple:
        """Return a storage's ("storage", name in STORAGES, key, location, size, ...)."""
        kind, storage, key, *rest = found
        # The hash of anything but text may take for ever, see `set_items`.
        if kind != "storage" or type(storage) is not _Global or type(key) is not str:
            raise TypeError("the pickle refers to what is no storage")
        return kind, storage.rpartition(".")[2], key, *rest


_IGNORED = ("PROTO", "FRAME")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NEW = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": Inert}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CALLED = {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
}


def _known(name: str) -> Any:
    """Return what stands for a global."""
    module, _, attribute = name.rpartition(".")
    if name in _CALLED or (module in ("torch", "torch.cuda", "torch.storage") and attribute in STORAGES):
        return _Global(name)
    if name in _INERT:
        return Inert()
    raise UsageError(
        f"it asks for {name[:200]!r}, which is no part of weights and is not run: if the file is to be trusted, save "
        "its state_dict alone with torch, or as safetensors"
    )


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("the name of a global is no text")
    return value


def _is_metadata(state: Any) -> bool:
    return type(state) is dict and set(state) == {"_metadata"}
