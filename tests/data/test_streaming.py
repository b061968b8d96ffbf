"""The order test, bad data, and the two data paths compared."""

import io
import threading

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcnn import RandomResizedCrop, ScaleJitter
from jaxcnn.data import DataConfig, load, normalisation
from jaxcnn.data.bad import BadExamples
from jaxcnn.data.examples import eval_batches
from jaxcnn.data.fields import Image as ImageField
from jaxcnn.data.fields import Label
from jaxcnn.data.order import Order
from jaxcnn.data.stores.image_folder import open_folder
from jaxcnn.data.streaming import Reader
from jaxcnn.errors import RunError

KEY = jax.random.key(3)
N, BATCH = 45, 12


def jpeg(seed, size=(40, 30), **save):
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90, **save)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of 45 images of two classes, of several sizes, and 10 to test on."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", N), ("test", 10)):
        for index in range(count):
            path = root / split / "ab"[index % 2] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(index, (24 + index % 7, 20 + index % 5)))
    return root


def dataset(folder, **fields):
    fields = {"image_size": 16, "pipeline": "streaming"} | fields
    return load(DataConfig(source="folder", path=folder, **fields))


def feed(reader, steps=100, rows=slice(0, BATCH), last_batch="continue"):
    return reader.stream(Order(KEY, len(reader), BATCH, last_batch), rows, steps, (1, 2))


def taken(reader, steps, **options):
    made = feed(reader, **options)
    batches = [made.at(step) for step in steps]
    made.close()
    return batches


def assert_same(one, other):
    for ours, theirs in zip(one, other, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("crop", [RandomResizedCrop(), ScaleJitter(short_side=(16, 40))])
def test_batches_do_not_depend_on_threads_hosts_or_resumption(folder, crop):
    one = dataset(folder, threads=1, train_crop=crop).train
    expected = taken(one, range(12))
    assert any((a["image"] != b["image"]).any() for a, b in zip(expected, taken(one, range(1, 13)), strict=True))
    for threads in (2, 8):
        reader = dataset(folder, threads=threads, train_crop=crop).train
        assert_same(taken(reader, range(12)), expected)
        # Two hosts, each with its rows.
        halves = zip(*(taken(reader, range(12), rows=rows) for rows in (slice(0, 5), slice(5, BATCH))), strict=True)
        assert_same([{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in halves], expected)
        # Killed and resumed.
        for start in (1, 5, 11):
            assert_same(taken(reader, range(start, 12)), expected[start:])
    indices = np.concatenate([batch["index"] for batch in expected])
    for epoch in range(len(indices) // N):
        assert sorted(indices[epoch * N : (epoch + 1) * N]) == list(range(N))


@settings(deadline=None, max_examples=5)
@given(steps=st.lists(st.integers(0, 30), min_size=1, max_size=5), threads=st.integers(1, 4))
def test_any_step_can_be_asked_for(folder, steps, threads):
    reader = dataset(folder, threads=threads, train_crop=RandomResizedCrop()).train
    made = feed(reader)
    for step in steps:
        assert_same([made.at(step)], taken(reader, [step]))
        assert made.at(step) is made.at(step)
    made.close()


@pytest.mark.parametrize("last_batch", ["drop", "pad"])
def test_the_last_batch_is_as_asked(folder, last_batch):
    batches = taken(dataset(folder).train, range(8), last_batch=last_batch)
    if last_batch == "drop":
        assert all(batch["mask"].all() for batch in batches)
        seen = np.concatenate([batch["index"] for batch in batches[:3]])
        assert len(set(seen)) == 36
    else:
        seen = np.concatenate([batch["index"][batch["mask"]] for batch in batches[:4]])
        assert sorted(seen) == list(range(N))
        assert batches[3]["image"][~batches[3]["mask"]].any((1, 2, 3)).all()  # BatchNorm sees images


def test_both_paths_give_the_same_batches_and_scores(folder):
    kept, streamed = (dataset(folder, pipeline=pipeline) for pipeline in ("resident", "streaming"))
    order = Order(KEY, N, BATCH)
    for step, batch in enumerate(taken(streamed.train, range(6))):
        chosen = order.rows(step, slice(None))[0]
        (expected,) = kept.train.batches([chosen])
        np.testing.assert_array_equal(batch["index"], chosen)
        assert_same([{name: batch[name] for name in expected}], [expected])
    for ours, theirs in zip(eval_batches(kept.test, 4), eval_batches(streamed.test, 4), strict=True):
        assert_same([{name: theirs[name] for name in ours}], [ours])
    config = DataConfig(source="digits")
    assert_same([normalisation(config, kept.train)], [normalisation(config, streamed.train)])


def corrupted(data):
    """Return a JPEG whose compressed data was overwritten with markers that mean nothing there."""
    at = len(data) * 2 // 3
    return data[:at] + b"\xff\xc4\x00\x03" + data[at + 4 :]


def encoded(mode, kind):
    file = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).convert(mode).save(file, kind)
    return file.getvalue()


class Given:
    """Records from a list of bytes."""

    def __init__(self, images, labels=None):
        self.images, self.labels = images, labels or [0] * len(images)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": self.labels[index]}

    def name(self, index):
        return f"{index}.JPEG"

    def fingerprint(self):
        return ""


def reader_of(records, limit=1.0, **fields):
    config = DataConfig(source="folder", image_size=16, **fields)
    bad = BadExamples("train", len(records), limit)
    return Reader(records, {"image": ImageField(), "label": Label(("a", "b"))}, config, bad, RandomResizedCrop())


GOOD = [jpeg(seed) for seed in range(20)]
BAD = {
    "truncated": jpeg(50)[:-40],
    "cut in the middle": jpeg(51)[: len(jpeg(51)) // 2],
    "corrupt": corrupted(jpeg(52)),
    "zero bytes": b"",
    "no image": b"<html>not found</html>" * 20,
    "truncated PNG": encoded("RGB", "PNG")[:60],
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_counted_named_and_masked(what):
    records = Given([*GOOD[:7], BAD[what], *GOOD[7:]])
    reader = reader_of(records)
    order = Order(KEY, len(records), 7)
    batches = [reader.stream(order, slice(0, 7), 9, (1, 2)).at(step) for step in range(9)]  # three epochs
    for batch in batches:
        np.testing.assert_array_equal(batch["mask"], batch["index"] != 7)
        assert not batch["image"][~batch["mask"]].any() and batch["image"][batch["mask"]].any((1, 2, 3)).all()
    (bad,) = reader.bad
    assert bad.name == "7.JPEG" and bad.reason
    (batch,) = reader.batches([np.arange(len(records))])
    assert batch["mask"].sum() == len(GOOD)


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG"), ("RGBA", "PNG")])
def test_other_kinds_under_a_jpeg_name_are_read(mode, kind):
    reader = reader_of(Given([encoded(mode, kind)] * 3))
    (batch,) = reader.batches([np.arange(3)])
    cropped = reader.stream(Order(KEY, 3, 3), slice(0, 3), 1, (1, 2)).at(0)
    for found in (batch, cropped):
        assert found["mask"].all() and (abs(found["image"].astype(int) - 90) < 6).all()
    assert not reader.bad


@pytest.mark.parametrize("label", [-1, 2, 10**6])
def test_a_wrong_label_is_bad(label):
    reader = reader_of(Given(GOOD[:3], [0, label, 1]))
    (batch,) = reader.batches([np.arange(3)])
    assert batch["mask"].tolist() == [True, False, True] and batch["label"].tolist() == [0, 0, 1]
    assert f"label {label}, expected 0 to 1" in reader.bad[0].reason


def test_too_many_bad_files_stop_the_run():
    images = [*GOOD, b"", *GOOD, b"\xff\xd8"]
    with pytest.raises(
        RunError, match=r"2 of the 42 examples of split 'train' .* data.bad_limit 0.04 .*: 20.JPEG: .*; 41"
    ):
        list(reader_of(Given(images), limit=0.04).batches([np.arange(42)]))
    assert len(list(reader_of(Given(images), limit=0.05).batches([np.arange(42)]))) == 1


class Dying(Given):
    """Records whose reading fails otherwise than by a bad image."""

    def __getitem__(self, index):
        if index == 5:
            raise ZeroDivisionError("a worker died")
        return super().__getitem__(index)


def test_a_worker_that_dies_is_noticed_and_leaves_no_thread():
    before = set(threading.enumerate())
    reader = reader_of(Dying(GOOD), threads=2)
    made = reader.stream(Order(KEY, len(GOOD), 5), slice(0, 5), 100, (1, 2))
    with pytest.raises(ZeroDivisionError, match="a worker died"):
        for step in range(4):
            made.at(step)
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()


def test_raw_pixels_are_cropped_like_encoded_ones():
    pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in GOOD]
    order = Order(KEY, len(GOOD), 10)
    encoded_batch, raw = (
        reader_of(Given(images)).stream(order, slice(0, 10), 2, (1, 2)).at(1) for images in (GOOD, pixels)
    )
    difference = abs(encoded_batch["image"].astype(int) - raw["image"])
    assert difference.mean() < 1.0


def test_experiments_with_other_fields_share_no_draws(folder):
    plain = taken(dataset(folder, train_crop=RandomResizedCrop()).train, [0])[0]
    other = dataset(folder, train_crop=RandomResizedCrop()).train.stream(
        Order(KEY, N, BATCH), slice(0, BATCH), 1, (1, 3)
    )
    assert (other.at(0)["image"] != plain["image"]).any()
    np.testing.assert_array_equal(other.at(0)["index"], plain["index"])
    other.close()


def test_what_was_found_is_handed_on_and_changes_no_batch():
    records = Given([*GOOD[:2], b"", *GOOD[2:5]])
    reader = reader_of(records)
    list(reader.batches([np.arange(6)]))
    other = reader_of(Given(GOOD[:6]))
    other.restore_unusable(reader.unusable)
    (batch,) = other.batches([np.arange(6)])
    assert other.bad == reader.bad and batch["mask"].all()


def test_the_limit_is_that_of_the_part_asked_for(tmp_path):
    for index in range(10):
        path = tmp_path / "a" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(GOOD[index])
    names = [record.split("/")[-1] for record in load_names(tmp_path)]
    (tmp_path / "a" / names[9]).write_bytes(b"")
    for pipeline in ("resident", "streaming"):
        fields = {
            "source": "folder",
            "path": tmp_path,
            "image_size": 8,
            "pipeline": pipeline,
            "train_split": "train[:5]",
        }
        data = load(DataConfig(test_split="train[5:9]", **fields))
        assert len(list(data.test.batches([np.arange(4)]))) == 1
        with pytest.raises(RunError, match=r"1 of the 5 examples of split 'train\[5:\]'"):
            list(load(DataConfig(test_split="train[5:]", **fields)).test.batches([np.arange(5)]))


def load_names(folder):
    records = open_folder(folder).records("train")
    return [records.name(index) for index in range(len(records))]
