"""The command line's `jaxcnn data COMMAND`: parse, call, print; nothing else."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxcnn.arguments import parse
from jaxcnn.commands import Commands, parse_experiment
from jaxcnn.errors import UsageError
from jaxcnn.process import prepare_process
from jaxcnn.stop import StopFlag
from jaxcnn.typed import Count, Interval, Probability

if TYPE_CHECKING:
    from jaxcnn.data.stores.records import Store
    from jaxcnn.data.survey import Survey

_NAME_HELP = """NAME is a TFDS data set such as cifar10, or digits, or a path: a folder of images, a .npz file, a tar
file or a folder of them, or a cache that `jaxcnn data prepare` wrote."""


@dataclass(frozen=True, kw_only=True)
class _ShowOptions:
    output: Path | None = None
    """The PNG file to write; None: NAME_samples.png here, by the experiment's name."""
    count: Annotated[int, Interval(least=1, most=400)] = 32
    """How many examples of the batch."""
    step: Annotated[int, Interval(least=0, most=2**31 - 1)] = 0
    """The training step whose batch it is."""


def _show(arguments: list[str]) -> None:
    """Draw training examples as the network sees them, beside what they are without augmentation."""
    options, experiment = parse_experiment(_ShowOptions(), "jaxcnn data show", _show.__doc__, arguments)
    output = options.output or Path(f"{experiment.name}_samples.png")
    _check_picture(output)
    from jaxcnn.report.canvas import house_style, png

    house_style()  # matplotlib may be missing: better said now
    prepare_process(distributed=False)
    import jax

    from jaxcnn.data.samples import training_samples
    from jaxcnn.files import write_atomically
    from jaxcnn.progress import WorkProgress
    from jaxcnn.report.sheet import sample_sheet

    key, finder = jax.random.key(experiment.seed), experiment.finder
    with StopFlag() as stop, WorkProgress() as progress:
        batch = (experiment.data, key, experiment.train.batch_size, options.step, options.count)
        found = training_samples(*batch, finder=finder, poll=stop.check, progress=progress)
        shown, size = len(found.images), experiment.train.batch_size
        title = f"{experiment.name}, step {options.step:,}: {shown} of {size} examples, seed {experiment.seed}"
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
    _check_writable(path)


def _check_writable(path: Path) -> None:
    """Raise where no file can be written beside `path`, whose folder is made if need be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _inspect(arguments: list[str]) -> None:
    """Read all of a data set: sizes, classes, shapes, kinds of files, mean and deviation, bad examples."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        name: str
        """The data set."""
        path: Path | None = None
        """TFDS's data folder, where NAME is a TFDS data set; None: TFDS's own."""
        split: str | None = None
        """One split only; None: all."""
        image_size: Count | None = None
        """Take mean and deviation over images brought to this side, as in training; None: over images as stored."""
        json: bool = False
        """Print a JSON document in place of tables, and leave nothing out."""

    (parsed,) = parse((Arguments,), "jaxcnn data inspect", f"{_inspect.__doc__}\n\n{_NAME_HELP}", arguments, "name")
    from dataclasses import replace

    from jaxcnn.data.stores.cache import verify
    from jaxcnn.data.survey import named, opened, survey
    from jaxcnn.errors import unknown
    from jaxcnn.progress import WorkProgress

    config = replace(named(parsed.name, parsed.path), image_size=parsed.image_size)
    with StopFlag() as stop, WorkProgress() as progress:
        store = opened(config, stop.check)
        if parsed.split is not None and parsed.split not in store.sizes:
            raise unknown("split", parsed.split, store.sizes)
        if config.source == "cache" and config.path is not None:
            verify(config.path, stop.check)
        splits = [parsed.split] if parsed.split else list(store.sizes)
        found = {split: survey(store, split, config, stop.check, progress) for split in splits}
    if parsed.json:
        print(json.dumps(_document(parsed.name, config, store, found), indent=1))
    else:
        from jaxcnn.report.terminal import survey_text

        print(survey_text(parsed.name, config, store, found))


def _document(name: str, config: Any, store: "Store", found: "Mapping[str, Survey]") -> dict[str, Any]:
    """Return all that is known as plain JSON values."""
    splits = {split: asdict(part) | {"bad": [bad._asdict() for bad in part.bad]} for split, part in found.items()}
    return {
        "name": name,
        "source": config.source,
        "image_size": config.image_size,
        "note": store.note,
        "class_names": list(store.class_names),
        "splits": splits,
        "ignored": list(store.ignored),
        "cache": {"sha256_verified": True, **store.provenance} if store.provenance else None,
    }


def _prepare(arguments: list[str]) -> None:
    """Write a copy of a data set whose images are scaled once, in a few files that are read fast: a cache."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        name: str
        """The data set."""
        path: Path | None = None
        """TFDS's data folder, where NAME is a TFDS data set; None: TFDS's own."""
        resize: Count = 256
        """Pixels that the short side of larger images is brought to."""
        format: Literal["jpeg", "raw"] = "jpeg"
        """jpeg, or raw: plain pixels, which are larger and need no decoding."""
        quality: Annotated[int, Interval(least=1, most=100)] = 95
        """Of JPEG."""
        output: Path | None = None
        """Folder to write; None: here, named after the data set, --resize and --format."""
        bad_limit: Probability = 0.001
        """Fraction of a split that may be unusable: such examples are left out and named; beyond it nothing is
        written."""

    (parsed,) = parse((Arguments,), "jaxcnn data prepare", f"{_prepare.__doc__}\n\n{_NAME_HELP}", arguments, "name")
    from jaxcnn.data.stores.cache import prepare
    from jaxcnn.data.survey import named, opened, weighed
    from jaxcnn.progress import WorkProgress
    from jaxcnn.report.terminal import cache_table

    config = named(parsed.name, parsed.path)
    what = config.name.replace("/", "-") or (config.path.resolve().stem if config.path else str(config.source))
    output = parsed.output or Path(f"{what}_{parsed.resize}_{parsed.format}")
    _check_writable(output)
    origin = {"source": str(config.source), "name": config.name or str((config.path or Path(what)).resolve())}
    with StopFlag() as stop, WorkProgress() as progress:
        store, read = weighed(opened(config, stop.check))
        cache = prepare(
            store,
            output,
            origin,
            short_side=parsed.resize,
            format=parsed.format,
            quality=parsed.quality,
            bad_limit=parsed.bad_limit,
            poll=stop.check,
            progress=progress,
        )
    print(cache_table(store, {split: records.bytes for split, records in read.items()}, cache))
    print(f"\n{output}, in an experiment:\n    {_experiment_line(output, parsed.resize, cache.sizes)}")


def _experiment_line(path: Path, short_side: int, sizes: Mapping[str, int]) -> str:
    """Return the line of an experiment that reads a cache with these splits."""
    splits = ""
    if "test" not in sizes:
        other = next((name for name in ("validation", "val") if name in sizes), None)
        splits = ', train_split="train[:90%]", test_split="train[90%:]"' if other is None else f', test_split="{other}"'
    return f'data=DataConfig(source="cache", path=Path("{path}"), image_size={min(short_side, 224)}{splits})'


def _convert(arguments: list[str]) -> None:
    """Give a TFDS data set in TFRecord files, which have no random access, array_record files beside them."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        name: str
        """The TFDS data set, prepared already, such as imagenet2012."""
        data_dir: Path | None = None
        """TFDS's data folder; None: TFDS's own."""

    (parsed,) = parse((Arguments,), "jaxcnn data convert", _convert.__doc__ or "", arguments, "name")
    from jaxcnn.data.stores.convert import convert
    from jaxcnn.progress import WorkProgress

    with StopFlag() as stop, WorkProgress() as progress:
        folder = convert(parsed.name, parsed.data_dir, stop.check, progress)
    path = "" if parsed.data_dir is None else f', path=Path("{parsed.data_dir}")'
    print(f'{folder}, in an experiment:\n    data=DataConfig(source="tfds", name="{parsed.name}"{path})')


COMMANDS: Commands = {
    "show": _show,
    "inspect": _inspect,
    "prepare": _prepare,
    "convert": _convert,
}
