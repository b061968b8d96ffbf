"""Files of Keras: the same weights by the same names from both formats."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.weights import hdf5_index
from jaxcnn.weights.source import read

h5py = pytest.importorskip("h5py")  # an extra

FILES = Path(__file__).parent / "files"

# Of files/make.py: each weight counts from a multiple of ten, in Keras' order. Keras had called conv2d conv2d_4, and
# conv2d_1 of the model within the model conv2d_3: the numbers follow the order in which layers were made.
STARTS = {
    "conv2d_1/kernel": (0, (1, 1, 3, 3)),
    "conv1_bn/gamma": (10, (3,)),
    "conv1_bn/beta": (20, (3,)),
    "conv1_bn/moving_mean": (30, (3,)),
    "conv1_bn/moving_variance": (40, (3,)),
    "conv2/kernel": (50, (1, 1, 3, 3)),
    "conv2/bias": (60, (3,)),
    "batch_normalization/beta": (70, (3,)),
    "batch_normalization/moving_mean": (80, (3,)),
    "batch_normalization/moving_variance": (90, (3,)),
    "x_dw/depthwise_kernel": (100, (1, 1, 3, 1)),
    "x_dw/bias": (110, (3,)),
    "conv2d/kernel": (120, (1, 1, 3, 2)),
    "conv2d/bias": (130, (2,)),
}


@pytest.mark.parametrize("name", ["made.h5", "made.weights.h5"])
def test_weights_of_keras(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(gzip.decompress((FILES / f"{name}.gz").read_bytes()))
    found, _ = read(path)
    assert set(found) == set(STARTS)
    for key, (start, shape) in STARTS.items():
        assert found[key].dtype == np.float32
        np.testing.assert_array_equal(found[key], start + np.arange(np.prod(shape)).reshape(shape), key)


def legacy(path, weights):
    """Write {layer: {weight: array}} as Keras 2 did."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in weights]
        for layer, arrays in weights.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                group[name] = array
    return path


def test_names_of_older_files(tmp_path):
    weights = {
        "block1_conv1": {"block1_conv1_W_1:0": np.ones((3, 3, 3, 4)), "block1_conv1_b_1:0": np.ones(4)},
        "bn": {"bn_running_mean_1:0": np.ones(4), "bn_running_std_1:0": np.ones(4)},
        "conv1/conv": {"conv1/conv/kernel:0": np.ones((3, 3, 3, 4))},
        "dw": {"dw/depthwise_kernel:0": np.ones((3, 3, 4, 1))},
        "one": {"one/kernel:0": np.ones((3, 3, 4, 1)), "one/bias:0": np.ones(1)},  # one filter, not depthwise
        "conv2d_94": {"conv2d_94/kernel:0": np.full((1, 1, 1, 2), 94)},
        "conv2d_100": {"conv2d_100/kernel:0": np.full((1, 1, 1, 2), 100)},
        "scale": {"scale/Variable:0": np.ones(4)},
        "normalization_3": {"normalization_3/count:0": np.array(0)},
        "pool": {},
    }
    found, _ = read(legacy(tmp_path / "old.h5", weights))
    assert set(found) == {
        *("block1_conv1/kernel", "block1_conv1/bias", "bn/moving_mean", "bn/moving_variance", "conv1_conv/kernel"),
        *("dw/depthwise_kernel", "one/kernel", "one/bias", "conv2d/kernel", "conv2d_1/kernel", "scale/gamma"),
        "normalization/count",
    }
    assert found["conv2d/kernel"][0, 0, 0, 0] == 94 and found["conv2d_1/kernel"][0, 0, 0, 0] == 100


def test_a_list_of_layers_too_long_for_one_attribute(tmp_path):
    path = legacy(tmp_path / "long.h5", {"a": {"a/bias:0": np.ones(2)}, "b": {"b/bias:0": np.ones(2)}})
    with h5py.File(path, "a") as file:
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = [b"a"], [b"b"]
    assert set(read(path)[0]) == {"a/bias", "b/bias"}


def test_files_that_are_refused(tmp_path):
    path = tmp_path / "bad.h5"

    def refused(match):
        with pytest.raises(UsageError, match=match) as error:
            read(path)
        assert str(path) in str(error.value)

    with h5py.File(path, "w") as file:
        file["x"] = 1
    refused("no weights of Keras")
    legacy(path, {"a/b": {"bias": np.ones(2)}, "a_b": {"bias": np.ones(2)}})
    refused("two layers are called a_b")
    legacy(path, {"a": {"bias": "text"}})
    refused("expected numbers")
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.ones(2)
    refused("no names of layers")
    path.write_bytes(path.read_bytes()[:1000])
    refused("is damaged")


def test_nothing_outside_of_the_file_is_read(tmp_path):
    legacy(tmp_path / "other.h5", {"a": {"bias": np.ones(2)}})
    (tmp_path / "raw").write_bytes(bytes(8))
    for kind in ("external link", "soft link", "external data", "virtual data"):
        path = legacy(tmp_path / "bad.h5", {"a": {}})
        with h5py.File(path, "a") as file:
            group = file["a"]
            del group.attrs["weight_names"]
            group.attrs["weight_names"] = [b"bias"]
            if kind == "external link":
                group["bias"] = h5py.ExternalLink(tmp_path / "other.h5", "a/bias")
            elif kind == "soft link":
                group["bias"] = h5py.SoftLink("/a/bias")
            elif kind == "external data":
                group.create_dataset("bias", (2,), np.float32, external=[(str(tmp_path / "raw"), 0, 8)])
            else:
                layout = h5py.VirtualLayout((2,), np.float32)
                layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "a/bias", (2,))
                group.create_virtual_dataset("bias", layout)
        with pytest.raises(UsageError):
            read(path)


def test_a_shape_that_is_not_stored_is_refused(tmp_path):
    path = legacy(tmp_path / "bad.h5", {"a": {}})
    with h5py.File(path, "a") as file:
        del file["a"].attrs["weight_names"]
        file["a"].attrs["weight_names"] = [b"bias"]
        file["a"].create_dataset("bias", (1 << 40,), np.float32)
    with pytest.raises(UsageError, match="a/bias claims 4398046511104 bytes and stores 0"):
        read(path)


def test_what_is_compressed_or_in_pieces_is_refused(tmp_path):
    for options in ({"compression": "gzip"}, {"chunks": (1,)}, {"maxshape": (None,)}):
        path = legacy(tmp_path / "bad.h5", {"a": {"bias": np.ones(2, np.float32)}})
        with h5py.File(path, "a") as file:
            del file["a/bias"]
            file["a"].create_dataset("bias", data=np.ones(2, np.float32), **options)
        with pytest.raises(UsageError, match=r"a/bias is compressed or in pieces, .* h5repack -l CONTI -f NONE"):
            read(path)


def test_numbers_are_read_as_h5py_reads_them(tmp_path):
    kinds = ("<f4", ">f4", "<f2", ">f8", "|i1", ">i8", "<u2", "|b1")
    arrays = {kind: np.arange(1, 7).reshape(2, 3).astype(kind) for kind in kinds}
    arrays |= {"scalar": np.array(3.0), "none": np.ones((0, 3))}
    found, _ = read(legacy(tmp_path / "kinds.h5", {"a": arrays}))
    for name, array in arrays.items():
        assert found[f"a/{name}"].dtype == array.dtype and found[f"a/{name}"].flags.aligned
        np.testing.assert_array_equal(found[f"a/{name}"], array, strict=True)


@pytest.mark.parametrize("flaw", ["of a type that is only like int16", "compressed or in pieces"])
def test_values_that_do_not_lie_in_the_file_as_numpy_has_them_are_refused(flaw, tmp_path):
    path = legacy(tmp_path / "bad.h5", {"a": {"bias": np.ones(2)}})
    kind, properties = h5py.h5t.STD_I16LE.copy(), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if "int16" in flaw:
        kind.set_precision(12)
    else:
        properties.set_layout(h5py.h5d.COMPACT)
    with h5py.File(path, "a") as file:
        del file["a/bias"]
        h5py.h5d.create(file["a"].id, b"bias", kind, h5py.h5s.create_simple((2,)), properties)
    with pytest.raises(UsageError, match=f"a/bias is {flaw}"):
        read(path)


def test_weights_that_are_the_same_bytes_are_no_more_than_the_file_has(tmp_path):
    path = legacy(tmp_path / "bad.h5", {"a": {"b/kernel": np.full(10_000, 7, np.float32)}})
    with h5py.File(path, "a") as file:  # b/kernel of the layer a, and kernel of the layer a/b
        del file.attrs["layer_names"]
        file.attrs["layer_names"] = [b"a", b"a/b"]
        file["a/b"].attrs["weight_names"] = [b"kernel"]
    with pytest.raises(UsageError, match="a_b/kernel claims 40000 bytes and stores"):
        read(path)


def test_a_model_with_its_long_configuration_is_read(tmp_path):
    """As `model.save` writes it: one long text, read by nobody."""
    path = legacy(tmp_path / "model.h5", {"a": {"bias": np.ones(2)}})
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = "x" * 60_000
    assert set(read(path)[0]) == {"a/bias"}


def test_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = tmp_path / "a.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(UsageError, match=r"pip install 'jaxcnn\[keras\]'"):
        read(path)


def test_a_heap_of_texts_that_has_no_end_is_refused(tmp_path, monkeypatch):
    """HDF5 2.0 never gets beyond free space of size 0."""
    path = tmp_path / "bad.h5"
    content = bytearray(gzip.decompress((FILES / "made.h5.gz").read_bytes()))
    first = content.index(b"GCOL") + 16
    content[first : first + 16] = bytes(16)
    path.write_bytes(content)
    monkeypatch.setattr(hdf5_index, "SECONDS", 1)
    with pytest.raises(UsageError, match="the HDF5 library ended with SIGXCPU; it may take 128 MiB and 1 s"):
        read(path)
