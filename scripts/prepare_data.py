"""Turn plain data files into TFDS-format data sets, without a download and without TensorFlow.

    python scripts/prepare_data.py mnist cifar10 --source FILES --data-dir ~/tensorflow_datasets

The names, versions, features, labels, splits and record order are those of TFDS's own builders, so that
`tfds.data_source("mnist", data_dir=...)` and jaxcnn's `--data.source tfds` read the result like a downloaded
data set (in array_record files, which can be read in any order). Where FILES hold only a part of a split, the
description and `info.metadata["note"]` of the data set say so. Every source file is checked against its checksum.

What FILES holds is in plain_files.py: mnist/, cifar10/, imagenette/, imagenet_samples/ (imagenet2012), bccd/ and
fsdd/ (spoken_digit, which TFDS reads only where TensorFlow is installed).
"""

import contextlib
import hashlib
import importlib.util
import io
import logging
import os
import sys
import tarfile
import types
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from plain_files import RECIPES, Example, Recipe
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxcnn.arguments import parse
from jaxcnn.errors import UsageError, unknown
from jaxcnn.stop import StopFlag, Stopped, exit_on_second_interrupt

Check = Callable[[], None]  # called often; raises Stopped once a signal has come

# Folders of plain files that go by another name in TFDS, or by none.
OTHER_NAMES = {"fsdd": "spoken_digit", "imagenet_samples": "imagenet2012"}
WITHOUT_BUILDER = ("camvid", "style")


def check_names(names: Sequence[str]) -> None:
    """Raise UsageError for a data set that cannot be prepared."""
    if not names:
        raise UsageError(f"name at least one data set of {', '.join(RECIPES)}")
    for name in names:
        if name in OTHER_NAMES:
            raise UsageError(f"{name} is called {OTHER_NAMES[name]} in TFDS: write that")
        if name in WITHOUT_BUILDER:
            raise UsageError(
                f"TFDS has no builder for {name}, so there is no format to write: its files are read plain"
            )
        if name not in RECIPES:
            raise unknown("data set", name, RECIPES)


def verify(name: str, source: Path, check: Check) -> None:
    """Raise UsageError for a source file that is missing or not the one whose checksum is known."""
    files = RECIPES[name].files
    if missing := [file for file in files if not (source / file).is_file()]:
        raise UsageError(f"{name}: {len(missing)} files are missing in {source}: {', '.join(missing)}")
    for file, expected in files.items():
        digest = hashlib.sha256()
        with (source / file).open("rb") as opened:
            while block := opened.read(1 << 20):
                check()
                digest.update(block)
        if (found := digest.hexdigest()) != expected:
            raise UsageError(
                f"{name}: {source / file} is damaged or another version: its sha256 is {found[:16]}..., "
                f"expected {expected[:16]}..."
            )


@contextlib.contextmanager
def audio_features() -> Iterator[None]:
    """Let TFDS's audio feature do without TensorFlow, of which it needs the names of types only."""
    from tensorflow_datasets.core.features import audio_feature, feature

    modules = [] if importlib.util.find_spec("tensorflow") else [audio_feature, feature]
    real = [module.tf for module in modules]
    for module in modules:
        module.tf = types.SimpleNamespace(dtypes=types.SimpleNamespace(as_dtype=np.dtype))
    logging.getLogger("absl").setLevel("ERROR")  # TFDS warns of what it calls itself
    try:
        yield
    finally:
        for module, tensorflow in zip(modules, real, strict=True):
            module.tf = tensorflow


def make_builder(name: str, recipe: Recipe, source: Path, data_dir: Path, check: Check) -> Any:
    """Return TFDS's own builder of `name`, its examples taken from `source` instead of a download."""
    import tensorflow_datasets as tfds

    official = tfds.builder_cls(name)

    def examples(split: str) -> Iterator[Example]:
        count = 0
        try:
            for example in recipe.examples(source, split):
                check()
                yield example
                count += 1
        except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{name} {split}: a source file cannot be read: {error}") from error
        if count != recipe.sizes[split]:  # raised before the folder gets its name
            raise UsageError(f"{name} {split}: {count} examples, expected {recipe.sizes[split]}")

    class Builder(official, skip_registration=True):  # type: ignore[misc, valid-type, call-arg]
        __module__ = official.__module__  # recorded in the data set's info
        name = official.name

        def _info(self) -> Any:
            info = super()._info()
            if not recipe.note:
                return info
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{info.description}\n\n{recipe.note}",
                features=info.features,
                supervised_keys=info.supervised_keys,
                homepage=info.homepage,
                citation=info.citation,
                metadata=tfds.core.MetadataDict(note=recipe.note),
            )

        def _make_download_manager(self, **_: Any) -> Any:
            return types.SimpleNamespace(downloaded_size=0)

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Example]]:
            if recipe.labels:
                self.info.features["label"].names = recipe.labels
            return {split: examples(split) for split in recipe.sizes}

    kwargs = {"config": recipe.config} if recipe.config else {}
    return Builder(data_dir=os.fspath(data_dir), file_format="array_record", **kwargs)


def prepare(name: str, source: Path, data_dir: Path, console: Console, check: Check) -> None:
    """Write one data set; a folder appears under `data_dir` only once it is complete."""
    import tensorflow_datasets as tfds

    recipe = RECIPES[name]
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    task = progress.add_task(name, total=sum(recipe.sizes.values()))

    def step() -> None:
        check()
        progress.advance(task)

    with audio_features():
        builder = make_builder(name, recipe, source, data_dir, step)
        folder = Path(builder.data_path)
        if (folder / "dataset_info.json").is_file():
            console.print(f"{name}: already prepared in {folder}", soft_wrap=True)
            return
        if folder.exists():
            raise UsageError(f"{name}: {folder} exists and is not a prepared data set: remove it first")
        verify(name, source, check)
        tfds.disable_progress_bar()
        with progress, contextlib.redirect_stdout(io.StringIO()):  # TFDS prints lines of its own
            builder.download_and_prepare()
    console.print(f"{name}: prepared in {folder}", soft_wrap=True)
    if recipe.note:
        console.print(f"  {recipe.note}")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to prepare."""

    names: tuple[str, ...] = ()
    """Data sets to prepare: mnist, cifar10, imagenette, imagenet2012, bccd, spoken_digit."""
    source: Path
    """Folder that holds the plain files, one folder a data set."""
    data_dir: Path = Path("~/tensorflow_datasets")
    """TFDS's data folder to write to."""


def main(names: Sequence[str], *, source: Path, data_dir: Path) -> int:
    """Prepare data sets from plain files, in TFDS's format; the arguments are those of `Arguments`."""
    console = Console(stderr=True)
    try:
        check_names(names)
        if not source.is_dir():
            raise UsageError(f"--source {source}: no such folder")
        with StopFlag() as stop:
            for name in names:
                prepare(name, source, data_dir.expanduser(), console, stop.check)
    except UsageError as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except OSError as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except Stopped as stopped:
        console.print(f"{stopped}: nothing half-written is left; the same command starts over", soft_wrap=True)
        return stopped.exit_code
    return 0


if __name__ == "__main__":
    exit_on_second_interrupt("interrupted: nothing that is there counts; the same command starts over")
    try:
        (found,) = parse((Arguments,), "python scripts/prepare_data.py", __doc__ or "", sys.argv[1:], "names")
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(**vars(found)))
