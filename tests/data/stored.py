"""Small stored data sets for the tests: image files, folders, tar files, and TFDS's formats."""

import io
import json
import tarfile
import types

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from jaxcnn.data.stores import tfrecord

CLASSES = ("ant", "bee", "cat")


def encoded(pixels, kind="png", **options):
    """Return pixels uint8 [h, w] or [h, w, 3], or a PIL image, as an image file."""
    out = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(out, kind, **options)
    return out.getvalue()


def photo(number, height=12, width=16):
    """Return smooth pixels uint8 [h, w, 3], others for each number."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3)).astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def photos(count, kind="jpeg", **options):
    """Return image files by name, CLASS/NUMBER.JPEG."""
    return {f"{CLASSES[i % 3]}/{i}.JPEG": encoded(photo(i), kind, **options) for i in range(count)}


def write_folder(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(path, files, others=()):
    """Write contents by name, then tarfile.TarInfo members without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in others:
            tar.addfile(info)
    return path


def write_tfds(data_dir, train, test, shards=1):
    """Write the TFDS data set `tiny` of image files (JPEG or PNG) with labels 0, 1, 2, 0, ...; return its folder."""

    def examples(files):
        for index, image in enumerate(files):
            yield index, {"image": image, "label": index % 3}

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=CLASSES)}
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _make_download_manager(self, **_):
            return types.SimpleNamespace(downloaded_size=0)

        def _split_generators(self, dl_manager):
            return {"train": examples(train), "test": examples(test)}

        def _generate_examples(self):
            raise NotImplementedError

    tfds.disable_progress_bar()
    builder = Tiny(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards))
    return data_dir / "tiny/1.0.0"


def as_tfrecord(folder):
    """Turn a TFDS data set in array_record files into what TFDS writes by default: TFRecord files."""
    for file in folder.glob("*.array_record-*"):
        reader = ArrayRecordReader(str(file))
        framed = b"".join(map(tfrecord.frame, reader.read_all()))
        reader.close()
        file.unlink()
        file.with_name(file.name.replace("array_record", "tfrecord")).write_bytes(framed)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder
