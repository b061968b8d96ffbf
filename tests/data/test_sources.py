import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import DataConfig, dataset, load, normalisation
from jaxcnn.data.crops import RandomResizedCrop
from jaxcnn.data.dataset import streams
from jaxcnn.data.framing import Fit
from jaxcnn.data.sources import open_store
from jaxcnn.errors import RunError, UsageError


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    data = load(DataConfig(source="digits"))
    assert data.train.arrays["image"].shape == (1437, 8, 8, 1) and data.test.arrays["image"].shape == (360, 8, 8, 1)
    assert data.class_names == tuple("0123456789")
    found = np.concatenate([data.train.arrays["image"], data.test.arrays["image"]]).reshape(-1, 64)
    labels = np.concatenate([data.train.arrays["label"], data.test.arrays["label"]])
    digits = load_digits()
    expected = np.round(digits.data * (255 / 16))

    def rows(images, labels):
        return sorted(map(tuple, np.column_stack([labels, images]).astype(int)))

    assert rows(found, labels) == rows(expected, digits.target)
    assert found.max() == 255 and np.bincount(data.test.arrays["label"]).min() >= 25


def test_digits_grow_and_slice():
    whole = load(DataConfig(source="digits", image_size=28))
    assert whole.train.arrays["image"].shape == (1437, 28, 28, 1)
    part = load(DataConfig(source="digits", train_split="train[:80%]", val_split="train[80%:]", image_size=28))
    np.testing.assert_array_equal(
        np.concatenate([part.train.arrays["image"], part.val.arrays["image"]]), whole.train.arrays["image"]
    )
    np.testing.assert_array_equal(part.test.arrays["label"], whole.test.arrays["label"])


def test_digits_load_without_the_slow_imports():
    code = (
        "import sys; from jaxcnn.data import DataConfig, load; "
        "load(DataConfig(source='digits', image_size=28)); "
        "print({'sklearn', 'scipy', 'tensorflow_datasets'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'jaxcnn\[digits\]'"):
        load(DataConfig(source="digits"))


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (20, 5, 5, 3)).astype(np.uint8),
        "train_labels": np.arange(20) % 4,
        "test_images": rng.integers(0, 256, (8, 5, 5, 3)).astype(np.uint8),
        "test_labels": np.arange(8) % 4,
    }


def load_npz(path, arrays, **fields):
    np.savez(path / "data.npz", **arrays)
    return load(DataConfig(source="npz", path=path / "data.npz", **fields))


def test_npz(tmp_path, arrays):
    data = load_npz(tmp_path, arrays, train_split="train[:75%]", val_split="train[75%:]")
    np.testing.assert_array_equal(data.train.arrays["image"], arrays["train_images"][:15])
    np.testing.assert_array_equal(data.val.arrays["label"], arrays["train_labels"][15:])
    np.testing.assert_array_equal(data.test.arrays["image"], arrays["test_images"])
    assert data.class_names == ("0", "1", "2", "3")


def test_npz_splits_add_up(tmp_path, arrays):
    data = load_npz(
        tmp_path,
        arrays | {"class_names": np.array(list("abcd"))},
        train_split="train[:2]+test[:1]",
        test_split="test[1:]",
    )
    expected = np.concatenate([arrays["train_images"][:2], arrays["test_images"][:1]])
    np.testing.assert_array_equal(data.train.arrays["image"], expected)
    assert data.class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": np.full((20, 5, 5, 3), 300)}, "data.npz train: image holds 300 to 300, expected 0 to 255"),
        ({"train_images": np.zeros((20, 5), np.uint8)}, "image has shape"),
        ({"train_labels": np.arange(3)}, r"label has shape \(3,\) for 20 of image"),
        ({"test_images": np.zeros((8, 6, 5, 3), np.uint8)}, r"image of split 'test' is \(6, 5, 3\)"),
        ({"test_images": np.zeros((8, 5, 5, 1), np.uint8)}, "test: image has 1 channels, expected 3"),
        ({"train_images": np.zeros((20, 3, 32, 32), np.uint8)}, "expected the channels last, not first"),
        (
            {"test_images": np.zeros((0, 5, 5, 3), np.uint8), "test_labels": np.arange(0)},
            r"test: image has shape \(0",
        ),
        ({"train_labels": np.arange(20) + 100}, "labels up to 119 and none is 4: expected every number from 0"),
        ({"class_names": np.array(["a"])}, "train: label 3 found, there are 1 classes"),
    ],
)
def test_npz_errors(tmp_path, arrays, change, message):
    with pytest.raises(UsageError, match=message):
        load_npz(tmp_path, arrays | change)


def test_classes_without_an_image_need_names(tmp_path, arrays):
    arrays = {key: 2 * array if "labels" in key else array for key, array in arrays.items()}
    with pytest.raises(UsageError, match="labels up to 6 and none is 1"):
        load_npz(tmp_path, arrays)
    assert load_npz(tmp_path, arrays | {"class_names": np.array(list("abcdefg"))}).class_names[6] == "g"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train_split": "train[:90%]", "test_split": "train[80%:]"}, "data.test_split .* shares 2 examples with"),
        (
            {"val_split": "train[-5:]"},
            "data.val_split 'train\\[-5:\\]' shares 5 examples with data.train_split 'train'",
        ),
        ({"train_split": "train[:5]+train[10:]", "val_split": "train[4:11]"}, "shares 2 examples"),
        ({"test_split": "test[:5]+test[4:]"}, "data.test_split 'test.*' names examples twice"),
        ({"train_split": "train+train"}, "data.train_split 'train\\+train' names examples twice"),
        ({"val_split": ""}, "split '' not understood"),
        ({"image_size": 0}, "data.image_size is 0: expected a whole number, 1 or more or None"),
        ({"image_size": 10**6}, "more than half of the memory"),
        ({"name": "mnist"}, "data.name is 'mnist', which data.source npz does not read"),
    ],
)
def test_fields_that_cannot_be(tmp_path, arrays, fields, message):
    with pytest.raises(UsageError, match=message):
        load_npz(tmp_path, arrays, **fields)


def test_val_and_test_may_share_examples(tmp_path, arrays):
    data = load_npz(tmp_path, arrays, train_split="train[:10]+train[12:]", val_split="train[10:12]+test[:5]")
    assert (len(data.train), len(data.val), len(data.test)) == (18, 7, 8)


def test_digits_read_no_file(tmp_path):
    with pytest.raises(UsageError, match=r"data.path is '.*', which data.source digits does not read"):
        load(DataConfig(source="digits", path=tmp_path))


def test_npz_names_what_is_missing(tmp_path, arrays):
    with pytest.raises(UsageError, match=r"needs data.path"):
        load(DataConfig(source="npz"))
    with pytest.raises(UsageError, match=r"none.npz: no such file"):
        load(DataConfig(source="npz", path=tmp_path / "none.npz"))
    (tmp_path / "text.npz").write_text("not a zip file")
    with pytest.raises(UsageError, match=r"not a readable .npz file"):
        load(DataConfig(source="npz", path=tmp_path / "text.npz"))
    with pytest.raises(UsageError, match="holds x; expected train_images"):
        load_npz(tmp_path, {"x": np.zeros(3)})
    del arrays["test_labels"]
    with pytest.raises(UsageError, match="holds test_images and no test_labels"):
        load_npz(tmp_path, arrays)
    with pytest.raises(UsageError, match="unknown split 'validation'"):
        load_npz(tmp_path, {k: v for k, v in arrays.items() if "train" in k}, test_split="validation")


def write_image(path, value, size=(6, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(path)


def test_folder_of_splits(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(["bee", "ant"]):
            for i in range(count):
                write_image(tmp_path / split / name / f"{i}.png", 100 * label + i, mode="L" if i else "RGB")
    (tmp_path / "train" / "ant" / ".hidden").write_text("")
    data = load(DataConfig(source="folder", path=tmp_path, test_split="val"))
    assert data.class_names == ("ant", "bee")
    assert sorted(data.test.arrays["label"]) == [0, 0, 1, 1] and data.train.arrays["image"].shape == (6, 4, 6, 3)
    found = sorted(
        zip(data.train.arrays["label"].tolist(), data.train.arrays["image"][:, 0, 0, 0].tolist(), strict=True)
    )
    assert found == [(0, 100), (0, 101), (0, 102), (1, 0), (1, 1), (1, 2)]


def test_folder_of_classes_of_many_sizes(tmp_path):
    for i in range(4):
        write_image(tmp_path / "ab"[i % 2] / f"{i}.jpg", 40 * (i % 2), size=(10 + i, 20))
    fields = {"path": tmp_path, "train_split": "train[:50%]", "test_split": "train[50%:]"}
    with pytest.raises(UsageError, match=r"images differ in size .*20x1.*: set data.image_size"):
        load(DataConfig(source="folder", **fields))
    data = load(DataConfig(source="folder", image_size=8, **fields))
    assert data.train.arrays["image"].shape == data.test.arrays["image"].shape == (2, 8, 8, 3)
    for split in (data.train, data.test):
        np.testing.assert_allclose(split.arrays["image"][:, 4, 4, 0], 40 * split.arrays["label"], atol=2)


def test_slices_of_a_folder_have_all_classes(tmp_path):
    for i in range(200):
        write_image(tmp_path / f"{i // 50}" / f"{i}.png", i, size=(1, 1))
    fields = {"path": tmp_path, "train_split": "train[:80%]", "test_split": "train[80%:]"}
    data = load(DataConfig(source="folder", **fields))
    assert np.bincount(data.train.arrays["label"]).min() > 30 and np.bincount(data.test.arrays["label"]).min() >= 5
    # A new image changes the order of none of the others.
    write_image(tmp_path / "2" / "new.png", 250, size=(1, 1))
    again = load(DataConfig(source="folder", **fields))
    before, after = (
        np.concatenate([d.train.arrays["image"], d.test.arrays["image"]]).ravel()[::3] for d in (data, again)
    )
    assert after[after != 250].tolist() == before.tolist()


def test_folder_errors(tmp_path):
    config = DataConfig(source="folder", path=tmp_path, train_split="train[:50%]", test_split="train[50%:]")
    with pytest.raises(UsageError, match="no class folders"):
        load(config)
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError, match="no files in them"):
        load(config)
    write_image(tmp_path / "a" / "good.png", 1)
    data = (tmp_path / "a" / "good.png").read_bytes()
    (tmp_path / "a" / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(RunError, match=r"1 of the 1 examples of split 'train\[.*\]' cannot be used, .*: .*a/cut.png: "):
        load(config)
    with pytest.raises(UsageError, match="no such folder"):
        load(DataConfig(source="folder", path=tmp_path / "none"))


def test_bad_files_are_named_and_passed_over(tmp_path):
    for i in range(6):
        write_image(tmp_path / "train" / "a" / f"{i}.png", 10 * i)
        write_image(tmp_path / "test" / "a" / f"{i}.png", 10 * i)
    (tmp_path / "train" / "a" / "4.png").write_bytes(b"")
    (tmp_path / "train" / "a" / "notes.txt").write_text("hello")
    config = DataConfig(source="folder", path=tmp_path, bad_limit=0.2)
    assert open_store(config).ignored == (str(tmp_path / "train" / "a" / "notes.txt"),)
    data = load(config)
    (bad,) = data.train.bad
    assert bad.name.endswith("train/a/4.png") and not data.test.bad
    (batch,) = data.train.batches([np.arange(6)])
    assert (~batch["mask"]).sum() == 1 and not batch["image"][~batch["mask"]].any()
    mean, std = normalisation(config, data.train)
    usable = data.train.arrays["image"][data.train.usable] / 255
    np.testing.assert_allclose(mean, usable.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, usable.std((0, 1, 2)), rtol=1e-6)


def test_what_streams(tmp_path, monkeypatch):
    for i in range(4):
        write_image(tmp_path / "a" / f"{i}.png", i)
    plain = {"source": "folder", "path": tmp_path, "train_split": "train[:2]", "test_split": "train[2:]"}

    def streamed(free=(10**9, 10**9), **fields):
        monkeypatch.setattr(dataset, "free_memory", lambda: free)
        config = DataConfig(**plain, **fields)
        return streams(config, open_store(config))

    assert not streamed() and not streamed(image_size=8)
    images = 8 * 8 * 3
    assert streamed((2 * 4 * images - 2, 10**9), image_size=8) and not streamed((2 * 4 * images, 10**9), image_size=8)
    assert streamed((10**9, 2 * 2 * images - 2), image_size=8) and not streamed((10**9, 2 * 2 * images), image_size=8)
    assert streamed(image_size=8, pipeline="streaming") and streamed(image_size=8, train_crop=RandomResizedCrop())
    assert not streamed((0, 0), image_size=8, pipeline="resident")


def test_unknown_source():
    with pytest.raises(UsageError, match="did you mean 'folder'"):
        load(DataConfig(source="foldr"))


def test_fit_crops_the_centre_and_pads():
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200  # exactly the central square
    config = DataConfig(source="digits", image_size=4)
    assert Fit.of(config).pixels(wide).min() == 200
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[2:6, 6:10] = 200  # the central half of the central square
    assert Fit.of(replace(config, resize_to=8)).pixels(wide).min() == 200
    pad = Fit.of(replace(config, resize="pad"))
    small = pad.pixels(np.full((2, 2, 1), 9, np.uint8))
    np.testing.assert_array_equal(small[..., 0], np.pad(np.full((2, 2), 9), 1))
    with pytest.raises(UsageError, match="cannot be padded"):
        pad.pixels(np.zeros((5, 5, 1), np.uint8))


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5), (1, 9)])
def test_fit_gives_the_size_and_keeps_constants(shape, resize):
    image = np.full((*shape, 3), 77, np.uint8)
    for size in (1, 4, 11):
        config = DataConfig(source="digits", image_size=size, resize=resize)
        np.testing.assert_array_equal(Fit.of(config).pixels(image), np.full((size, size, 3), 77))
