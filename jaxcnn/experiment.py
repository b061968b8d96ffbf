"""An experiment as a value: everything a run is a function of, typed, frozen and comparable."""

import dataclasses
import hashlib
import importlib.util
import json
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxcnn.data.config import DataConfig
from jaxcnn.errors import UsageError, unknown
from jaxcnn.train.optim import OptimConfig
from jaxcnn.train.schedules import ScheduleConfig

OptionValue = bool | int | float | str


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
    """Variant of the architecture, by the fields of its module: shortcut B."""


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


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """When and how to evaluate."""

    every: int | None = None
    """Steps between evaluations on the validation split (the test split where there is none); None: an epoch."""
    batch_size: int = 500
    """Images at a time; rounded up to a multiple of the devices. Every image counts once, whatever it is."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept for resuming. The only part of an experiment that its result does not depend on."""

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


# Changing these does not change a result, so a run may be resumed with others.
IMMATERIAL = ("checkpoint", "paper", "published")


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(experiment), default=str))


def from_dict(values: Mapping[str, Any]) -> Experiment:
    """Return the experiment that `to_dict` gave.

    Raises:
      UsageError: a field is unknown, missing or of the wrong type.
    """
    return _build(Experiment, values, "")


def fingerprint(experiment: Experiment) -> str:
    """Return ten hexadecimal digits of the SHA-256 over all fields that the result depends on."""
    values = {name: value for name, value in to_dict(experiment).items() if name not in IMMATERIAL}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of an experiment's dict as (dotted name, value)."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def difference(ours: Experiment, theirs: Experiment) -> str | None:
    """Return the first field that matters and differs, as a line of text, or None."""
    mine, other = (dict(flatten(to_dict(experiment))) for experiment in (ours, theirs))
    for name in sorted(mine.keys() | other.keys()):
        if name.split(".")[0] not in IMMATERIAL and mine.get(name) != other.get(name):
            return f"{name} is {mine.get(name)!r}, the run has {other.get(name)!r}"
    return None


def load_experiment(path: str | Path) -> Experiment:
    """Return the EXPERIMENT that a Python file exports.

    Raises:
      UsageError: no such file, the file fails, or it has no EXPERIMENT of the right type.
    """
    path = Path(path)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("experiments")
        found = [str(file) for file in folder.glob("*.py")]
        raise (unknown("experiment file", str(path), found) if found else UsageError(f"no experiment file {path}"))
    name = "jaxcnn_experiment_" + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file: expected experiments/NAME.py with an EXPERIMENT")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # an experiment may build on its neighbour
    try:
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    found_value = getattr(module, "EXPERIMENT", None)
    if not isinstance(found_value, Experiment):
        kind = "no EXPERIMENT" if found_value is None else f"an EXPERIMENT of type {type(found_value).__name__}"
        raise UsageError(f"{path} has {kind}: expected EXPERIMENT = jaxcnn.Experiment(...)")
    return found_value


def _build(kind: Any, value: Any, where: str) -> Any:
    """Return `value`, as JSON gave it, as an instance of the annotated type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = {f.name: f for f in dataclasses.fields(kind)}
        for name in value:
            if name not in fields:
                raise unknown("field", where + name, [where + f for f in fields])
        try:
            return kind(**{name: _build(hints[name], item, f"{where}{name}.") for name, item in value.items()})  # type: ignore[operator]
        except TypeError as error:
            raise UsageError(f"experiment: {error}") from error
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return (
            _build(next(a for a in arguments if a is not type(None)), value, where)
            if type(None) in arguments
            else value
        )
    if origin is tuple:
        return tuple(_build(arguments[0], item, where) for item in value)
    if kind is Path:
        return Path(value)
    if kind is float and isinstance(value, int):
        return float(value)
    return value
