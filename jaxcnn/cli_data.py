"""The command line's `jaxcnn data COMMAND`: parse, call, print; nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxcnn.commands import Command, OfExperiment, call
from jaxcnn.errors import UsageError, unknown
from jaxcnn.files import check_writable, write_atomically
from jaxcnn.process import prepare_process
from jaxcnn.stop import StopFlag
from jaxcnn.typed import Count, Interval, Probability

if TYPE_CHECKING:
    from jaxcnn.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class Show(OfExperiment):
    """Draw training examples as the network sees them, beside what they are without augmentation."""

    output: Path | None = None
    """The PNG file to write; None: NAME_samples.png here, by the experiment's name."""
    count: Annotated[int, Interval(least=1, most=400)] = 32
    """How many examples of the batch."""
    step: Annotated[int, Interval(least=0, most=2**31 - 1)] = 0
    """The training step whose batch it is."""

    def __call__(self, experiment: "Experiment", command: Sequence[str]) -> None:
        output = self.output or Path(f"{experiment.name}_samples.png")
        _check_picture(output)
        from jaxcnn.report.canvas import house_style, png

        house_style()  # matplotlib may be missing: better said now
        prepare_process(distributed=False)
        import jax

        from jaxcnn.data.samples import training_samples
        from jaxcnn.progress import WorkProgress
        from jaxcnn.report.sheet import sample_sheet

        key, size = jax.random.key(experiment.seed), experiment.train.batch_size
        with StopFlag() as stop, WorkProgress() as progress:
            batch = (experiment.data, key, size, self.step, self.count)
            found = training_samples(*batch, finder=experiment.finder, poll=stop.check, progress=progress)
            shown = len(found.images)
            title = f"{experiment.name}, step {self.step:,}: {shown} of {size} examples, seed {experiment.seed}"
            sheet = sample_sheet(title, found.views, found.images, found.captions, found.counts)
            write_atomically(output, png(sheet))
        print(f"{shown} examples: {output}")


def _check_picture(path: Path) -> None:
    """Raise for a file that is not to be written over by a picture."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--output is {str(path)!r}: expected a file that ends in .png")
    if path.is_dir():
        raise UsageError(f"--output is {str(path)!r}: a folder, expected a file")
    if path.exists():
        with path.open("rb") as file:
            if file.read(8) != b"\x89PNG\r\n\x1a\n":
                raise UsageError(f"{path} is there and is no PNG file: remove it, or name another --output")
    check_writable(path)


@dataclass(frozen=True, kw_only=True)
class _OfData(Command):
    positional = "name"
    name: str
    """The data set: one of TFDS such as cifar10, or digits, or a path: a folder of images, a .npz file, a tar file or a
    folder of them, or a cache that `jaxcnn data prepare` wrote."""
    path: Path | None = None
    """TFDS's data folder, where NAME is a TFDS data set; None: TFDS's own."""


@dataclass(frozen=True, kw_only=True)
class Inspect(_OfData):
    """Read all of a data set: sizes, classes, shapes, kinds of files, mean and deviation, bad examples."""

    split: str | None = None
    """One split only; None: all."""
    image_size: Count | None = None
    """Take mean and deviation over images brought to this side, as in training; None: over images as stored."""
    json: bool = False
    """Print a JSON document in place of tables, and leave nothing out."""

    def __call__(self) -> None:
        from jaxcnn.data.stores.cache import verify
        from jaxcnn.data.survey import named, opened, survey
        from jaxcnn.progress import WorkProgress
        from jaxcnn.report.terminal import survey_json, survey_text

        config = replace(named(self.name, self.path), image_size=self.image_size)
        with StopFlag() as stop, WorkProgress() as progress:
            store = opened(config, stop.check)
            if self.split is not None and self.split not in store.sizes:
                raise unknown("split", self.split, store.sizes)
            if config.source == "cache" and config.path is not None:
                verify(config.path, stop.check)
            splits = [self.split] if self.split else list(store.sizes)
            found = {split: survey(store, split, config, stop.check, progress) for split in splits}
        print((survey_json if self.json else survey_text)(self.name, config, store, found))


@dataclass(frozen=True, kw_only=True)
class Prepare(_OfData):
    """Write a copy of a data set whose images are scaled once, in a few files that are read fast: a cache."""

    resize: Count = 256
    """Pixels that the short side of larger images is brought to."""
    format: Literal["jpeg", "raw"] = "jpeg"
    """jpeg, or raw: plain pixels, which are larger and need no decoding."""
    quality: Annotated[int, Interval(least=1, most=100)] = 95
    """Of JPEG."""
    output: Path | None = None
    """Folder to write; None: here, named after the data set, --resize and --format."""
    bad_limit: Probability = 0.001
    """Fraction of a split that may be unusable: such examples are left out and named; beyond it nothing is written."""

    def __call__(self) -> None:
        from jaxcnn.data.stores.cache import prepare
        from jaxcnn.data.survey import named, opened, weighed
        from jaxcnn.progress import WorkProgress
        from jaxcnn.report.terminal import cache_line, cache_table

        config = named(self.name, self.path)
        what = config.name.replace("/", "-") or (config.path.resolve().stem if config.path else str(config.source))
        output = self.output or Path(f"{what}_{self.resize}_{self.format}")
        check_writable(output)
        origin = {"source": str(config.source), "name": config.name or str((config.path or Path(what)).resolve())}
        options: Any = {"format": self.format, "quality": self.quality, "bad_limit": self.bad_limit}
        with StopFlag() as stop, WorkProgress() as progress:
            store, read = weighed(opened(config, stop.check))
            seen: Any = {"poll": stop.check, "progress": progress}
            cache = prepare(store, output, origin, short_side=self.resize, **options, **seen)
        print(cache_table(store, {split: records.bytes for split, records in read.items()}, cache))
        print(f"\n{output}, in an experiment:\n    {cache_line(output, self.resize, cache.sizes)}")


@dataclass(frozen=True, kw_only=True)
class Convert(Command):
    """Give a TFDS data set in TFRecord files, which have no random access, array_record files beside them."""

    positional = "name"
    name: str
    """The TFDS data set, prepared already, such as imagenet2012."""
    data_dir: Path | None = None
    """TFDS's data folder; None: TFDS's own."""

    def __call__(self) -> None:
        from jaxcnn.data.stores.convert import convert
        from jaxcnn.progress import WorkProgress

        with StopFlag() as stop, WorkProgress() as progress:
            folder = convert(self.name, self.data_dir, stop.check, progress)
        path = "" if self.data_dir is None else f', path=Path("{self.data_dir}")'
        print(f'{folder}, in an experiment:\n    data=DataConfig(source="tfds", name="{self.name}"{path})')


COMMANDS = {"show": Show, "inspect": Inspect, "prepare": Prepare, "convert": Convert}


class Data:
    """Look into data sets, see what augmentation does, write copies that are read faster."""

    @classmethod
    def main(cls, called: str, words: Sequence[str]) -> int:
        """Choose one of these commands."""
        return call(called, COMMANDS, words)
