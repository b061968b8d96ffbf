"""The smaller copy of a data set: what is in it, that it is whole or absent, and what damage does."""

import io
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Pillow
from stored import CLASSES, encoded, photo, photos, write_folder

from jaxcnn.data.fields import Image, Label, Value
from jaxcnn.data.stores.cache import open_cache, prepare, verify
from jaxcnn.data.stores.image_folder import open_folder
from jaxcnn.data.stores.records import ArrayRecords, Store
from jaxcnn.errors import RunError, UsageError
from jaxcnn.images.pixels import decode

ORIGIN = {"source": "folder", "name": "x"}


def arrays(count=6, shape=(12, 16, 3), labels=None):
    """Return a store of pixels in memory, split train, and the pixels."""
    pixels = np.stack([photo(i, *shape[:2])[..., : shape[2]] for i in range(count)])
    labels = np.arange(count, dtype=np.int32) % 3 if labels is None else labels
    records = ArrayRecords({"image": pixels, "label": labels})
    fields = {"image": Image(shape[2]), "label": Label(CLASSES)}
    return Store(fields, {"train": count}, {"train": records}.__getitem__), pixels


@pytest.fixture
def folder(tmp_path):
    """Two splits of image files of many kinds and sizes, all named .JPEG."""
    files = {}
    kinds = [("jpeg", {}), ("png", {}), ("jpeg", {"quality": 60, "progressive": True}), ("webp", {})]
    for i in range(12):
        kind, options = kinds[i % 4]
        content = encoded(photo(i, 10 + 3 * i, 40 - 2 * i), kind, **options)
        files[f"{'train' if i < 8 else 'val'}/{CLASSES[i % 3]}/{i}.JPEG"] = content
    files["train/ant/grey.JPEG"] = encoded(photo(20)[..., 0], "jpeg")
    files["train/ant/cmyk.JPEG"] = encoded(Pillow.fromarray(photo(21)).convert("CMYK"), "jpeg")
    return write_folder(tmp_path / "x", files)


def by_name(records):
    return {records.name(i): (i, records[i]) for i in range(len(records))}


@pytest.mark.parametrize("format", ["jpeg", "raw"])
def test_images_are_scaled_once(folder, tmp_path, format):
    source = open_folder(folder)
    cache = prepare(source, tmp_path / "out/cache", ORIGIN, short_side=12, format=format)
    assert cache.sizes == source.sizes == {"train": 10, "val": 4} and cache.class_names == CLASSES
    for split in source.sizes:
        expected, found = source.records(split), cache.records(split)
        assert [found.name(i) for i in range(len(found))] == [expected.name(i) for i in range(len(expected))]
        for index in range(len(expected)):
            (image, label), (stored, stored_label) = expected[index].values(), found[index].values()
            whole = decode(image, 3)
            scale = min(1, 12 / min(whole.shape[:2]))
            height, width = (int(side * scale + 1e-9) for side in whole.shape[:2])
            resized = np.asarray(Pillow.fromarray(whole).resize((width, height), Pillow.Resampling.BILINEAR))
            pixels = decode(stored, 3) if format == "jpeg" else stored
            assert stored_label == label and pixels.shape == resized.shape
            if format == "raw":
                np.testing.assert_array_equal(pixels, resized)
            else:
                assert np.abs(pixels.astype(int) - resized).mean() < 10  # another image differs by 50
    verify(tmp_path / "out/cache")


def test_small_plain_jpegs_keep_their_bytes(folder, tmp_path):
    source = open_folder(folder).records("train")
    cache = prepare(open_folder(folder), tmp_path / "cache", ORIGIN, short_side=1000).records("train")
    kept = {name.rpartition("/")[2] for name, (i, record) in by_name(cache).items() if record == source[i]}
    assert kept == {"0.JPEG", "2.JPEG", "4.JPEG", "6.JPEG", "grey.JPEG"}
    for _, example in by_name(cache).values():
        with Pillow.open(io.BytesIO(example["image"])) as opened:
            assert opened.format == "JPEG" and opened.mode in ("RGB", "L")


@pytest.mark.parametrize("format", ["jpeg", "raw"])
def test_the_same_bytes_for_any_number_of_threads(folder, tmp_path, format):
    found = []
    for threads in (1, 2, 7):
        out = tmp_path / f"{threads}"
        prepare(open_folder(folder), out, ORIGIN, short_side=8, format=format, threads=threads)
        found.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert found[0] == found[1] == found[2]
    assert set(found[0]) == {"cache.json"} | {
        f"{split}.{kind}" for split in ("train", "val") for kind in ("data", "index.npy", "names.json")
    }


def test_raw_pixels_are_a_view_of_the_file(tmp_path):
    store, pixels = arrays()
    records = prepare(store, tmp_path / "cache", ORIGIN, short_side=100, format="raw").records("train")
    image, label = records[4].values()
    np.testing.assert_array_equal(image, pixels[4])
    assert label == 1 and type(label) is int and not image.flags.owndata and not image.flags.writeable
    assert np.shares_memory(image, records[4]["image"])


def test_grey_images(tmp_path):
    store, pixels = arrays(shape=(12, 16, 1))
    raw = prepare(store, tmp_path / "raw", ORIGIN, short_side=100, format="raw")
    np.testing.assert_array_equal(raw.records("train")[2]["image"], pixels[2])
    jpeg = prepare(store, tmp_path / "jpeg", ORIGIN, short_side=6, quality=100)
    assert jpeg.fields["image"] == Image(1) and decode(jpeg.records("train")[0]["image"], 1).shape == (6, 8, 1)


def test_where_it_came_from(folder, tmp_path):
    source = open_folder(folder)
    cache = prepare(source, tmp_path / "cache", ORIGIN, short_side=8, quality=70)
    found = cache.provenance
    assert found["origin"] == ORIGIN and found["class_names"] == list(CLASSES) and found["jaxcnn"]
    assert found["made"] == {"resize": 8, "format": "jpeg", "quality": 70, "channels": 3}
    assert found["splits"]["val"]["fingerprint"] == source.records("val").fingerprint()
    # Its own fingerprint is that of what was written, wherever it lies.
    before = cache.records("val").fingerprint()
    (tmp_path / "cache").rename(tmp_path / "moved")
    assert open_cache(tmp_path / "moved").records("val").fingerprint() == before
    other = prepare(source, tmp_path / "cache", ORIGIN, short_side=8, quality=71)
    assert other.records("val").fingerprint() != before


def bad_folder(tmp_path, good, bad):
    files = photos(good)
    for i, content in enumerate(bad):
        files[f"bee/bad{i}.JPEG"] = content
    return open_folder(write_folder(tmp_path / "x", files))


def test_bad_examples_are_left_out_and_named(tmp_path):
    cut = photos(3)["ant/0.JPEG"][:300]
    store = bad_folder(tmp_path, 9, [b"", cut, b"text"])
    cache = prepare(store, tmp_path / "cache", ORIGIN, short_side=8, bad_limit=0.25, threads=3)
    assert cache.sizes == {"train": 9}
    left_out = cache.provenance["splits"]["train"]["left_out"]
    assert sorted(one["name"].rpartition("/")[2] for one in left_out) == [f"bad{i}.JPEG" for i in range(3)]
    assert all(one["reason"] for one in left_out)
    names = [cache.records("train").name(i).rpartition("/")[2] for i in range(9)]
    assert not any("bad" in name for name in names) and len(set(names)) == 9


def test_too_many_bad_examples_stop_it(tmp_path):
    store = bad_folder(tmp_path, 9, [b"", b"text"])
    with pytest.raises(RunError, match=r"of the 11 examples of split 'train' cannot be used.*bad"):
        prepare(store, tmp_path / "out/cache", ORIGIN, short_side=8)
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(RunError, match="label 3, expected 0 to 2"):
        wrong, _ = arrays(labels=np.array([0, 1, 2, 3, 0, 1], np.int32))
        prepare(wrong, tmp_path / "out/cache", ORIGIN, short_side=8)
    with pytest.raises(UsageError, match="split 'train' has no images"):
        prepare(arrays(labels=np.full(6, -1))[0], tmp_path / "out/cache", ORIGIN, short_side=8, bad_limit=1)


def test_a_stop_leaves_nothing_behind(tmp_path):
    done = []

    def poll():
        if len(done) == 4:
            raise InterruptedError

    store, _ = arrays(40)
    before = threading.active_count()
    with pytest.raises(InterruptedError):
        prepare(
            store,
            tmp_path / "cache",
            ORIGIN,
            short_side=4,
            threads=2,
            poll=poll,
            progress=lambda *step: done.append(step),
        )
    assert done == [("train", number, 40) for number in range(1, 5)]
    assert not list(tmp_path.iterdir()) and threading.active_count() == before


def test_other_fields_are_told(tmp_path):
    store, _ = arrays()
    other = replace(store, fields={"image": Image(), "angle": Value()})
    with pytest.raises(
        UsageError, match=r"a cache takes labelled images, .*: the data set holds image \(Image\), angle"
    ):
        prepare(other, tmp_path / "cache", ORIGIN, short_side=8)
    assert not list(tmp_path.iterdir())


def test_arguments(tmp_path):
    store, _ = arrays()
    with pytest.raises(UsageError, match=f"{tmp_path} exists: remove it"):
        prepare(store, tmp_path, ORIGIN, short_side=8)
    for options in ({"short_side": 0}, {"short_side": 8, "quality": 101}, {"short_side": 8, "quality": 0}):
        with pytest.raises(UsageError, match="expected 1 or more, and 1 to 100"):
            prepare(store, tmp_path / "cache", ORIGIN, **options)
    with pytest.raises(UsageError, match="unknown cache format 'jpg': did you mean 'jpeg'"):
        prepare(store, tmp_path / "cache", ORIGIN, short_side=8, format="jpg")


@pytest.fixture
def cache(tmp_path):
    prepare(arrays()[0], tmp_path / "cache", ORIGIN, short_side=8)
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["train.data", "train.index.npy", "train.names.json"])
@pytest.mark.parametrize("change", ["shorter", "longer", "gone"])
def test_files_of_another_length(cache, name, change):
    file = cache / name
    raw = file.read_bytes()
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(raw[:-1] if change == "shorter" else raw + b"x")
    message = "is missing" if change == "gone" else f"has .* bytes, expected {len(raw)}"
    with pytest.raises(UsageError, match=f"{name} {message}: the cache is damaged, prepare it again"):
        open_cache(cache)


@pytest.mark.parametrize("name", ["train.index.npy", "cache.json"])
def test_a_flipped_bit_is_noticed_at_once(cache, name):
    raw = bytearray((cache / name).read_bytes())
    raw[-20 if name != "cache.json" else raw.index(b"ant")] ^= 1
    (cache / name).write_bytes(raw)
    with pytest.raises(UsageError, match=f"{name} is not what was written: the cache is damaged"):
        open_cache(cache)


@pytest.mark.parametrize("name", ["train.data", "train.names.json"])
def test_a_flipped_bit_is_found_by_verify(cache, name):
    verify(cache)
    raw = bytearray((cache / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (cache / name).write_bytes(raw)
    open_cache(cache)
    with pytest.raises(UsageError, match=f"{name} is not what was written: the cache is damaged"):
        verify(cache)


def test_what_is_no_cache(cache, tmp_path):
    for content in (None, b"", b"[]", b"{}", b"\xff"):
        folder = tmp_path / "other"
        folder.mkdir(exist_ok=True)
        if content is not None:
            (folder / "cache.json").write_bytes(content)
        with pytest.raises(UsageError, match="other is no cache: expected a folder that `jaxcnn data prepare` wrote"):
            open_cache(folder)
    manifest = json.loads((cache / "cache.json").read_text())
    (cache / "cache.json").write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(UsageError, match="is a cache of version 2, expected 1: prepare it again"):
        open_cache(cache)
