"""Attacks on the reader of pickles: nothing runs, nothing is imported, time and memory grow as the file does."""

import argparse
import collections
import copyreg
import io
import os
import pathlib
import pickle
import pickletools
import struct
import subprocess
import sys
import time
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
from torch_files import STORAGE, dict_of, legacy, tensor, text, zipped

from jaxcnn.errors import UsageError
from jaxcnn.weights import pickles
from jaxcnn.weights.source import read


def global_(name, arguments):
    """Return the opcodes of a call of a global by name, such that Python's own pickle would make it."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode() + arguments + b"R"


def attribute(module, name):
    """Return the opcodes of a global whose name may have dots in it."""
    return text(module) + text(name) + b"\x93"


TOUCH = b"(" + text(b"touch ran.it") + b"t"
EVAL = b"(" + text(b"open('ran.it', 'w+b')") + b"t"
SYSTEM = b"cos\nsystem\n"
ORDERED_DICT = b"ccollections\nOrderedDict\n"
# What is refused by its name, and the name.
NAMES = {
    "os.system": global_("os.system", TOUCH),
    "posix.system": global_("posix.system", TOUCH),
    "nt.system": global_("nt.system", TOUCH),
    "builtins.eval": global_("builtins.eval", EVAL),
    "builtins.exec": global_("builtins.exec", EVAL),
    "__builtin__.eval": global_("__builtin__.eval", EVAL),
    "builtins.getattr": global_("builtins.getattr", b"cos\n__dict__\n\x85"),
    "builtins.__import__": global_("builtins.__import__", text(b"os") + b"\x85"),
    "builtins.map": global_("builtins.map", SYSTEM + b"](" + text(b"touch ran.it") + b"e\x86"),
    "subprocess.Popen": global_("subprocess.Popen", TOUCH),
    "functools.partial": global_("functools.partial", SYSTEM + b"\x85"),
    "operator.attrgetter": global_("operator.attrgetter", text(b"system") + b"\x85"),
    "importlib.import_module": global_("importlib.import_module", text(b"os") + b"\x85"),
    "copyreg._reconstructor": global_("copyreg._reconstructor", b"cthis\nd\ncbuiltins\nobject\nN\x87"),
    "this.d": global_("this.d", b")"),
    "torch.load": global_("torch.load", TOUCH),
    "torch.hub.load": global_("torch.hub.load", TOUCH),
    "torch._utils._rebuild_wrapper_subclass": global_("torch._utils._rebuild_wrapper_subclass", TOUCH),
    "torch.storage._load_from_bytes": global_("torch.storage._load_from_bytes", b"C\x01x\x85"),
    "torch.nn.modules.linear.Linear": global_("torch.nn.modules.linear.Linear", b")"),
    "torch.storage.FloatStorage.__class__": global_("torch.storage.FloatStorage.__class__", b")"),
    "numpy.load": global_("numpy.load", TOUCH),
    "pickle.loads": global_("pickle.loads", b"C\x01x\x85"),
    "collections.OrderedDict.__init__": attribute(b"collections", b"OrderedDict.__init__") + b")R",
    "collections.OrderedDict.__init__.__globals__": attribute(b"collections", b"OrderedDict.__init__.__globals__"),
    "torch._utils._rebuild_tensor_v2.__globals__": attribute(b"torch._utils", b"_rebuild_tensor_v2.__globals__"),
    ".os.system": attribute(b"", b"os.system") + TOUCH + b"R",
    "torch.Size.": attribute(b"torch.Size", b"") + TOUCH + b"R",
    "os..system": attribute(b"os", b".system") + TOUCH + b"R",
}
CALLS = {
    "os.system by a stack": attribute(b"os", b"system") + TOUCH + b"R",
    "os.system by newobj": SYSTEM + TOUCH + b"\x81",
    "os.system by newobj with keywords": SYSTEM + TOUCH + b"}\x92",
    "os.system by inst": b"(" + text(b"touch ran.it") + b"ios\nsystem\n",
    "os.system by obj": b"(" + SYSTEM + text(b"touch ran.it") + b"o",
    "a known name by newobj with keywords": ORDERED_DICT + b")}\x92",
    "a known name by inst": b"(icollections\nOrderedDict\n",
    "a known name by obj": b"(" + ORDERED_DICT + b"o",
    "an extension": b"\x82\xf0" + TOUCH + b"R",
    "an extension of two bytes": b"\x83\xf0\x00" + TOUCH + b"R",
    "an extension of four bytes": b"\x84\xf0\x00\x00\x00" + TOUCH + b"R",
    "the name of a global that is a number": b"K\x01" + text(b"system") + b"\x93",
    "a class that is no global": text(b"os.system") + TOUCH + b"R",
    "a name without end": text(b"os") + text(b"\0" * 10_000) + b"\x93",
    "a storage as a function": b"ctorch\nFloatStorage\n" + TOUCH + b"R",
    "a tensor as a function": tensor() + TOUCH + b"R",
    "a list of arguments": tensor().replace(b"_v2\n(", b"_v2\n](").removesuffix(b"tR") + b"eR",
    "a text of arguments": b"ctorch\nSize\n" + text(b"1") + b"R",
    "an OrderedDict of a number": ORDERED_DICT + b"K\x01\x85R",
    "an OrderedDict of a tensor": ORDERED_DICT + tensor() + b"\x85R",
    "an OrderedDict of two lists": ORDERED_DICT + b"]]\x86R",
    "attributes of an OrderedDict": ORDERED_DICT + b")R}" + text(b"__class__") + b"Nsb",
    "attributes of an OrderedDict beside _metadata": ORDERED_DICT
    + b")R}("
    + text(b"_metadata")
    + b"}"
    + text(b"a")
    + b"Nub",
    "__setstate__ of an OrderedDict": ORDERED_DICT + b")R}" + text(b"__setstate__") + SYSTEM + b"sb",
    "attributes of a dict": b"}}" + text(b"__dict__") + b"}sb",
    "state that is no dict": ORDERED_DICT + b")R(NNtb",
    "attributes of a list": b"]}" + text(b"append") + b"Nsb",
    "attributes of a tensor": tensor() + b"}" + text(b"__dict__") + b"}sb",
    "__setstate__ of a tensor": tensor() + b"(K\x01K\x04\x85cnumpy\ndtype\nNC\x01xtb",
    "attributes of a storage": STORAGE + b"tQ}" + text(b"values") + b"Nsb",
    "the state of a storage's type": b"ctorch\nFloatStorage\n(K\x03" + text(b">") + b"NNNK\x08K\x08K\x00tb",
    "attributes of a global": b"ctorch\nSize\n}" + text(b"__dict__") + b"}sb",
    "attributes of None": b"N}b",
    "an item of None": b"N" + text(b"a") + b"Ns",
    "slots of a global": ORDERED_DICT + b"N}" + text(b"__defaults__") + b")s\x86b",
    "an item of a global": ORDERED_DICT + text(b"a") + b"Ns",
    "an item of a list": b"](NeK\x00K\x01s",
    "items of a tensor": tensor() + b"K\x00K\x01s",
    "items appended to a tensor": tensor() + b"(K\x00e",
    "items added to a tuple": b")(K\x00\x90",
    "a buffer from elsewhere": b"\x97",
    "a buffer read-only": b"C\x01a\x98",
    "a persistent id of text": b"P0\n",
    "a persistent id that is no storage": b"(" + text(b"module") + ORDERED_DICT + b"NNNtQ",
    "a persistent id of no type": b"(" + text(b"storage") + text(b"FloatStorage") + text(b"0") + b"NK\x04tQ",
    "a persistent id that is a tensor": tensor() + b"Q",
    "a persistent id of tensors": tensor() + b"q\x000(" + b"h\x00" * 5 + b"tQ",
}
TREE = b")q\x000" + b"h\x00h\x00\x86q\x000" * 60 + b"h\x00"  # ((t, t), (t, t)) and so on: its hash would take for ever
LONG = 400_000  # bytes of what takes for ever if it is gone through again and again
WIDE = b"(" + b"N" * LONG + b"tq\x000"
NUMBER = b"\x8b" + struct.pack("<i", LONG) + b"\x7f" * LONG
PAIRS = b"](" + b"".join(text(b"%06d" % number) + b"N\x86" for number in range(LONG // 40)) + b"eq\x000"
# Pickles that would take for ever, or all memory.
BOMBS = {
    "a memo far off": b"\x80\x02Nr\xff\xff\xff\xff.",
    "a memo farther off": b"\x80\x02Np" + b"9" * 20 + b"\n.",
    "a memo of a million digits": b"\x80\x02Np" + b"9" * 1_000_000 + b"\n.",
    "a text longer than the file": b"\x80\x02X\xff\xff\xff\x7fa.",
    "a text longer than any memory": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
    "a text of negative length": b"\x80\x02T\xff\xff\xff\xffa.",
    "bytes longer than the memory": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 36) + b"a.",
    "a bytearray longer than the file": b"\x80\x05\x96" + struct.pack("<Q", 1 << 30) + b"a.",
    "a frame longer than the file": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}.",
    "a number longer than the file": b"\x80\x02\x8b\xff\xff\xff\x7fa.",
    "a number of negative length": b"\x80\x02\x8b\xff\xff\xff\xffa.",
    "a decimal number of a million digits": b"\x80\x02L" + b"9" * 1_000_000 + b"L\n.",
    "a decimal number of a million digits, too": b"\x80\x02I" + b"9" * 1_000_000 + b"\n.",
    "a key that takes for ever": b"\x80\x02}" + TREE + b"Ns.",
    "a key that takes for ever among others": b"\x80\x02}(" + TREE + b"Nu.",
    "a key that takes for ever in a dict of text": b"\x80\x02(" + TREE + b"Nd.",
    "a key that takes for ever in an OrderedDict": b"\x80\x02" + ORDERED_DICT + b"](" + TREE + b"N\x86e\x85R.",
    "a set that takes for ever": b"\x80\x04\x8f(" + TREE + b"\x90.",
    "a frozenset that takes for ever": b"\x80\x04(" + TREE + b"\x91.",
    "a storage whose key takes for ever": b"\x80\x02" + STORAGE.replace(text(b"0"), TREE) + b"tQ.",
    "a storage whose kind takes for ever": b"\x80\x02" + STORAGE.replace(text(b"storage"), TREE) + b"tQ.",
    "lists that take for ever": b"\x80\x02}" + text(b"a") + b"]q\x000" + b"]h\x00ah\x00aq\x000" * 60 + b"h\x00s.",
    "lists that take for ever as an index": b"\x80\x02" + tensor() + TREE.replace(b")", b"]", 1) + b"Ns.",
    "a number as a key, again and again": b"\x80\x02}" + NUMBER + b"q\x00Ns" + b"h\x00Ns" * (LONG // 4) + b".",
    "a storage of many parts, again and again": b"\x80\x02" + STORAGE + WIDE[1:] + b"h\x00Q0" * (LONG // 4) + b"N.",
    "many arguments, again and again": b"\x80\x02"
    + WIDE
    + b"ctorch\ndevice\nq\x01"
    + b"h\x00R0h\x01" * (LONG // 6)
    + b".",
    "an OrderedDict of pairs, again and again": b"\x80\x02"
    + PAIRS
    + ORDERED_DICT
    + b"q\x01"
    + b"0h\x01h\x00\x85R" * (LONG // 7)
    + b".",
    "an OrderedDict of wide pairs": b"\x80\x02"
    + WIDE
    + b"]("
    + b"h\x00" * (LONG // 2)
    + b"eq\x010"
    + ORDERED_DICT
    + b"h\x01\x85R.",
    "copies of copies": b"\x80\x02]q\x00(" + b"K\x01" * 5000 + b"e" + b"ctorch\nSize\nh\x00\x85R0" * 5000 + b".",
    "marks": b"\x80\x02" + b"(" * LONG + b".",
    "lists in lists": b"\x80\x02" + b"]" * LONG + b"a" * (LONG - 1) + b".",
    "tuples in tuples": b"\x80\x02)" + b"\x85" * LONG + b".",
    "dicts in dicts": b"\x80\x02" + b"}U\x01a" * (LONG // 4) + b"}" + b"s" * (LONG // 4) + b".",
    "a list in itself": b"\x80\x02}" + text(b"a") + b"]q\x01h\x01as.",
    "a dict in itself": b"\x80\x02}q\x00" + text(b"model") + b"h\x00s.",
}
DAMAGED = {
    "no end": b"\x80\x02}",
    "nothing": b"\x80\x02.",
    "two things": b"\x80\x02N" + dict_of(tensor()),
    "a mark alone": b"\x80\x02(.",
    "a thing before a mark": b"\x80\x02N(" + dict_of(tensor()),
    "a mark before a thing": b"\x80\x02(" + dict_of(tensor()),
    "a pop of nothing": b"\x80\x020.",
    "a pop to no mark": b"\x80\x02}1.",
    "a tuple over a mark": b"\x80\x02N(N\x86.",
    "a memo of nothing": b"\x80\x02h\x05.",
    "a memo of nothing far off": b"\x80\x02j\xff\xff\xff\x7f.",
    "a memo of no number": b"\x80\x02ga\n.",
    "a negative memo": b"\x80\x02}p-1\n.",
    "a protocol to come": b"\x80\x7f}.",
    "a list": b"\x80\x02](K\x01K\x02e.",
    "a number": b"\x80\x02K\x01.",
    "a number as a key": b"\x80\x02}K\x01K\x01s.",
    "a key without a value": b"\x80\x02}(K\x01u.",
    "no tensor": b"\x80\x02}" + text(b"a") + b"K\x01s.",
    "items of a number": b"\x80\x02K\x01K\x01K\x01s.",
    "an item of a number": b"\x80\x02K\x01K\x01a.",
    "an unknown opcode": b"\x80\x02\xff.",
    "a name that is no UTF-8": b"\x80\x02c\xff\n\xff\n.",
    "a text that is no UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "a frame in a frame": b"\x80\x04\x95" + struct.pack("<QBQ", 20, 0x95, 2) + b"N.".ljust(11),
    "a frame that ends in a text": b"\x80\x04\x95" + struct.pack("<Q", 6) + text(b"abc") + b".",
    "a text in quotes, as no torch writes it": b"\x80\x02S'\\d'\n.",
}
BAD = {name: dict_of(part) for name, part in {**NAMES, **CALLS}.items()} | BOMBS | DAMAGED


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path, monkeypatch):
    """Fail where a file ran or imported something, though it is at hand: `copyreg` knows os.system as extension 240."""
    monkeypatch.chdir(tmp_path)
    for module, name in ((os, "system"), (subprocess, "Popen")):
        monkeypatch.setattr(module, name, lambda *_, **__: Path("ran.it").touch())
    monkeypatch.setitem(copyreg._inverted_registry, 240, ("os", "system"))
    monkeypatch.setitem(copyreg._extension_cache, 240, os.system)
    monkeypatch.delitem(sys.modules, "this", raising=False)
    known = {name: getattr(value, "__defaults__", None) for name, value in pickles._KNOWN.items()}
    yield
    assert not Path("ran.it").exists(), "the file ran something"
    assert "this" not in sys.modules, "the file imported something"
    assert {name: getattr(value, "__defaults__", None) for name, value in pickles._KNOWN.items()} == known


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize("name", BAD)
def test_bad_pickles_are_refused(name, write, tmp_path):
    path = write(tmp_path / "bad.pth", BAD[name])
    size = path.stat().st_size
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(UsageError) as error:
        read(path)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    message = str(error.value)
    assert str(path) in message and len(message) < 600 and "\n" not in message
    assert seconds < 5 and peak < 10_000_000 + 200 * size
    if name in NAMES:
        assert f"refused: it asks for {name!r}" in message


class Reduced:
    """Pickled as a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_calls_that_python_itself_pickles_are_refused(protocol, tmp_path):
    state = collections.OrderedDict(weight=Reduced(exec, ("open('ran.it', 'w')",)))
    with pytest.raises(UsageError, match=r"refused: it asks for '(builtins|__builtin__)\.exec'"):
        read(zipped(tmp_path / "bad.pth", pickle.dumps(state, protocol)))


# Those that reach what the file did not make: names by other ways, persistent ids of text, memory that can be written
# or comes from outside. And those of protocol 0 alone that would need a reader of their own.
REFUSED = {"INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER"}
REFUSED |= {"DICT", "STRING"}


@pytest.mark.parametrize("code", range(256))
def test_no_other_opcode_is_obeyed(code):
    name = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}.get(code)
    assert (code in pickles._Reader.dispatch) == (name is not None and name not in REFUSED)


def test_what_follows_the_end_is_not_read(tmp_path):
    found, _ = read(zipped(tmp_path / "a.pth", dict_of(tensor()) + SYSTEM + TOUCH + b"R."))
    assert found["weight"].tolist() == [0] * 4


class FloatStorage:
    """Stands for torch's class of that name, and for four numbers of it."""


def _rebuild_tensor_v2(*arguments):
    """Stands for torch's function of that name."""


FloatStorage.__module__, _rebuild_tensor_v2.__module__ = "torch", "torch._utils"


@pytest.fixture
def torch(monkeypatch):
    """Let `pickle` write the two as torch's own."""
    for value in (FloatStorage, _rebuild_tensor_v2):
        module = types.ModuleType(value.__module__)
        setattr(module, value.__name__, value)
        monkeypatch.setitem(sys.modules, module.__name__, module)


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return ("storage", FloatStorage, "0", "cpu", 4, *self.view) if type(value) is FloatStorage else None


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.usefixtures("torch")
def test_what_checkpoints_hold_is_read_at_every_protocol(write, protocol, tmp_path):
    tensors = [
        Reduced(_rebuild_tensor_v2, (FloatStorage(), 0, (2, 2), (2, 1), False, collections.OrderedDict()))
        for _ in range(2)
    ]
    weights = collections.OrderedDict(zip(("weight", "größe"), tensors, strict=True))
    weights._metadata = collections.OrderedDict({"": {"version": 1}})
    betas = (0.9, 0.999)
    values = {
        "numbers": [0, -1, 1 << 10, 1 << 20, 1 << 40, -(1 << 90), 1 << 3000, 0.5, float("inf"), True, False, None],
        "text": ["", "a" * 300, "b" * 70_000, "ü\ud800"],
        "bytes": [b"", b"a" * 300, b"b" * 70_000] if protocol > 2 else [],
        "nested": {"groups": [{"betas": betas}, {"betas": betas}], "empty": [(), [], {}]},
    }
    args = argparse.Namespace(path=pathlib.PurePosixPath("/x"), seen={1, 2}, names=frozenset("ab"), raw=b"a", step=3)
    others = [args, collections.Counter("abc"), collections.defaultdict(dict, a={}), np.float64(1), {3: {(1, 2): 4}}]
    pickler = Pickler(file := io.BytesIO(), protocol)
    pickler.view = [None] if write is legacy else []
    pickler.dump({"state_dict": weights, "values": values, "others": others})
    found, _ = read(write(tmp_path / "a.pth", file.getvalue()))
    assert {name: value.shape for name, value in found.items()} == {"weight": (2, 2), "größe": (2, 2)}
    file.seek(0)
    assert pickles.load(file, lambda *_: None, lambda *_: None)["values"] == values
    assert not file.read(1)


def test_an_ordered_dict_of_python_2(tmp_path):
    pairs = b"".join(b"](U\x01" + name + tensor() + b"e" for name in (b"a", b"b"))
    state = b"}U\x09_metadata" + ORDERED_DICT + b"](](U\x00}U\x07versionK\x01see\x85Rsb"
    found, _ = read(zipped(tmp_path / "a.pth", b"\x80\x02" + ORDERED_DICT + b"](" + pairs + b"e\x85R" + state + b"."))
    assert list(found) == ["a", "b"]
