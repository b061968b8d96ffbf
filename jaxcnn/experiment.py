"""An experiment as a value: everything a run is a function of, typed, frozen and comparable."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxcnn.data.config import DataConfig
from jaxcnn.errors import UsageError, unknown
from jaxcnn.train.optim import OptimConfig
from jaxcnn.train.schedules import ScheduleConfig
from jaxcnn.typed import check, hints

OptionValue = bool | int | float | str | tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network."""

    name: str
    """A name that `jaxcnn models` lists."""
    num_classes: int | None = None
    """Logits; None: as many as the data set has classes."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the layers compute in. Parameters, BatchNorm statistics, logits and loss are float32 always."""
    options: dict[str, OptionValue] = field(default_factory=dict)
    """Variant of the architecture, as pairs KEY VALUE, such as shortcut B; an unknown KEY lists those there are."""
    weights: Path | None = None
    """File to start from: ours, as `jaxcnn export` writes it, or one of `peer`; None: initialised. A head for another
    number of classes is initialised. Images are then normalised as the weights expect, where data.mean and data.std
    do not say otherwise."""
    peer: str = "jaxcnn"
    """Whose file `weights` is, such as torchvision/resnet50."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, in what batches, on which devices."""

    batch_size: int
    """Images per optimiser step, over all devices and hosts."""
    steps: int | None = None
    """Optimiser steps. Given, it takes the place of `epochs`."""
    epochs: float | None = None
    """Passes over the training split; the steps are rounded up."""
    label_smoothing: float = 0.0
    """Mass moved from the label to all classes alike, in [0, 1)."""
    accumulation_steps: int = 1
    """Parts that each batch is run in, one after the other, to save memory; BatchNorm sees one part."""
    remat: bool = False
    """Compute the inner activations of blocks once more in the backward pass in place of keeping them: the same up to
    rounding, in less memory and more time."""
    frozen: tuple[str, ...] = ()
    """Parameters that stay as they are, as shell patterns over their paths, such as 'stem/*' 'stage1/*'. BatchNorm
    of a frozen path normalises by its running statistics, which stay, too."""
    ema_decay: float | None = None
    """Decay per step of an average of the parameters, which evaluation then uses; None: none."""
    recompute_batch_stats: bool = False
    """After training, replace BatchNorm's moving averages by exact statistics over the training images."""
    log_every: int = 100
    """Steps between rows of training metrics."""
    parallel: Literal["jit", "pmap"] = "jit"
    """One program over all devices, or one per device."""
    sync_batch_norm: bool = True
    """Under pmap: BatchNorm over the global batch (as jit always does) or over each device's own part."""
    devices: int | None = None
    """Devices to use; None: all."""
    seeds: int = 1
    """How many seeds to train together: `seed`, `seed` + 1, ...; each has a run folder of its own, and is the run of
    that seed alone."""
    seeds_mode: Literal["auto", "sequential", "devices", "vmap"] = "auto"
    """How several seeds are trained. sequential: each step for one seed after the other; each run has the bits of its
    seed alone. devices: each seed on one device; each run is, bit for bit, that of its seed with train.devices 1. vmap:
    as one batch of networks on one device; each run equals its seed alone only up to rounding. auto: devices where
    there are several and parallel is jit, else sequential."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """When and how to evaluate."""

    every: int | None = None
    """Steps between evaluations on the validation split (the test split where there is none); None: an epoch."""
    batch_size: int = 500
    """Images at a time; rounded up to a multiple of the devices. Every image counts once, whatever it is."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept for resuming; no result depends on it."""

    every: int | None = None
    """Steps between checkpoints, beside those at each evaluation; None: none."""
    keep: int = 2
    """Newest checkpoints kept, beside the best by validation accuracy."""
    tensorboard: bool = True
    """Write TensorBoard events, too."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run. The same experiment on the same hardware gives the same bits."""

    name: str
    """Names the run folder, `runs/<name>/<hash>`."""
    model: ModelConfig
    """The network."""
    data: DataConfig
    """The data set and what is done to its images."""
    optim: OptimConfig
    """The optimiser."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate's course."""
    train: TrainConfig
    """Length, batches, devices."""
    eval: EvalConfig = EvalConfig()
    """Evaluation."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints."""
    seed: int = 0
    """The one source of randomness."""
    paper: str = ""
    """What is reproduced: paper and table."""
    published: str = ""
    """The number that the paper reports."""

    def __post_init__(self) -> None:
        """Check all fields, and bring each to the form of its type: 40 epochs are 40.0."""
        for name, hint in hints(Experiment).items():
            object.__setattr__(self, name, check(hint, getattr(self, name), name))
        _check_ranges(self)


def _check_ranges(experiment: Experiment) -> None:
    """Raise for what cannot be, whatever the data, the devices, the optimiser and the model are; those check theirs."""
    train = experiment.train
    positive = {
        "model.num_classes": experiment.model.num_classes,
        "train.batch_size": train.batch_size,
        "train.steps": train.steps,
        "train.epochs": train.epochs,
        "train.log_every": train.log_every,
        "train.accumulation_steps": train.accumulation_steps,
        "train.seeds": train.seeds,
        "eval.every": experiment.eval.every,
        "eval.batch_size": experiment.eval.batch_size,
        "checkpoint.every": experiment.checkpoint.every,
        "checkpoint.keep": experiment.checkpoint.keep,
    }
    for name, value in positive.items():
        if value is not None and value <= 0:
            raise UsageError(f"{name} is {value}: expected a number above 0")
    if train.steps is None and train.epochs is None:
        raise UsageError("train.steps and train.epochs are both None: give one of them")
    if not 0.0 <= train.label_smoothing < 1.0:
        raise UsageError(f"train.label_smoothing is {train.label_smoothing}: expected a value in [0, 1), such as 0.1")
    if train.ema_decay is not None and not 0.0 < train.ema_decay < 1.0:
        raise UsageError(f"train.ema_decay is {train.ema_decay}: expected a value between 0 and 1, such as 0.999")
    if experiment.model.weights is None and experiment.model.peer != ModelConfig.peer:
        raise UsageError(f"model.peer is {experiment.model.peer!r} without a file: give model.weights, too")
    if train.frozen and train.recompute_batch_stats:
        raise UsageError("train.recompute_batch_stats would change the statistics that train.frozen keeps: give one")
    if not 0 <= experiment.seed <= 2**32 - train.seeds:
        last = f", so that there are {train.seeds} seeds from there" if train.seeds > 1 else ""
        raise UsageError(f"seed is {experiment.seed}: expected 0 to {2**32 - train.seeds}{last}")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", experiment.name):
        raise UsageError(f"name is {experiment.name!r}: expected letters, digits, '_', '-' and '.', as in lenet_mnist")


# Changing these does not change a result, so a run may be resumed with others. Where the data are is among them:
# the checksums in a run's data.json tell whether they are the same. A run is always of one seed; that it was trained
# by vmap, which is the same up to rounding, is in its environment.json.
IMMATERIAL = (
    *("checkpoint", "paper", "published", "train.seeds", "train.seeds_mode"),
    *("data.path", "data.download", "data.pipeline", "data.threads", "data.bad_limit"),
)


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(experiment), default=str))


def from_dict(values: Mapping[str, Any]) -> Experiment:
    """Return the experiment that `to_dict` gave.

    Raises:
      UsageError: a field is unknown, missing or of the wrong type.
    """
    return check(Experiment, values, "")


def fingerprint(experiment: Experiment) -> str:
    """Return ten hexadecimal digits of the SHA-256 over all fields that the result depends on.

    A TFDS data set is told apart by its name, wherever it is stored; .npz and tar files, folders of images, caches
    and files of weights have no other name than their path.
    """
    values = _material(experiment)
    if experiment.model.weights is not None:
        values["model.weights"] = str(experiment.model.weights.expanduser().resolve())
    if experiment.data.source in ("npz", "folder", "tar", "cache") and experiment.data.path is not None:
        values["data.path"] = str(experiment.data.path.expanduser().resolve())
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def difference(ours: Experiment, theirs: Experiment) -> str | None:
    """Return the first field that matters and differs, as a line of text, or None."""
    mine, other = _material(ours), _material(theirs)
    for name in sorted(mine.keys() | other.keys()):
        if mine.get(name) != other.get(name):
            return f"{name} is {mine.get(name)!r}, the run has {other.get(name)!r}"
    return None


def _material(experiment: Experiment) -> dict[str, Any]:
    """Return the fields that the result depends on, by dotted name."""
    leaves = _flatten(to_dict(experiment))
    return {name: value for name, value in leaves if not {name, name.split(".")[0]} & set(IMMATERIAL)}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def load_experiment(path: str | Path) -> Experiment:
    """Return the EXPERIMENT that a Python file exports.

    Raises:
      UsageError: no such file, the file fails, or it has no EXPERIMENT of the right type.
    """
    path = Path(path)
    if not path.is_file():
        raise _no_file(path)
    name = "jaxcnn_experiment_" + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file: expected experiments/NAME.py with an EXPERIMENT")
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.path.insert(0, str(path.parent))  # an experiment may build on its neighbour
    try:
        spec.loader.exec_module(module)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == os.path.abspath(path)
        ]
        where = f"{path}, line {lines[-1]}," if lines else str(path)
        raise UsageError(f"{where} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
        for other in set(sys.modules) - before:  # another folder's neighbour may have the same name
            if Path(getattr(sys.modules[other], "__file__", None) or "/").parent == path.parent.resolve():
                del sys.modules[other]
    found = getattr(module, "EXPERIMENT", None)
    if not isinstance(found, Experiment):
        kind = "no EXPERIMENT" if found is None else f"an EXPERIMENT of type {type(found).__name__}"
        raise UsageError(f"{path} has {kind}: expected EXPERIMENT = jaxcnn.Experiment(...)")
    return found


def _no_file(path: Path) -> UsageError:
    if path.is_dir():
        return UsageError(f"{path} is a folder: expected a Python file that exports an EXPERIMENT")
    folder = path.parent if path.parent.is_dir() else Path("experiments")
    found = [str(file) for file in folder.glob("*.py") if file.is_file()]
    return unknown("experiment file", str(path), found) if found else UsageError(f"there is no experiment file {path}")
