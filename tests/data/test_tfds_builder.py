"""A data set in TFDS's format, written by TFDS's own machinery, and read back."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxcnn.data import DataConfig, dataset, load
from jaxcnn.data.stores import tfds_builder
from jaxcnn.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 6, 7, 3)).astype(np.uint8)


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def write(data_dir, images=IMAGES, labels=None, extra=None, file_format="array_record"):
    """Write the data set `tiny`, splits train and test, in the order of the images."""
    labels = np.arange(len(images)) % 3 if labels is None else labels

    def examples(part):
        for index in range(len(images))[part]:
            yield index, {"image": png(images[index]), "label": int(labels[index])}

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features | (extra or {})),
                disable_shuffling=True,
            )

        def _make_download_manager(self, **_):
            return types.SimpleNamespace(downloaded_size=0)

        def _split_generators(self, dl_manager):
            return {"train": examples(slice(0, 20)), "test": examples(slice(20, None))}

        def _generate_examples(self):
            raise NotImplementedError

    tfds.disable_progress_bar()
    Tiny(data_dir=str(data_dir), file_format=file_format).download_and_prepare()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/jaxcnn/data"


def config(path, **fields):
    return DataConfig(source="tfds", name="tiny", path=path, **fields)


def test_reads_what_was_written(tmp_path):
    write(tmp_path)
    data = load(config(tmp_path, train_split="train[:15]", val_split="train[75%:]"))
    np.testing.assert_array_equal(data.train.arrays["image"], IMAGES[:15])
    np.testing.assert_array_equal(data.val.arrays["image"], IMAGES[15:20])
    np.testing.assert_array_equal(data.test.arrays["image"], IMAGES[20:])
    np.testing.assert_array_equal(data.test.arrays["label"], np.arange(20, 30) % 3)
    assert data.class_names == ("a", "b", "c") and data.train.arrays["label"].dtype == np.int32


def test_the_second_time_nothing_is_decoded(tmp_path, cache, monkeypatch):
    write(tmp_path)
    first = load(config(tmp_path))
    assert len(list(cache.iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "read_whole", lambda *arguments: pytest.fail("it is decoded again"))
        second = load(config(tmp_path))
    np.testing.assert_array_equal(first.train.arrays["image"], second.train.arrays["image"])
    assert load(config(tmp_path, image_size=4)).train.arrays["image"].shape == (20, 4, 4, 3)
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", ["flip a bit", "truncate", "empty"])
def test_a_damaged_cache_is_not_used(tmp_path, cache, damage):
    write(tmp_path)
    first = load(config(tmp_path))
    for file in cache.iterdir():
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 1
        file.write_bytes({"flip a bit": raw, "truncate": raw[: len(raw) // 2], "empty": b""}[damage])
    np.testing.assert_array_equal(load(config(tmp_path)).train.arrays["image"], first.train.arrays["image"])


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    write(tmp_path)
    assert len(load(config(tmp_path)).train) == 20


def test_data_prepared_anew_is_read_anew(tmp_path):
    write(tmp_path / "one")
    load(config(tmp_path / "one"))
    write(tmp_path / "two", images=255 - IMAGES)
    data = load(config(tmp_path / "two"))
    np.testing.assert_array_equal(data.train.arrays["image"], 255 - IMAGES[:20])


def test_grey_images_in_a_set_of_colour_images(tmp_path):
    grey = IMAGES[..., 0]
    write(tmp_path, images=grey)
    np.testing.assert_array_equal(load(config(tmp_path)).train.arrays["image"], np.repeat(grey[:20, ..., None], 3, -1))


def test_images_of_many_sizes_need_image_size(tmp_path):
    write(tmp_path, images=[image[: 4 + i % 2] for i, image in enumerate(IMAGES)])
    with pytest.raises(
        UsageError, match=r"record 1: images differ in size \(this one is 5x7, others are 4x7\): set data.image_size"
    ):
        load(config(tmp_path))
    assert load(config(tmp_path, image_size=5)).test.arrays["image"].shape == (10, 5, 5, 3)


def test_unlabelled_splits_are_refused(tmp_path):
    write(tmp_path, labels=np.full(30, -1))
    with pytest.raises(UsageError, match=r"label -1, expected 0 to 2 \(is the split unlabelled\?\)"):
        load(config(tmp_path))


def test_names():
    with pytest.raises(UsageError, match=r"unknown TFDS data set 'mnst': did you mean 'mnist'"):
        load(DataConfig(source="tfds", name="mnst"))
    with pytest.raises(UsageError, match=r"needs data.name"):
        load(DataConfig(source="tfds"))
    with pytest.raises(UsageError, match=r"unknown configuration of imagenette '160px-v3': did you mean '160px"):
        load(DataConfig(source="tfds", name="imagenette/160px-v3"))
    with pytest.raises(UsageError, match=r"mnist has no configurations: write mnist, not mnist/small"):
        load(DataConfig(source="tfds", name="mnist/small"))
    with pytest.raises(UsageError, match=r"'mnist:9.9.9': Dataset mnist cannot be loaded at version 9.9.9, only: 3"):
        load(DataConfig(source="tfds", name="mnist:9.9.9"))
    for name in ("../mnist", "m nist", "huggingface:mnist"):
        with pytest.raises(UsageError, match=r"unknown TFDS data set '.*': did you mean '.*mnist'"):
            load(DataConfig(source="tfds", name=name))


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_a_data_set_that_needs_tensorflow():
    with pytest.raises(UsageError, match=r"'spoken_digit' cannot be opened: No module named 'tensorflow'; pip install"):
        load(DataConfig(source="tfds", name="spoken_digit"))


def test_the_folder_of_the_environment(tmp_path):
    write(tmp_path)
    code = (
        "from jaxcnn.data import DataConfig, load; "
        "print(len(load(DataConfig(source='tfds', name='tiny', download=False)).train))"
    )
    env = os.environ | {"TFDS_DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "20\n", done.stderr


def test_unknown_split(tmp_path):
    write(tmp_path)
    with pytest.raises(UsageError, match="unknown split 'tset': did you mean 'test'"):
        load(config(tmp_path, test_split="tset"))


def test_not_prepared(tmp_path):
    with pytest.raises(UsageError, match=r"'mnist' is not prepared in .*data.download is off; .*tfds build mnist "):
        load(DataConfig(source="tfds", name="mnist", path=tmp_path, download=False))


def test_a_failed_download_says_why(tmp_path, monkeypatch):
    def fail(self):
        raise ConnectionError("no route to host\nand a long story")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UsageError, match=r"the download failed \(ConnectionError: no route to host\); prepare it"):
        load(DataConfig(source="tfds", name="mnist", path=tmp_path))
    assert not list(tmp_path.iterdir())


SLOW_DOWNLOAD = """
import concurrent.futures, time, types
from jaxcnn.data.stores import tfds_builder

started = []

def download():
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            pool.submit(time.sleep, 60)
        started.append(True)

def poll():
    if started:
        raise InterruptedError

info = types.SimpleNamespace(full_name="slow/1.0.0")
tfds_builder._download(types.SimpleNamespace(info=info, data_dir_root="", download_and_prepare=download), True, poll)
"""


def test_a_stop_ends_a_download_and_the_process():
    done = subprocess.run([sys.executable, "-c", SLOW_DOWNLOAD], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "InterruptedError"


def test_a_download_is_used(tmp_path, monkeypatch):
    """TFDS's own builder without TFDS's network: its download is replaced by files written here."""
    rows = {
        "train": [(i, {"image": png(np.full((28, 28), i, np.uint8)), "label": i % 10}) for i in range(20)],
        "test": [(i, {"image": png(np.full((28, 28), 90 + i, np.uint8)), "label": i}) for i in range(10)],
    }
    mnist = tfds.builder_cls("mnist")
    monkeypatch.setattr(mnist, "_make_download_manager", lambda self, **_: types.SimpleNamespace(downloaded_size=0))
    monkeypatch.setattr(mnist, "_split_generators", lambda self, dl_manager: rows)
    data = load(DataConfig(source="tfds", name="mnist", path=tmp_path))
    assert data.train.arrays["image"].shape == (20, 28, 28, 1)
    np.testing.assert_array_equal(data.train.arrays["image"][:, 0, 0, 0] % 10, data.train.arrays["label"])
    assert set(data.test.arrays["image"][:, 0, 0, 0]) == set(range(90, 100))


def info(features, keys=None):
    return types.SimpleNamespace(
        features=tfds.features.FeaturesDict(features), supervised_keys=keys, full_name="some/1.0.0"
    )


def test_features():
    image, label = tfds.features.Image(), tfds.features.ClassLabel(num_classes=2)
    assert tfds_builder.find_features(info({"image": image, "label": label})) == ("image", "label")
    renamed = {"picture": image, "kind": label, "other": label}
    assert tfds_builder.find_features(info(renamed, ("picture", "kind"))) == ("picture", "kind")
    with pytest.raises(UsageError, match=r"not for image classification: it has the features image, text,"):
        tfds_builder.find_features(info({"image": image, "text": tfds.features.Text()}, ("image", "text")))
    with pytest.raises(UsageError, match="images are uint16"):
        deep = tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16, encoding_format="png")
        tfds_builder.find_features(info({"image": deep, "label": label}))


def test_reading_imports_nothing_that_the_files_name(tmp_path, hostile):
    write(tmp_path)
    file = tmp_path / "tiny/1.0.0/features.json"
    whole = file.read_text()
    for inner in (False, True):
        found = json.loads(whole)
        part = found["featuresDict"]["features"]["label"] if inner else found
        part["pythonClassName"] = "hostile.X"
        for text in (found, {"type": "hostile.X", "content": {}}):
            file.write_text(json.dumps(text))
            with pytest.raises(
                UsageError, match=r"'tiny': features.json names the class 'hostile.X': .*import hostile"
            ):
                load(config(tmp_path))
    assert not hostile.exists()
    # One's own kinds of features are those that one has imported.
    assert "hostile" not in sys.modules
    file.write_text(whole)
    assert len(load(config(tmp_path)).train) == 20


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "[" * 100_000, '{"pythonClassName": "os.X"}', '{"type": 3}', "\xff"]
)
@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_descriptions_that_are_none(tmp_path, name, text):
    write(tmp_path)
    (tmp_path / "tiny/1.0.0" / name).write_text(text, "latin-1")
    with pytest.raises(UsageError) as caught:
        load(config(tmp_path, download=False))
    assert "TFDS data set 'tiny'" in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 and "mnist" not in str(caught.value)
