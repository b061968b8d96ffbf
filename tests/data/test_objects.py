"""Data sets that are objects in Python: what is read of each kind, and what is said of those that are none."""

import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from jaxcnn.data import Boxes, ClassMap, DataConfig, Image, Label, Reader, Value, eval_batches, load
from jaxcnn.data.stores.objects import open_object
from jaxcnn.errors import BadExample, RunError, UsageError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 8, 8, 3), np.uint8)
LABELS = np.arange(12) % 3
PAIRS = [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]


def png(pixels):
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


class Iterated:
    """Has a length and is iterated; no example has a number."""

    def __len__(self):
        return len(PAIRS)

    def __iter__(self):
        return iter(PAIRS)


class ByNumber:
    """As torch's data sets are: examples by number, without an end."""

    def __len__(self):
        return len(PAIRS)

    def __getitem__(self, index):
        return {"image": png(PAIRS[index][0]), "label": PAIRS[index][1], "text": "not batched"}


class HuggingFace(ByNumber):
    """As `datasets.Dataset` is: images as {"bytes", "path"}, names of classes among the features."""

    class ClassLabel:
        names = ("red", "green", "blue")

    features = {"image": None, "label": ClassLabel()}  # noqa: RUF012

    def __getitem__(self, index):
        return {"image": {"bytes": png(PAIRS[index][0]), "path": None}, "label": PAIRS[index][1]}


def read(source, **config):
    """Return all that is in the training split of a source whose first eight examples it is."""
    data = load(DataConfig(train_split="train[:8]", test_split="train[8:]", **config), source=source)
    (batch,) = eval_batches(data.train, 8)
    return data, batch


SOURCES = {
    "arrays": {"image": IMAGES, "label": LABELS},
    "split of arrays": {"train": {"image": IMAGES, "label": LABELS}},
    "lists by field": {"image": list(IMAGES), "label": LABELS.tolist()},
    "pairs": PAIRS,
    "mappings": [{"image": image, "label": label} for image, label in PAIRS],
    "iterated": Iterated(),
    "by number": ByNumber(),
    "Hugging Face": HuggingFace(),
    "Pillow": [(Pillow.fromarray(image), label) for image, label in PAIRS],
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("pipeline", ["resident", "streaming"])
def test_the_same_batches_of_every_source(source, pipeline):
    data, batch = read(source, image_size=8, pipeline=pipeline)
    assert isinstance(data.train, Reader) == (pipeline == "streaming")
    assert data.fields["image"] == Image(3)
    names = HuggingFace.ClassLabel.names if isinstance(source, HuggingFace) else ("0", "1", "2")
    assert data.fields["label"] == Label(names) and data.sizes == {"train": 8, "test": 4}
    np.testing.assert_array_equal(batch["image"], IMAGES[:8])
    np.testing.assert_array_equal(batch["label"], LABELS[:8])
    assert batch["mask"].all() and batch["label"].dtype == np.int32


def test_grain():
    grain = pytest.importorskip("grain")
    source = grain.MapDataset.source(PAIRS).map(lambda pair: {"image": pair[0], "label": pair[1]})
    data, batch = read({"train": source}, image_size=8, pipeline="streaming")
    assert data.fields == {"image": Image(3), "label": Label(("0", "1", "2"))}
    np.testing.assert_array_equal(batch["image"], IMAGES[:8])
    sliced = load(DataConfig(), source={"train": source[4:], "test": source[:4]})
    np.testing.assert_array_equal(sliced.train.arrays["image"], IMAGES[4:])


def test_fields_are_told_by_their_first_example():
    maps = RNG.integers(0, 4, (12, 8, 8))
    boxes = [{"corners": [[0, 0, n % 3 + 1, 4]] * (n % 3), "label": [1] * (n % 3)} for n in range(12)]
    source = [
        {"image": image, "map": one, "boxes": box, "angle": 0.5 * n, "on": True, "words": "left out"}
        for n, (image, one, box) in enumerate(zip(IMAGES, maps, boxes, strict=True))
    ]
    data, batch = read(source)
    four = tuple("0123")
    assert data.fields == {
        "image": Image(3),
        "map": ClassMap(four),
        "boxes": Boxes(("0", "1"), most=2),
        "angle": Value((), "float32"),
        "on": Value((), "bool"),
    }
    np.testing.assert_array_equal(batch["map"], maps[:8])
    np.testing.assert_array_equal(batch["boxes"]["mask"].sum(1), np.arange(8) % 3)
    np.testing.assert_array_equal(batch["boxes"]["corners"][2], [[0, 0, 3, 4], [0, 0, 3, 4]])
    np.testing.assert_array_equal(batch["angle"], np.arange(8, dtype=np.float32) / 2)


def test_what_a_source_states_is_taken():
    fields = {"image": Image(3), "label": Label(("a", "b", "c", "d"))}
    data, _ = read({"fields": fields, "train": PAIRS})
    assert data.fields == fields
    with pytest.raises(UsageError, match="states a field 'depth': its examples hold image, label"):
        open_object({"fields": {"depth": Value()}, "train": PAIRS})


def test_fields_that_are_needed_are_found_by_name_or_kind():
    source = {"photo": IMAGES, "kind": LABELS, "weight": np.ones(12)}
    store = open_object(source, {"image": Image, "label": Label})
    assert store.fields == {"image": Image(3), "label": Label(("0", "1", "2"))}
    assert store.records("train")[5]["label"] == 2
    with pytest.raises(UsageError, match=r"a field 'image' of kind Image is needed: the examples hold left \(Image\)"):
        open_object({"left": IMAGES, "right": IMAGES}, {"image": Image})
    with pytest.raises(UsageError, match="field 'image' is to be of kind Image: the examples hold image"):
        open_object([{"image": "cat.png"}], {"image": Image})


def test_an_example_without_a_field_is_bad():
    source = [{"image": image, **({} if n == 3 else {"label": n % 3})} for n, image in enumerate(IMAGES)]
    data, batch = read(source, bad_limit=0.5)
    assert [(bad.name, bad.reason) for bad in data.train.bad] == [("train example 3", "it has no label")]
    assert not batch["mask"][3] and batch["mask"].sum() == 7 and not batch["image"][3].any()


@pytest.mark.parametrize("first", [False, True])
def test_files_that_cannot_be_read_are_bad_examples(tmp_path, monkeypatch, first):
    """One at the beginning, too, by which the fields are told."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    with open("large", "wb") as file:
        file.truncate((1 << 30) + 1)
    (tmp_path / "good.png").write_bytes(png(IMAGES[0]))
    (tmp_path / "map.png").write_bytes(png(np.eye(8, dtype=np.uint8)))
    names = ["folder", "circle", "pipe", "socket", "large", "none", "good.png/x", "x" * 300, "a\0b"]
    files = [*({"bytes": None, "path": name} for name in names), Path("none"), {"bytes": None, "path": None}]
    for field, good in (("image", "good.png"), ("map", "map.png")):
        whole = {"image": Path("good.png"), "map": Path("map.png"), "label": 1}
        examples = [whole | {field: Path(good)}] * 3 + [whole | {field: file} for file in files]
        like = {"image": Image, "map": ClassMap, "label": Label}
        store = open_object(examples[:: -1 if first else 1], like)
        assert store.fields == {"image": Image(3), "map": ClassMap(("0", "1")), "label": Label(("0", "1"))}
        records, bad = store.records("train"), []
        for index in range(len(records)):
            try:
                records[index]
            except BadExample as error:
                bad.append(str(error))
        assert len(bad) == len(files) and "No such file or directory" in bad and len(records.fingerprint()) == 64


def test_fingerprints_tell_sources_apart():
    def of(source):
        return open_object(source).records("train").fingerprint()

    assert of(PAIRS) == of(list(PAIRS)) != of([*PAIRS[:11], (IMAGES[0], 1)])
    assert of(PAIRS) != of(PAIRS[:11])


class Endless:
    def __iter__(self):
        return iter(PAIRS)


class Liar(Iterated):
    def __len__(self):
        return 20


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, 'the source is empty: expected {"train": ..., "test": ...}'),
        ([], "split 'train' has no example"),
        ({"train": Endless()}, "split 'train' is Endless, which has no length"),
        (Liar(), "split 'train' says that it has 20 examples, and gives 12"),
        ({"image": IMAGES, "label": LABELS[:5]}, "fields of different lengths: 12 of image, 5 of label"),
        ([1, 2], "example 0 of split 'train' is int: expected a mapping by field, or a pair"),
        ([{"text": "a"}], r"hold nothing that can be batched: text (str)"),
        ([{"mask": 1, "image": IMAGES[0]}], "a field is called 'mask', which a batch holds already"),
    ],
)
def test_what_is_no_source(source, message):
    with pytest.raises(UsageError) as error:
        load(DataConfig(test_split="train[:1]", train_split="train[1:]"), source=source)
    assert message in str(error.value)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64", "int64"])
@pytest.mark.parametrize("ignored", [-1, 255, 300])
def test_class_maps_of_any_type_with_any_number_that_is_ignored(dtype, ignored):
    classes = np.arange(9 * 8).reshape(9, 8).astype(dtype) % np.array(3, dtype)
    example = {"image": np.zeros((9, 8, 3), np.uint8), "map": classes}
    fields = {"image": Image(3), "map": ClassMap(("a", "b", "c"), ignored=ignored)}
    source = {"fields": fields, "train": [example], "test": [example]}
    data = load(DataConfig(image_size=12, resize="pad", mean=(0.0,) * 3, std=(1.0,) * 3), source=source)
    (batch,) = data.train.batches([np.arange(1)])
    assert set(np.unique(batch["map"])) == {0, 1, 2, ignored} and batch["mask"].all()
    for wrong in (3, -2, 2**32 + 1) if dtype == "int64" else ():
        bad = {**source, "train": [{**example, "map": np.full((9, 8), wrong)}]}
        with pytest.raises(RunError, match=f"map holds {wrong}, expected 0 to 2"):
            load(DataConfig(image_size=12, resize="pad", mean=(0.0,) * 3, std=(1.0,) * 3), source=bad)
