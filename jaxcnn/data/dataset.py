"""From a configuration, or an object, to splits that are ready to train on: `load`."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxcnn.data.bad import Bad, BadExamples
from jaxcnn.data.config import DataConfig
from jaxcnn.data.crops import AnyCrop
from jaxcnn.data.description import Description
from jaxcnn.data.examples import Examples, Split, concatenate
from jaxcnn.data.fields import ClassMap, Fields, Image, class_names_of, frame_of
from jaxcnn.data.framing import preprocessing
from jaxcnn.data.memory import free_memory, read_whole
from jaxcnn.data.norms import Norms, given_norms, normalisation
from jaxcnn.data.order import LastBatch
from jaxcnn.data.prepared import has_norms
from jaxcnn.data.slicing import Slice, parse
from jaxcnn.data.sources import Like, Poll, open_store
from jaxcnn.data.stores.records import Store, Subset
from jaxcnn.data.streaming import Reader
from jaxcnn.errors import UsageError, unknown
from jaxcnn.parts import Finder, check_call, made
from jaxcnn.preprocessing import Preprocessing

# Bad examples of a split that are named where all are counted.
_BAD_NAMED = 100


@dataclass(frozen=True)
class Dataset:
    """The splits of one data set, and all that it takes to train on them."""

    train: Examples
    val: Examples | None
    test: Examples
    fields: Fields
    """What examples hold."""
    note: str = ""
    """What a reader of its scores must know, such as that a split is only a part."""
    ignored: tuple[str, ...] = ()
    """Files that are not examples, by name."""
    streamed: bool = False
    """Whether examples are read while the network trains; if not, they are in memory."""
    last_batch: LastBatch = "continue"
    """What becomes of training examples that do not fill their last batch."""
    augment: tuple[Any, ...] = ()
    """While training: changes of each batch on the device, `transform(key, batch, fields)`, in this order."""
    norms: Norms | None = None
    """What the field `image` is normalised by; None: there is none."""
    preprocessing: Preprocessing | None = None
    """How any image file becomes what the field `image` is when it is scored; None: there is none, or it is no file."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the first field that has some."""
        return class_names_of(self.fields)

    @property
    def shapes(self) -> Mapping[str, Any]:
        """Shape and type of each field of one example in a batch."""
        return self.train.shapes

    @property
    def sizes(self) -> dict[str, int]:
        """Examples of each split, bad ones among them."""
        return {name: len(split) for name, split in self.splits().items()}

    def splits(self) -> dict[str, Examples]:
        """Return the splits there are, by their purpose."""
        found = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}

    def split(self, name: str) -> Examples:
        """Return the split "train", "val" or "test".

        Raises:
            UsageError: there is none of this name.
        """
        splits = self.splits()
        if name not in splits:
            raise unknown("split", name, splits)
        return splits[name]

    def checksums(self) -> dict[str, str]:
        """Return what tells the examples of each split from others, see `Examples.fingerprint`."""
        return {name: split.fingerprint() for name, split in self.splits().items()}

    def found_bad(self) -> dict[str, list[tuple[int, str, str]]]:
        """Return index, name and reason of the examples of each split that reading found to be of no use."""
        return {
            name: [(index, *bad) for index, bad in sorted(split.unusable.items())]
            for name, split in self.splits().items()
            if isinstance(split, Reader) and split.unusable
        }

    def restore_bad(self, found: Mapping[str, Sequence[tuple[int, str, str]]]) -> None:
        """Take up what `found_bad` gave, so that these examples are not tried again."""
        for name, bad in found.items():
            split = self.splits()[name]
            assert isinstance(split, Reader)
            split.restore_unusable({index: Bad(*rest) for index, *rest in bad})

    def describe_bad(self) -> dict[str, Any]:
        """Return how many examples of each split are of no use, and the first of them, as JSON values."""
        found = {name: split.bad for name, split in self.splits().items() if split.bad}
        return {
            name: {"count": len(bad), "examples": [one._asdict() for one in bad[:_BAD_NAMED]]}
            for name, bad in found.items()
        }

    def describe(self) -> Description:
        """Return all but the examples."""
        given = (self.fields, self.shapes, self.sizes, self.norms, self.streamed, self.augment, self.last_batch)
        return Description(*given)


def load(
    config: DataConfig,
    *,
    source: Any = None,
    finder: Finder = Finder(),  # noqa: B008
    like: Like | None = None,
    streamed: bool | None = None,
    norms: Norms | Callable[[Mapping[str, Any], Fields], tuple[Any, Any] | None] | None = None,
    poll: Poll = lambda: None,
) -> Dataset:
    """Return the data set that `config` describes: in memory, or streamed where it is too large for that.

        load(DataConfig(source="digits", train_split="train[:80%]", val_split="train[80%:]"))
        load(DataConfig(), source={"train": {"image": images, "label": labels}, "test": [(image, label), ...]})

    Args:
        config: what to load, which part of it, and what is done to it.
        source: an object that takes the place of `config.source`: arrays, lists, a Grain data source, a Hugging Face
            data set, ...; see `stores.objects`, and `stores.kinds` for how fields are told.
        finder: of what `config` names of a user's own.
        like: the fields that are needed and their kinds, such as {"image": Image, "angle": Value}.
        streamed: whether examples are read while the network trains; None: as `config` and the free memory have it.
        norms: mean and standard deviation to normalise by, or what returns them for an example's shapes and fields;
            None: as `config` says, else measured.
        poll: called for each image that is decoded; what it raises ends the loading.

    Raises:
        UsageError: where the source lacks what was asked for, naming it.
        RunError: more examples are bad than `bad_limit` allows.
    """
    store = open_store(config, source=source, finder=finder, like=like, poll=poll)
    _check_overlap(config, store.sizes)
    streamed = streams(config, store) if streamed is None else streamed
    crop: AnyCrop | None = made(config.train_crop, finder)
    if crop is not None and not streamed:
        raise UsageError("data.train_crop cuts from whole images, which are not kept in memory: stream them")
    splits = take(config, store, crop, streamed, poll)
    train, fields = splits["train"], store.fields
    measured = _norms(config, train, fields, norms, poll)
    return Dataset(
        train,
        splits.get("val"),
        splits["test"],
        fields,
        note=store.note,
        ignored=store.ignored,
        streamed=streamed,
        last_batch=config.last_batch,
        augment=tuple(made(transform, finder) for transform in config.augment),
        norms=measured,
        preprocessing=None if measured is None else preprocessing(train.shapes["image"], config, *measured),
    )


def streams(config: DataConfig, store: Store) -> bool:
    """Return whether examples are read while the network trains; if not, they are decoded once, into memory.

    No result depends on it: where nothing is random on the host, both give the same batches.
    """
    if config.pipeline != "auto" or config.train_crop is not None:
        return config.pipeline == "streaming" or config.train_crop is not None
    if config.image_size is None or store.in_memory:
        return False
    splits = {part.split for spec in _specs(config).values() for part in parse(spec, store.sizes)}
    pixel = sum(_bytes_of_pixel(field) for field in store.fields.values())
    train = sum(part.stop - part.start for part in parse(config.train_split, store.sizes))
    image, (host, device) = config.image_size**2 * pixel, free_memory()
    return sum(store.sizes[split] for split in splits) * image > host // 2 or train * image > device // 2


def _bytes_of_pixel(field: Any) -> int:
    match field:
        case Image(channels, dtype):
            return channels * np.dtype(dtype).itemsize
        case ClassMap():
            return 1
    return 0


def _specs(config: DataConfig) -> dict[str, str]:
    specs = {"train": config.train_split, "val": config.val_split, "test": config.test_split}
    return {name: spec for name, spec in specs.items() if spec is not None}


def take(config: DataConfig, store: Store, crop: AnyCrop | None, streamed: bool, poll: Poll) -> dict[str, Examples]:
    """Return the splits that `config` names."""
    if crop is not None:
        check_call("data.train_crop.box", getattr(crop, "box", None), "generator", "height", "width", "size")
    if frame_of(store.fields) is None and (config.image_size or crop):
        raise UsageError(f"data.image_size and data.train_crop are of images: there are {', '.join(store.fields)}")
    if streamed:
        found: dict[str, Examples] = {name: _reader(config, store, crop, spec) for name, spec in _specs(config).items()}
    else:
        whole: dict[str, Split] = {}
        found = {name: _in_memory(config, store, spec, whole, poll) for name, spec in _specs(config).items()}
    train = found["train"].shapes
    for name, split in found.items():
        for field, shape in split.shapes.items():
            if shape != train[field]:
                here, there = jax.tree.leaves(shape)[0].shape, jax.tree.leaves(train[field])[0].shape
                raise UsageError(
                    f"{field} of split {_specs(config)[name]!r} is {here}, of {config.train_split!r} {there}: "
                    "set data.image_size"
                )
    return found


def _reader(config: DataConfig, store: Store, crop: AnyCrop | None, spec: str) -> Reader:
    records = Subset([(store.records(name), start, stop) for name, start, stop in parse(spec, store.sizes)])
    frame = frame_of(store.fields)
    if config.image_size is None and frame is not None and not store.in_memory:
        raise UsageError("images that are streamed need data.image_size, the side in pixels that all are brought to")
    bad = BadExamples(spec, len(records), config.bad_limit)
    reader = Reader(records, store.fields, config, bad, crop)
    if crop is not None and frame is not None:
        height, width, *_ = reader.shapes[frame].shape
        if height != width:
            raise UsageError(f"data.train_crop makes squares, the images are {height}x{width}: set data.image_size")
    return reader


def _in_memory(config: DataConfig, store: Store, spec: str, whole: dict[str, Split], poll: Poll) -> Split:
    """Return a part of a data set in memory; `whole` has the splits that were read before."""
    parts: list[Split] = []
    for name, start, stop in parse(spec, store.sizes):
        if name not in whole:
            read = partial(read_whole, store.records(name), store.fields, name, config, poll)
            whole[name] = read() if store.decoded is None else store.decoded(name, read)
        parts.append(whole[name][start:stop])
    if any(part.shapes != parts[0].shapes for part in parts):
        raise UsageError(f"split {spec!r}: images differ in size, set data.image_size")
    found = concatenate(parts)
    bad = BadExamples(spec, len(found), config.bad_limit)
    for index, (name, reason) in found.unusable.items():
        bad.add(index, name, reason)
    return found


def _norms(config: DataConfig, train: Examples, fields: Fields, given: Any, poll: Poll) -> Norms | None:
    if has_norms(fields):
        given = given(train.shapes, fields) if callable(given) else given
        shape = train.shapes["image"].shape
        return normalisation(config, train, poll) if given is None else given_norms(given[0], given[1], shape)
    for name in ("mean", "std", "per_pixel_mean"):
        if getattr(config, name):
            raise UsageError(f"data.{name} is of a field 'image': the data set has {', '.join(fields)}")
    return None


def _check_overlap(config: DataConfig, sizes: Mapping[str, int]) -> None:
    """Raise where an example would be scored that was trained on, or counted twice."""

    def shared(ours: Slice, theirs: Slice) -> int:
        return min(ours.stop, theirs.stop) - max(ours.start, theirs.start) if ours.split == theirs.split else 0

    train = parse(config.train_split, sizes)
    for name, spec in (("train", config.train_split), ("val", config.val_split), ("test", config.test_split)):
        slices = [] if spec is None else parse(spec, sizes)
        if any(shared(*pair) > 0 for pair in itertools.combinations(slices, 2)):
            raise UsageError(f"data.{name}_split {spec!r} names examples twice")
        common = sum(max(0, shared(*pair)) for pair in itertools.product(train, slices))
        if common and name != "train":
            raise UsageError(
                f"data.{name}_split {spec!r} shares {common} examples with data.train_split {config.train_split!r}: "
                "expected others (`jaxcnn evaluate RUN --split train` scores those trained on)"
            )
