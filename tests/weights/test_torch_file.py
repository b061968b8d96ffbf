"""Files of torch.save: every tensor as torch wrote it, and nothing but tensors."""

import collections
import os
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.weights.source import read

FILES = Path(__file__).parent / "files"


def tensors():
    """The tensors that files/make.py wrote with torch."""
    base = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    return {
        "whole": base,
        "view": base[1:, 1:3],
        "transposed": base.transpose(2, 0, 1),
        "strided": base[::2, :, ::3],
        "flat": base.reshape(-1)[7:],
        "channels_last": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4),
        "expanded": np.array([[1, 1, 1], [2, 2, 2]], np.float32),
        "number": np.array(3.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.ones((2, 2), np.float32),
        "half": np.arange(4, dtype=np.float16),
        "bfloat16": np.arange(4).astype(ml_dtypes.bfloat16)[1:],
        "double": np.arange(4, dtype=np.float64),
        "bool": np.array([True, False]),
        "int8": np.arange(-2, 2, dtype=np.int8),
        "uint8": np.arange(4, dtype=np.uint8),
        "int16": np.arange(4, dtype=np.int16),
        "int32": np.arange(4, dtype=np.int32),
        "int64": np.arange(4),
    }


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_tensors_of_torch(kind):
    found, _ = read(FILES / f"tensors_{kind}.pth")
    wanted = tensors()
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_the_weights_of_a_checkpoint_of_training(kind):
    found, _ = read(FILES / f"checkpoint_{kind}.pth")
    assert {name: value.tolist() for name, value in found.items()} == {"weight": [[1] * 3] * 2, "bias": [0, 0]}


# Files made by hand: pickles of Python's own protocol 0, and the opcodes that torch writes.


def zipped(path, pickled, storages=(("0", bytes(16)),), byteorder=b"little", **more):
    with zipfile.ZipFile(path, "w", more.get("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", byteorder)
        for key, content in storages:
            archive.writestr(f"archive/data/{key}", content)
    return path


FOUR = struct.pack("<q4f", 4, 1, 2, 3, 4)


def legacy(path, pickled, keys=("0",), storages=FOUR):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    path.write_bytes(b"".join([*parts, pickled, pickle.dumps(list(keys), 2), storages]))
    return path


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04"


def tensor(offset=b"K\x00", size=b"K\x04\x85", stride=b"K\x01\x85", end=b"t", function=b"_rebuild_tensor_v2"):
    """Return the opcodes of one tensor on a storage of four numbers."""
    arguments = STORAGE + end + b"Q" + offset + size + stride + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n" + function + b"\n(" + arguments + b"tR"


def dict_of(value, name=b"weight"):
    return b"\x80\x02}X" + struct.pack("<I", len(name)) + name + value + b"s."


def test_the_files_made_by_hand_are_such_as_are_read(tmp_path):
    values = struct.pack("<4f", 1, 2, 3, 4)
    found, _ = read(zipped(tmp_path / "a.pth", dict_of(tensor()), [("0", values)]))
    assert found["weight"].tolist() == [1, 2, 3, 4]
    big = zipped(tmp_path / "big.pth", dict_of(tensor()), [("0", struct.pack(">4f", 1, 2, 3, 4))], b"big")
    assert read(big)[0]["weight"].tolist() == [1, 2, 3, 4]
    assert read(legacy(tmp_path / "b.pth", dict_of(tensor(end=b"Nt"))))[0]["weight"].tolist() == [1, 2, 3, 4]
    view = tensor(size=b"K\x02\x85", end=b"(X\x01\x00\x00\x00vK\x01K\x02tt")  # a part of a storage, of torch 0.3
    assert read(legacy(tmp_path / "c.pth", dict_of(view)))[0]["weight"].tolist() == [2, 3]


class Reduced:
    """Pickled as a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def global_(name, arguments):
    """Return the opcodes of a call of a global by name, such that Python's own pickle would make it."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode() + arguments + b"R"


TOUCH = b"(X\x0c\x00\x00\x00touch ran.it" + b"t"
EVAL = b"(X\x15\x00\x00\x00open('ran.it', 'w+b')t"
CALLS = {
    "os.system": global_("os.system", TOUCH),
    "posix.system": global_("posix.system", TOUCH),
    "nt.system": global_("nt.system", TOUCH),
    "builtins.eval": global_("builtins.eval", EVAL),
    "builtins.exec": global_("builtins.exec", EVAL),
    "__builtin__.eval": global_("__builtin__.eval", EVAL),
    "builtins.getattr": global_("builtins.getattr", b"cos\n__dict__\n\x85"),
    "builtins.__import__": global_("builtins.__import__", b"X\x02\x00\x00\x00os\x85"),
    "subprocess.Popen": global_("subprocess.Popen", TOUCH),
    "functools.partial": global_("functools.partial", b"cos\nsystem\n\x85"),
    "operator.attrgetter": global_("operator.attrgetter", b"X\x06\x00\x00\x00system\x85"),
    "importlib.import_module": global_("importlib.import_module", b"X\x02\x00\x00\x00os\x85"),
    "torch.load": global_("torch.load", TOUCH),
    "torch.hub.load": global_("torch.hub.load", TOUCH),
    "torch._utils._rebuild_wrapper_subclass": global_("torch._utils._rebuild_wrapper_subclass", TOUCH),
    "torch.storage._load_from_bytes": global_("torch.storage._load_from_bytes", b"C\x01x\x85"),
    "torch.nn.modules.linear.Linear": global_("torch.nn.modules.linear.Linear", b")"),
    "numpy.load": global_("numpy.load", TOUCH),
    "pickle.loads": global_("pickle.loads", b"C\x01x\x85"),
    "collections.OrderedDict.__init__": b"X\x0b\x00\x00\x00collectionsX\x14\x00\x00\x00OrderedDict.__init__\x93)R",
    "os.system by a stack": b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93" + TOUCH + b"R",
    "os.system by newobj": b"cos\nsystem\n" + TOUCH + b"\x81",
    "os.system by inst": b"(X\x0c\x00\x00\x00touch ran.itios\nsystem\n",
    "os.system by obj": b"(cos\nsystem\nX\x0c\x00\x00\x00touch ran.ito",
    "an extension": b"\x82\x01",
    "a class that is no global": b"X\x09\x00\x00\x00os.system" + TOUCH + b"R",
    "a storage as a function": b"ctorch\nFloatStorage\n" + TOUCH + b"R",
    "attributes of an OrderedDict": b"ccollections\nOrderedDict\n)R}X\x09\x00\x00\x00__class__cos\nsystem\nsb",
    "__setstate__ of an OrderedDict": b"ccollections\nOrderedDict\n)R}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb",
    "attributes of a dict": b"}}X\x08\x00\x00\x00__dict__}sb",
    "state that is no dict": b"ccollections\nOrderedDict\n)R(NNtb",
    "attributes of a list": b"]}X\x06\x00\x00\x00appendNsb",
    "attributes of a tensor": tensor() + b"}X\x08\x00\x00\x00__dict__}sb",
    "attributes of a global": b"ctorch\nSize\n}X\x08\x00\x00\x00__dict__}sb",
}
TENSORS = {
    "a negative offset": tensor(offset=b"J\xff\xff\xff\xff"),
    "a negative stride": tensor(stride=b"J\xff\xff\xff\xff\x85"),
    "a negative size": tensor(size=b"J\xff\xff\xff\xff\x85"),
    "an offset beyond the storage": tensor(offset=b"K\x01"),
    "a size beyond the storage": tensor(size=b"K\x05\x85"),
    "a stride beyond the storage": tensor(stride=b"K\x02\x85"),
    "an endless size": tensor(size=b"\x8a\x09" + b"\xff" * 8 + b"\x00\x85"),
    "an endless size without strides": tensor(size=b"J\xff\xff\xff\x7f\x85", stride=b"K\x00\x85"),
    "endless sizes of an empty tensor": tensor(
        size=b"K\x00J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87", stride=b"K\x00K\x00K\x00\x87"
    ),
    "more sizes than strides": tensor(size=b"K\x02K\x02\x86"),
    "more dimensions than there are": tensor(size=b"(" + b"K\x01" * 65 + b"t", stride=b"(" + b"K\x01" * 65 + b"t"),
    "a size of True": tensor(size=b"\x88\x85"),
    "a size of text": tensor(size=b"X\x01\x00\x00\x004\x85"),
    "a tensor as a storage": b"ctorch._utils\n_rebuild_tensor_v2\n("
    + tensor(size=b"J\xff\xff\xff\x00\x85", stride=b"K\x00\x85")
    + b"K\x64K\x01\x85K\x01\x85tR",
    "a list as a storage": b"ctorch._utils\n_rebuild_tensor_v2\n(]K\x00K\x01\x85K\x01\x85tR",
    "a storage that is not there": tensor().replace(b"\x01\x00\x00\x000X", b"\x01\x00\x00\x001X"),
    "a storage outside of the archive": tensor().replace(b"\x01\x00\x00\x000X", b"\x0d\x00\x00\x00../../secretsX"),
    "a storage longer than its entry": tensor().replace(b"cpuK\x04", b"cpuJ\xff\xff\xff\x7f"),
    # ((t, t), (t, t)) and so on, sixty deep: its hash would take for ever.
    "a storage whose key is a tree": tensor().replace(b"X\x01\x00\x00\x000X", b")" + b"2\x86" * 60 + b"X"),
    "a storage of an unknown type": tensor().replace(b"FloatStorage", b"ComplexStorage"),
    "a parameter of nothing": b"ctorch._utils\n_rebuild_parameter\n)R",
}
PICKLES = {
    "no end": b"\x80\x02}",
    "nothing": b"\x80\x02.",
    "a mark alone": b"\x80\x02(.",
    "a pop of nothing": b"\x80\x020.",
    "a memo of nothing": b"\x80\x02h\x05.",
    "a memo far off": b"\x80\x02j\xff\xff\xff\x7f.",
    "a text longer than the file": b"\x80\x02X\xff\xff\xff\x7fa.",
    "a number longer than the file": b"\x80\x02\x8b\xff\xff\xff\x7fa.",
    "a decimal number of a million digits": b"\x80\x02L" + b"9" * 1_000_000 + b"L\n.",
    "a protocol to come": b"\x80\x7f}.",
    "a key that takes for ever": b"\x80\x02})q\x000" + b"h\x00h\x00\x86q\x000" * 60 + b"h\x00Ns.",
    "a list in itself": b"\x80\x02}X\x01\x00\x00\x00a]q\x01h\x01as.",
    "a dict in itself": b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.",
    "lists that take for ever": b"\x80\x02}X\x01\x00\x00\x00a]q\x000" + b"]h\x00ah\x00aq\x000" * 60 + b"h\x00s.",
    "copies of copies": b"\x80\x02]q\x00(" + b"K\x01" * 5000 + b"e" + b"ctorch\nSize\nh\x00\x85R0" * 5000 + b".",
    "a list": b"\x80\x02](K\x01K\x02e.",
    "a number": b"\x80\x02K\x01.",
    "a number as a key": b"\x80\x02}K\x01K\x01s.",
    "no tensor": b"\x80\x02}X\x01\x00\x00\x00aK\x01s.",
    "items of a number": b"\x80\x02K\x01K\x01K\x01s.",
    "an item of a number": b"\x80\x02K\x01K\x01a.",
    "an unknown opcode": b"\x80\x02\xff.",
}
BAD = {name: dict_of(part) for name, part in {**CALLS, **TENSORS}.items()} | PICKLES


@pytest.fixture
def nothing_ran(tmp_path, monkeypatch):
    """Fail where a file ran something."""
    monkeypatch.chdir(tmp_path)
    for module, name in ((os, "system"), (subprocess, "Popen")):
        monkeypatch.setattr(module, name, lambda *_, **__: Path("ran.it").touch())
    yield
    assert not Path("ran.it").exists(), "the file ran something"


# The legacy format says the size of a storage elsewhere, and names all keys.
ZIP_ONLY = ("a storage longer than its entry", "a storage that is not there")


@pytest.mark.parametrize(
    ("write", "name"),
    [(write, name) for write in (zipped, legacy) for name in BAD if write is zipped or name not in ZIP_ONLY],
)
@pytest.mark.usefixtures("nothing_ran")
def test_bad_files_are_refused(name, write, tmp_path):
    pickled = BAD[name] if write is zipped else BAD[name].replace(b"cpuK\x04t", b"cpuK\x04Nt")
    path = write(tmp_path / "bad.pth", pickled)
    with pytest.raises(UsageError) as error:
        read(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 600
    if name in CALLS and "." in name and " " not in name:
        assert repr(name) in str(error.value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.usefixtures("nothing_ran")
def test_calls_that_python_itself_pickles_are_refused(protocol, tmp_path):
    state = collections.OrderedDict(weight=Reduced(exec, ("open('ran.it', 'w')",)))
    with pytest.raises(UsageError, match=r"refused: it asks for '(builtins|__builtin__)\.exec'"):
        read(zipped(tmp_path / "bad.pth", pickle.dumps(state, protocol)))


@pytest.mark.parametrize(
    ("keys", "storages"),
    [
        (("0",), struct.pack("<q", 1 << 60)),
        (("0",), struct.pack("<q", -1)),
        (("0",), struct.pack("<q2f", 4, 1, 2)),
        (("0",), b""),
        ((), b""),
        (("1",), FOUR),
    ],
)
def test_bad_storages_of_the_legacy_format_are_refused(keys, storages, tmp_path):
    path = legacy(tmp_path / "bad.pth", dict_of(tensor(end=b"Nt")), keys, storages)
    with pytest.raises(UsageError, match="is damaged"):
        read(path)


def test_other_archives_are_refused(tmp_path):
    path = zipped(tmp_path / "bomb.pth", dict_of(tensor()), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UsageError, match="compressed"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.npy", b"")
    with pytest.raises(UsageError, match=r"no data\.pkl"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/constants.pkl", b"")
    with pytest.raises(UsageError, match="TorchScript"):
        read(path)
    zipped(path, dict_of(tensor()), byteorder=b"middle")
    with pytest.raises(UsageError, match="byte order"):
        read(path)
    path.write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(UsageError, match=r"not one that torch\.save writes"):
        read(path)


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    path = zipped(tmp_path / "a.pth", dict_of(tensor()), [("0", bytes(1000))] + [(f"{n}", b"") for n in range(1, 9)])
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    for entry in range(4, 11):  # each claims the thousand bytes of another
        for _ in range(entry):
            start = content.index(b"PK\x01\x02", start + 1)
        content[start + 20 : start + 28] = struct.pack("<II", 1000, 1000)
        start = content.index(b"PK\x01\x02")
    path.write_bytes(content)
    with pytest.raises(UsageError, match="overlap"):
        read(path)


@pytest.mark.parametrize("name", ["tensors_zip", "tensors_legacy", "checkpoint_zip", "checkpoint_legacy"])
def test_damaged_files_are_refused(name, tmp_path):
    content, path = (FILES / f"{name}.pth").read_bytes(), tmp_path / "cut.pth"
    for length in range(1, len(content) - 1, 37):
        path.write_bytes(content[:length])
        with pytest.raises(UsageError):
            read(path)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read(path)
        except UsageError as error:
            assert str(path) in str(error)


def test_what_is_read_cannot_be_written_over():
    found, _ = read(FILES / "tensors_zip.pth")
    with pytest.raises(ValueError, match="read-only"):
        found["whole"][0] = 1
