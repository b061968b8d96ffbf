"""TFDS data sets in TFRecord files, written again as array_record files beside them, which have random access."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxcnn.data.stores import tfds_builder, tfrecord
from jaxcnn.errors import UsageError
from jaxcnn.files import fsync, write_atomically


def convert(
    name: str,
    data_dir: Path | None = None,
    poll: Callable[[], None] = lambda: None,
    progress: Callable[[str, int, int], None] = lambda split, done, total: None,
) -> Path:
    """Add array_record files to a prepared data set, and return its folder.

    The TFRecord files stay, and so does what reads them: dataset_info.json names the new files as another format of the
    data set, once all of them are there. (TFDS itself finds them by `tfds.builder_from_directory`; by name it looks for
    the first format only.)

    Args:
        name: of the TFDS data set, such as imagenet2012.
        data_dir: TFDS's data folder; TFDS's own by default.
        poll: called for each record; what it raises ends the work, and nothing is left behind.
        progress: called for each record, with the split, the number done and the number in all.

    Raises:
        UsageError: the data set is not there or not in TFRecord files, or one of them is damaged.
    """
    builder = tfds_builder.find_builder(name, data_dir)
    if not tfds_builder.is_prepared(builder):
        raise UsageError(
            f"TFDS data set {name!r} is not prepared in {builder.data_dir_root}: there is nothing to convert"
        )
    with tfds_builder.readable(name):
        formats = {found.value for found in builder.info.available_file_formats()}
    if "array_record" in formats:
        raise UsageError(f"{builder.data_path} holds array_record files already")
    if "tfrecord" not in formats:
        raise UsageError(f"{builder.data_path} holds {', '.join(sorted(formats))} files, expected tfrecord")
    folder = Path(builder.data_path)
    partial = folder / f".array_record.{os.getpid()}.partial"
    partial.mkdir()
    try:
        with tfds_builder.readable(name):
            splits = [(split, *_files(split, partial)) for split in builder.info.splits.values()]
        for split, sources, targets in splits:
            _convert_split(split, sources, targets, poll, progress)
        for file in partial.iterdir():
            fsync(file)
            file.rename(folder / file.name)
        fsync(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    info = json.loads((folder / "dataset_info.json").read_bytes())
    info["alternativeFileFormats"] = [*info.get("alternativeFileFormats", []), "array_record"]
    write_atomically(folder / "dataset_info.json", json.dumps(info, indent=2).encode())
    return folder


def _files(split: Any, out: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of a split, and those to write; dataset_info.json names both."""
    template = split.filename_template.replace(data_dir=out, filetype_suffix="array_record")
    targets = [Path(file) for file in template.sharded_filepaths(len(split.shard_lengths))]
    for target in targets:
        if target.parent != out:
            raise UsageError(f"{target} would be written, expected a name without folders: dataset_info.json is wrong")
    return [Path(file) for file in split.filepaths], targets


def _convert_split(
    split: Any,
    sources: Sequence[Path],
    targets: Sequence[Path],
    poll: Callable[[], None],
    progress: Callable[[str, int, int], None],
) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    done = 0
    for source, target, expected in zip(sources, targets, split.shard_lengths, strict=True):
        if not source.is_file():
            raise UsageError(f"{source} is missing")
        writer = ArrayRecordWriter(str(target), "group_size:1")
        before = done
        for record in tfrecord.records(source):
            poll()
            writer.write(record)
            done += 1
            progress(split.name, done, split.num_examples)
        writer.close()
        if done - before != expected:
            raise UsageError(f"{source} holds {done - before} records, expected {expected} as dataset_info.json says")
