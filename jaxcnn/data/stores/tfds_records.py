"""Prepared TFDS data sets, read record by record."""

import resource
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.fields import Example, Image, Label
from jaxcnn.data.stores.records import Records, Store, digest, shown
from jaxcnn.data.stores.tfds_builder import find_features, readable
from jaxcnn.errors import BadExample, UsageError

# Of their names a list is made.
_MOST_CLASSES = 1 << 20


class TfdsRecords:
    """One split, in array_record files."""

    def __init__(self, builder: Any, split: str, image: str, label: str) -> None:
        """Open the files.

        Args:
            builder: of a prepared data set that has array_record files.
            split: its name.
            image: name of the feature that holds the image.
            label: name of the feature that holds the class.

        Raises:
            UsageError: a file is missing, or holds another number of records than dataset_info.json says.
        """
        import tensorflow_datasets as tfds

        self._image, self._label = image, label
        self._what = f"{builder.info.full_name} {split}"
        decoders = {image: tfds.decode.SkipDecoding()}
        with readable(builder.info.full_name):
            self._records = builder.as_data_source(split, decoders=decoders, file_format="array_record")
            info = builder.info.splits[split]  # with the names of these files, now
            self._files = [Path(file) for file in info.filepaths]
            self._info = Path(builder.data_path) / "dataset_info.json"
            for file, expected in zip(self._files, info.shard_lengths, strict=True):
                _check(file, expected, f"TFDS data set {builder.info.full_name!r}, split {split!r}")
        _allow_open_files(len(self._files))

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        """Return one encoded image and its label."""
        try:
            record = self._records[index]
        except Exception as error:  # the files have checksums; a damaged record makes TFDS raise whatever it comes to
            raise BadExample(
                f"cannot be read: {(str(error).splitlines() or [type(error).__name__])[0][:100]}"
            ) from error
        image, label = record[self._image], record[self._label]
        if not isinstance(image, bytes) or not isinstance(label, int | np.integer):
            raise BadExample("a record without an image and a class")
        return {"image": image, "label": int(label)}

    def name(self, index: int) -> str:
        """Return the data set, the split and the record's number."""
        return f"{self._what} record {index}"

    def fingerprint(self) -> str:
        """Return a SHA-256 over the files' names and sizes, and dataset_info.json."""
        files = [f"{file.name} {file.stat().st_size}" for file in self._files]
        return digest([self._info.read_bytes(), *files])


def open_tfds(builder: Any) -> Store:
    """Return the data set of a builder from `tfds_builder.open_builder`.

    Raises:
        UsageError: it is not for image classification, or its files are not what its dataset_info.json says.
    """
    info = builder.info

    def records(split: str) -> Records:
        return TfdsRecords(builder, split, image, label)

    with readable(info.full_name):
        image, label = find_features(info)
        channels, classes = info.features[image].shape[-1] or 3, info.features[label].num_classes
        if channels not in (1, 3):
            raise UsageError(f"TFDS data set {info.full_name!r}: images have {channels} channels, not 1 or 3")
        if not 0 < classes <= _MOST_CLASSES:
            raise UsageError(f"TFDS data set {info.full_name!r}: {classes} classes, expected 1 to {_MOST_CLASSES}")
        return Store(
            fields={"image": Image(channels), "label": Label(tuple(map(shown, info.features[label].names)))},
            sizes={name: split.num_examples for name, split in info.splits.items()},
            records=records,
            note=str((info.metadata or {}).get("note", "")),
        )


def _check(file: Path, expected: int, what: str) -> None:
    from array_record.python.array_record_module import ArrayRecordReader

    if not file.is_file():
        raise UsageError(f"{what}: {file} is missing")
    reader = ArrayRecordReader(str(file), options="readahead_buffer_size:0")
    found = reader.num_records()  # 0 where the end of the file, which tells, is gone
    if reader.ok():
        reader.close()
    if found != expected:
        raise UsageError(
            f"{what}: {file} holds {found} records, expected {expected} as dataset_info.json says; it is cut off, "
            "damaged or of another version: prepare it again"
        )


def _allow_open_files(count: int) -> None:
    """Raise this process's limit by so many: each file stays open once it is read, and ImageNet has 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        more = soft + count if hard == resource.RLIM_INFINITY else min(soft + count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
