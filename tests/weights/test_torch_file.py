"""Files of torch.save: every tensor as torch wrote it, and nothing but tensors."""

import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from torch_files import FOUR, dict_of, legacy, tensor, zipped

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


def test_the_files_made_by_hand_are_such_as_are_read(tmp_path):
    values = struct.pack("<4f", 1, 2, 3, 4)
    found, _ = read(zipped(tmp_path / "a.pth", dict_of(tensor()), [("0", values)]))
    assert found["weight"].tolist() == [1, 2, 3, 4]
    big = zipped(tmp_path / "big.pth", dict_of(tensor()), [("0", struct.pack(">4f", 1, 2, 3, 4))], b"big")
    assert read(big)[0]["weight"].tolist() == [1, 2, 3, 4]
    assert read(legacy(tmp_path / "b.pth", dict_of(tensor(end=b"Nt"))))[0]["weight"].tolist() == [1, 2, 3, 4]
    view = tensor(size=b"K\x02\x85", end=b"(X\x01\x00\x00\x00vK\x01K\x02tt")  # a part of a storage, of torch 0.3
    assert read(legacy(tmp_path / "c.pth", dict_of(view)))[0]["weight"].tolist() == [2, 3]


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

# The legacy format says the size of a storage elsewhere, and names all keys.
ZIP_ONLY = ("a storage longer than its entry", "a storage that is not there")


@pytest.mark.parametrize(
    ("write", "name"),
    [(write, name) for write in (zipped, legacy) for name in TENSORS if write is zipped or name not in ZIP_ONLY],
)
def test_bad_tensors_are_refused(name, write, tmp_path):
    path = write(tmp_path / "bad.pth", dict_of(TENSORS[name]))
    with pytest.raises(UsageError) as error:
        read(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 600


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
