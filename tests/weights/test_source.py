"""Files of every format, wrappers, prefixes, and what is no file of weights."""

import collections
import gzip
import os
import tarfile
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

from jaxcnn.errors import UsageError
from jaxcnn.weights.source import WRAPPERS, read

FILES = Path(__file__).parent / "files"
ONE = {"weight": np.ones(2, np.float32)}


def test_safetensors(tmp_path):
    tensors = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "bfloat16": np.arange(3).astype(ml_dtypes.bfloat16),
        "half": np.arange(3, dtype=np.float16),
        "number": np.array(3, np.int64),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 2), np.float32),
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(tensors, {"format": "pt"}))
    found, metadata = read(path)
    assert metadata == {"format": "pt"} and set(found) == set(tensors)
    for name, value in tensors.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert found[name].tobytes() == value.tobytes()


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:20], lambda c: b"\xff" * 8 + c[8:]])
def test_damaged_safetensors(damage, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(save(ONE)))
    with pytest.raises(UsageError, match="is damaged"):
        read(path)


def test_the_content_decides_and_not_the_name(tmp_path):
    for name in ("tensors_zip.pth", "tensors_legacy.pth", "made.h5.gz"):
        content = (FILES / name).read_bytes()
        path = tmp_path / "model.bin"
        path.write_bytes(gzip.decompress(content) if name.endswith(".gz") else content)
        assert read(str(path))[0]
    path.write_bytes(save(ONE))
    assert read(path)[0]["weight"].tolist() == [1, 1]


def test_a_dict_of_arrays():
    found, metadata = read({"a": np.ones(2), "b": jnp.ones(3), "c": [1.0, 2.0], "d": 3, "e": jnp.ones(1, jnp.bfloat16)})
    assert metadata == {} and all(isinstance(value, np.ndarray) for value in found.values())
    assert {name: value.shape for name, value in found.items()} == {"a": (2,), "b": (3,), "c": (2,), "d": (), "e": (1,)}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(wrapper):
    assert read({wrapper: ONE, "epoch": 3, "optimizer": {"lr": "x"}})[0] == ONE
    assert read({wrapper: {"state_dict": ONE}})[0] == ONE


def test_the_average_comes_before_the_last_weights():
    other = {"weight": np.zeros(2)}
    assert read({"model": other, "state_dict": other, "state_dict_ema": ONE})[0] == ONE
    assert read({"model": other, "state_dict": ONE})[0] == ONE


def test_a_tensor_may_be_called_as_a_wrapper():
    assert read({"model": np.ones(2)})[0].keys() == {"model"}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model."]
)
def test_prefixes(prefix):
    names = ("conv1.weight", "module_x.bias")
    assert set(read({prefix + name: np.ones(2) for name in names})[0]) == set(names)


def test_a_prefix_of_some_names_belongs_to_them():
    names = {"module.weight", "module.bias", "head.weight"}
    assert set(read(dict.fromkeys(names, np.ones(2)))[0]) == names


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "the dict holds no weights"),
        ({"state_dict": {}}, "the dict holds no weights"),
        ({1: np.ones(2)}, "a key of type int"),
        ({"a": "text"}, "a of the dict is no array of numbers: found str"),
        ({"a": None}, "a of the dict is no array of numbers: found NoneType"),
        ({"a": [[1], [1, 2]]}, "a of the dict is no array"),
        ({"a": {"b": np.ones(2)}}, "found dict"),
        (3, "found int"),
        ([np.ones(2)], "found list"),
        ("\0", "cannot be read"),
    ],
)
def test_what_is_no_source(source, message):
    with pytest.raises(UsageError, match=message):
        read(source)


def test_what_is_no_file_of_weights(tmp_path, monkeypatch):
    (tmp_path / "resnet50.pth").write_bytes(b"text, and more than eight bytes of it")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    with tarfile.open(tmp_path / "old.pth", "w") as archive:
        archive.add(tmp_path / "lfs.pth", "tensors")
    os.mkfifo(tmp_path / "pipe.pth")
    for name, message in (
        ("resnet5.pth", rf"there is no file {tmp_path}/resnet5.pth: did you mean {tmp_path}/resnet50.pth\?"),
        ("none/resnet50.pth", "there is no file"),
        (".", "is a folder"),
        ("resnet50.pth/x", "cannot be read"),
        ("resnet50.pth", "has an unknown format: expected safetensors, a .pth file"),
        ("empty.pth", "is empty"),
        ("lfs.pth", "a pointer of git-lfs"),
        ("old.pth", "is a tar file"),
        ("pipe.pth", "is no regular file"),
        ("/dev/zero", "is no regular file"),
    ):
        with pytest.raises(UsageError, match=message):
            read(tmp_path / name)
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        read(tmp_path / "resnet50.pth")


def test_an_ordered_dict_is_a_dict():
    assert read(collections.OrderedDict(ONE))[0] == ONE
