"""Damaged and hostile files of weights: safetensors, HDF5 of Keras, both formats of torch.save; and bombs."""

import gzip
import io
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mutations import Deep, dumps, fuzz, lengths, mutate, mutate_json, replay

from jaxcnn.models import MODELS, checked_options, create, options
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights import PEERS, hdf5_index, load, save
from jaxcnn.weights.source import read

FILES = Path(__file__).parents[1] / "weights" / "files"
# The largest good file has 30 KiB. What is resident grows by what Python and its libraries load and keep, too.
MEMORY = 64 << 20


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "weights"


@pytest.fixture(scope="module")
def own(path):
    """The header and the tensors of a file of our own, of a network of a few layers."""
    tiny = create("resnet20", num_classes=3, depths=(1,), width=2)
    variables = tiny.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    about = {"options": {"depths": (1,), "width": 2}, "preprocessing": Preprocessing(size=(8, 8), resize=9)}
    save(path, variables, model="resnet20", class_names=("a", "b", "c"), **about)
    load("jaxcnn", path)  # what is imported and traced once is not a case's
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def safetensors(header, tensors):
    text = dumps(header)
    return len(text).to_bytes(8, "little") + text + tensors


@lengths
def test_safetensors(seconds, own, path):
    header, tensors = own
    good = safetensors(header, tensors)

    def case(rng):
        if rng.integers(2):
            path.write_bytes(mutate(rng, good, [(0, 8), (8, len(good) - len(tensors) - 8)]))
        else:
            path.write_bytes(safetensors(mutate_json(rng, header), tensors))
        return lambda: read(path)

    assert fuzz(case, cases=400, seconds=seconds, memory=MEMORY)["UsageError"]


@lengths
def test_metadata_of_our_own_files(seconds, own, path):
    """What a file says of its network: model, options, images, classes; half of the time the options of any network."""
    header, tensors = own
    metadata = header["__metadata__"]
    about = {name: json.loads(metadata[name]) for name in ("options", "preprocessing", "class_names")}

    def case(rng):
        given = mutate_json(rng, about)
        if rng.integers(2) and isinstance(given, dict):
            given["options"] = any_options(rng, "resnet20")
        found = dict(metadata)
        if isinstance(given, dict):
            found |= {name: dumps(given[name]).decode() for name in about if name in given}
        if rng.integers(4) == 0:
            found["model"] = str(rng.choice(["resnet50", "nets.py:tiny", "../x.py:y", "", "a:b", "densenet40_k12"]))
        path.write_bytes(safetensors({**header, "__metadata__": found}, tensors))
        return lambda: load("jaxcnn", path)

    assert fuzz(case, cases=12, seconds=seconds, memory=2 * MEMORY)["UsageError"]


def any_options(rng, model):
    """Options of a model's own types, small, large and extreme."""
    numbers = [1, 2, 3, 7, 64, 1000, 2**16, 2**16 + 1, 2**31, 2**63, 10**30, 0, -1]
    found = {}
    for name, hint in options(model).items():
        number = numbers[rng.integers(len(numbers))]
        if rng.integers(2) or hint is bool:
            continue
        if hint is int:
            found[name] = number
        elif hint is float:
            found[name] = float(number) / [1, 10, 1e300][rng.integers(3)]
        elif hint == tuple[int, ...]:
            found[name] = [number] * int(rng.choice([1, 4, 7, 64, 65, 10_000]))
        else:
            found[name] = "x" * int(rng.choice([1, 10_000]))
    return found


@lengths
def test_options_of_any_model(seconds, path):
    """Some file's options for all networks, with tensors that are none of theirs."""
    tensors = {f"params/{number}": np.zeros(number) for number in range(3)}

    def case(rng):
        model = list(MODELS)[rng.integers(len(MODELS))]
        given = any_options(rng, model)

        def door():
            checked_options(model, given)
            save(path, tensors, model=model, options=given, preprocessing=None)

        return door

    assert fuzz(case, cases=15, seconds=seconds, memory=4 * MEMORY)["UsageError"]


FORKS = """
import importlib.util, os, sys
import h5py

spec = importlib.util.spec_from_file_location("hdf5_index", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for line in sys.stdin:
    *sys.argv[1:], path, out = line.split()
    if not (child := os.fork()):
        try:
            sys.stdin, sys.stdout = open(path), open(out, "w")
            module.main()
            sys.stdout.close()
            os._exit(0)
        finally:
            os._exit(1)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture
def forked(monkeypatch, tmp_path):
    """What `read_index` starts is forked off a process that has imported h5py, which takes a hundredth of the time."""
    pytest.importorskip("h5py")  # an extra
    server = [sys.executable, "-P", "-c", FORKS, hdf5_index.__file__]
    out, pipes = tmp_path / "out", {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(server, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, **pipes) as process:

        def run(command, stdin, **_):
            print(*command[-2:], stdin.name, out, file=process.stdin, flush=True)
            code = os.waitstatus_to_exitcode(int(process.stdout.readline()))
            return subprocess.CompletedProcess(command, code, out.read_bytes())

        monkeypatch.setattr(hdf5_index, "SECONDS", 1)
        monkeypatch.setattr(hdf5_index, "subprocess", SimpleNamespace(run=run, PIPE=None, DEVNULL=None))
        yield


@lengths
def test_hdf5(seconds, path, forked):
    """The library's memory and time are limited; this process's, which takes its word, are watched."""
    files = [gzip.decompress((FILES / f"{name}.gz").read_bytes()) for name in ("made.h5", "made.weights.h5")]
    heads = [
        [(0, 96), *((at.start() + 4 + 8 * k, 8) for at in re.finditer(rb"TREE|HEAP|SNOD|GCOL", file) for k in range(8))]
        for file in files
    ]

    def case(rng):
        number = int(rng.integers(2))
        path.write_bytes(mutate(rng, files[number], heads[number]))
        return lambda: read(path)

    assert fuzz(case, cases=100, seconds=seconds, memory=MEMORY)["UsageError"]


@lengths
def test_files_of_torch(seconds, path):
    names = [f"{kind}_{form}.pth" for kind in ("tensors", "checkpoint") for form in ("zip", "legacy")]
    files = [(FILES / name).read_bytes() for name in names]

    def case(rng):
        good = files[rng.integers(4)]
        if good.startswith(b"PK") and rng.integers(2):
            path.write_bytes(zipped(rng, good))
        else:
            heads = [(at.start(), 46) for at in re.finditer(rb"PK\x01\x02|PK\x03\x04|PK\x05\x06", good)]
            path.write_bytes(mutate(rng, good, heads))
        return lambda: read(path)

    assert fuzz(case, cases=300, seconds=seconds, memory=MEMORY)["UsageError"]


def zipped(rng, good):
    """A whole archive, one of whose entries is damaged: as a rule the pickle."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as found, zipfile.ZipFile(made, "w") as archive:
        entries = found.namelist()
        pickled = next(number for number, name in enumerate(entries) if name.endswith("data.pkl"))
        chosen = pickled if rng.integers(4) else rng.integers(len(entries))
        for number, name in enumerate(entries):
            content = found.read(name)
            archive.writestr(name, mutate(rng, content) if number == chosen else content)
    return made.getvalue()


@lengths
def test_tensors_of_peers(seconds):
    """What turns a peer's tensors into ours is given some whose names are right and shapes are not, and other names."""
    prepares = sorted({row.names.prepare for row in PEERS.values() if row.names.prepare}, key=lambda f: f.__qualname__)
    words = ("", "conv1", "conv1_bn", "x_layer_scale", "conv2d_" + "9" * 5000, "batch_normalization", "pre_logits.fc1")
    leaves = (
        "",
        "/",
        "/bias",
        "/moving_mean",
        "/moving_variance",
        ".weight",
        "_conv/bias",
        "_bn/moving_mean",
        "/a/b/c",
    )
    shapes = ((), (0,), (3,), (1, 200_000), (200_000, 1), (2, 2, 2, 2), (0, 5))

    def case(rng):
        prepare = prepares[rng.integers(len(prepares))]
        names = [words[rng.integers(len(words))] + leaves[rng.integers(len(leaves))] for _ in range(rng.integers(8))]
        types = (np.float32, np.int64, np.bool_)
        tensors = {name: np.zeros(shapes[rng.integers(len(shapes))], types[rng.integers(3)]) for name in names}
        return lambda: prepare(tensors)

    fuzz(case, cases=400, seconds=seconds, memory=MEMORY)


# Bombs: small files that would take much memory or time.


def refused(path, content, memory):
    path.write_bytes(content)
    assert len(content) < 4 << 20
    assert replay(lambda rng: lambda: read(path), 0, memory=memory) == "UsageError"


@pytest.mark.parametrize("name", ["options", "preprocessing", "class_names"])
def test_deep_metadata(name, own, path):
    header, tensors = own
    for deep in (Deep(200_000), {"a": Deep(200_000)}):
        metadata = header["__metadata__"] | {name: dumps(deep).decode()}
        path.write_bytes(safetensors({**header, "__metadata__": metadata}, tensors))
        assert replay(lambda rng: lambda: load("jaxcnn", path), 0, memory=MEMORY) == "UsageError"


def test_compressed_weights(path):
    """A quarter of a gigabyte of zeros, in a quarter of a megabyte."""
    h5py = pytest.importorskip("h5py")
    import zlib

    chunk, file = zlib.compress(bytes(1 << 20), 9), io.BytesIO()
    with h5py.File(file, "w") as made:
        made.attrs["layer_names"] = [b"a"]
        group = made.create_group("a")
        group.attrs["weight_names"] = [b"bias"]
        data = group.create_dataset("bias", (1 << 26,), np.float32, chunks=(1 << 18,), compression="gzip")
        for number in range(256):
            data.id.write_direct_chunk((number << 18,), chunk)
    refused(path, file.getvalue(), 32 << 20)


def test_a_long_text_again_and_again(path):
    """A name of 200,000 characters, 2,000 times: 400 MB."""
    h5py = pytest.importorskip("h5py")
    file = io.BytesIO()
    with h5py.File(file, "w") as made:
        texts = ["a" * 200_000] + [f"b{number}" for number in range(2000)]
        made.attrs.create("layer_names", texts, dtype=h5py.string_dtype())
    content = bytearray(file.getvalue())
    first = next(
        reference
        for heap in re.finditer(rb"GCOL", content)
        for number in range(1, 100)
        if (reference := struct.pack("<IQI", 200_000, heap.start(), number)) in content
    )
    start = content.index(first)
    content[start : start + 16 * 2001] = first * 2001
    refused(path, bytes(content), 32 << 20)


def test_a_text_that_claims_gigabytes(path):
    """HDF5 takes the memory first, and only then looks for the text."""
    pytest.importorskip("h5py")
    content = bytearray(gzip.decompress((FILES / "made.h5.gz").read_bytes()))
    reference = content.index(struct.pack("<Q", content.index(b"GCOL")), content.index(b"weight_names")) - 4
    content[reference : reference + 12] = struct.pack("<IQ", 2_900_000_000, 96)
    refused(path, bytes(content), 32 << 20)
