"""The command line's `jaxcnn data COMMAND`: parse, call, print; nothing else."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxcnn import cli
from jaxcnn.arguments import parse, take_file
from jaxcnn.errors import UsageError
from jaxcnn.stop import StopFlag
from jaxcnn.typed import Count, Interval, Probability

if TYPE_CHECKING:
    from jaxcnn.data.stores.records import Store
    from jaxcnn.data.survey import Survey

# Rows of a table beyond which --json is for.
_CLASSES_SHOWN = 20
_BAD_SHOWN = 10
_MOST_SAMPLES = 400

_NAME_HELP = """NAME is a TFDS data set such as cifar10, or digits, or a path: a folder of images, a .npz file, a tar
file or a folder of them, or a cache that `jaxcnn data prepare` wrote."""


@dataclass(frozen=True, kw_only=True)
class _ShowOptions:
    output: Path | None = None
    """The PNG file to write; None: NAME_samples.png here, by the experiment's name."""
    count: Annotated[int, Interval(least=1, most=_MOST_SAMPLES)] = 32
    """How many examples of the batch."""
    step: Annotated[int, Interval(least=0, most=2**31 - 1)] = 0
    """The training step whose batch it is."""


def _show(arguments: list[str]) -> None:
    """Draw training examples as the network sees them, beside what they are without augmentation."""
    from jaxcnn.experiment import load_experiment

    file, arguments = take_file(arguments)
    if file:
        default = load_experiment(file)
    elif {"-h", "--help"} & set(arguments):
        default = cli.example()
    else:
        raise UsageError("which experiment? expected jaxcnn data show experiments/NAME.py")
    description = f"{_show.__doc__}\n\n{cli.EXPERIMENT_HELP}"
    options, experiment = cli.parse_experiment(_ShowOptions(), default, "jaxcnn data show", description, arguments)
    output = options.output or Path(f"{experiment.name}_samples.png")
    _check_picture(output)
    from jaxcnn.report.canvas import house_style, png

    house_style()  # matplotlib may be missing: better said now
    cli._prepare_process(distributed=False)
    from jaxcnn.files import write_atomically
    from jaxcnn.report.samples import sample_sheet
    from jaxcnn.runs.samples import training_samples
    from jaxcnn.train.progress import WorkProgress

    with StopFlag() as stop, WorkProgress() as progress:
        found = training_samples(experiment, options.step, options.count, stop.check, progress)
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
    from jaxcnn.train.progress import WorkProgress

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
        _print_survey(parsed.name, config, store, found)


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


def _print_survey(name: str, config: Any, store: "Store", found: "Mapping[str, Survey]") -> None:
    print(f"{name} ({config.source}), {len(store.class_names):,} classes")
    for key, value in _origin(store.provenance):
        print(f"{key}: {value}")
    if store.note:
        print(f"note: {store.note}")
    print()
    size = "as stored" if config.image_size is None else f"at {config.image_size}x{config.image_size}"
    rows = {
        "examples": lambda part: f"{part.examples:,}",
        "bad": lambda part: f"{len(part.bad):,}",
        "examples of a class": lambda part: _range(part.class_counts),
        "height, min median max": lambda part: _spread(part.height),
        "width, min median max": lambda part: _spread(part.width),
        "files": lambda part: _shares(part.formats),
        "modes": lambda part: _shares(part.modes),
        f"mean, {size}": lambda part: " ".join(f"{value:.4f}" for value in part.mean),
        f"deviation, {size}": lambda part: " ".join(f"{value:.4f}" for value in part.std),
    }
    table = [(label, *(show(part) for part in found.values())) for label, show in rows.items()]
    cli.print_table(["split", *found], table)
    print()
    classes = [
        (class_name, *(f"{part.class_counts[label]:,}" if part.class_counts else "0" for part in found.values()))
        for label, class_name in enumerate(store.class_names)
    ]
    cli.print_table(["class", *found], classes[:_CLASSES_SHOWN], right=range(1, len(found) + 1))
    _print_more(len(classes), _CLASSES_SHOWN, "classes")
    bad = [(split, bad.name, bad.reason) for split, part in found.items() for bad in part.bad]
    _print_list(["split", "cannot be used", "why"], bad, "examples that cannot be used")
    _print_list(["no image, passed over"], [(file,) for file in store.ignored], "files")


def _print_list(header: Sequence[str], rows: Sequence[Sequence[str]], what: str) -> None:
    if rows:
        print()
        cli.print_table(header, rows[:_BAD_SHOWN])
        _print_more(len(rows), _BAD_SHOWN, what)


def _print_more(count: int, shown: int, what: str) -> None:
    if count > shown:
        print(f"... {count - shown:,} more of {count:,} {what}: --json has all")


def _origin(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a cache says of itself, [] for what is none."""
    if not provenance:
        return []
    made, origin = provenance["made"], provenance["origin"]
    quality = "" if made["quality"] is None else f" of quality {made['quality']}"
    left_out = sum(len(split["left_out"]) for split in provenance["splits"].values())
    return [
        ("made from", f"{origin['name']} ({origin['source']}), by jaxcnn {provenance['jaxcnn']}"),
        ("made to", f"a short side of at most {made['resize']} pixels, {made['format']}{quality}"),
        ("left out", f"{left_out:,} examples that could not be used"),
        ("SHA-256", "of every file is what was written"),
    ]


def _range(counts: Sequence[int]) -> str:
    return f"{min(counts):,} to {max(counts):,}" if counts else "-"


def _spread(lengths: Any) -> str:
    return "-" if lengths is None else f"{lengths.min} {lengths.median:g} {lengths.max}"


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {100 * count / total:.4g} %" for name, count in counts.items()) or "-"


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
    from jaxcnn.train.progress import WorkProgress

    config = named(parsed.name, parsed.path)
    what = config.name.replace("/", "-") or (config.path.resolve().stem if config.path else config.source)
    output = parsed.output or Path(f"{what}_{parsed.resize}_{parsed.format}")
    _check_writable(output)
    origin = {"source": config.source, "name": config.name or str((config.path or Path(what)).resolve())}
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
    before = {split: records.bytes for split, records in read.items()}
    after = {
        split: sum(file["bytes"] for file in entry["files"].values())
        for split, entry in cache.provenance["splits"].items()
    }
    rows = [
        (split, f"{size:,}", str(store.sizes[split] - size), *_sizes(before[split], after[split]))
        for split, size in cache.sizes.items()
    ]
    left_out = sum(store.sizes.values()) - sum(cache.sizes.values())
    sums = _sizes(sum(before.values()), sum(after.values()))
    rows.append(("total", f"{sum(cache.sizes.values()):,}", str(left_out), *sums))
    cli.print_table(["split", "images", "left out", "MiB before", "MiB", "size"], rows, right=range(1, 6))
    print(f"\n{output}, in an experiment:\n    {_experiment_line(output, parsed.resize, cache.sizes)}")


def _sizes(before: int, after: int) -> tuple[str, str, str]:
    """Return both in MiB, and how they compare."""
    smaller = before >= after
    ratio = before / after if smaller else after / max(before, 1)
    return f"{before / 2**20:,.2f}", f"{after / 2**20:,.2f}", f"{ratio:.2f} times {'smaller' if smaller else 'larger'}"


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
    from jaxcnn.train.progress import WorkProgress

    with StopFlag() as stop, WorkProgress() as progress:
        folder = convert(parsed.name, parsed.data_dir, stop.check, progress)
    path = "" if parsed.data_dir is None else f', path=Path("{parsed.data_dir}")'
    print(f'{folder}, in an experiment:\n    data=DataConfig(source="tfds", name="{parsed.name}"{path})')


COMMANDS: cli.Commands = {
    "show": _show,
    "inspect": _inspect,
    "prepare": _prepare,
    "convert": _convert,
}
