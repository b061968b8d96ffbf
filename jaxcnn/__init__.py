"""Convolutional networks in JAX: the classic architectures, exact, reproducible and fast."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcnn import data, layers, models, report, runs, tasks, train, weights
    from jaxcnn.backend import jit
    from jaxcnn.data import DataConfig
    from jaxcnn.data.augment import (
        Affine,
        AutoAugment,
        ColorJitter,
        CutMix,
        Cutout,
        Erasing,
        Flip,
        Grayscale,
        Lighting,
        Mixup,
        PadCrop,
        RandAugment,
        TrivialAugment,
    )
    from jaxcnn.data.crops import RandomResizedCrop, ScaleJitter
    from jaxcnn.data.transforms.base import Geometric, Transform
    from jaxcnn.experiment import Experiment, load_experiment
    from jaxcnn.models import create
    from jaxcnn.models.config import ModelConfig
    from jaxcnn.models.features import features
    from jaxcnn.runs import Run, Trainer, load_run, resume, run, run_seeds
    from jaxcnn.tasks import Classification, Task
    from jaxcnn.train.callbacks import EarlyStopping, Stop
    from jaxcnn.train.config import CheckpointConfig, EvalConfig, TrainConfig
    from jaxcnn.train.optimizers import (
        LAMB,
        LARS,
        SGD,
        Adagrad,
        Adam,
        AdamW,
        DeltaBarDelta,
        Momentum,
        Muon,
        Optimizer,
        RMSProp,
    )
    from jaxcnn.train.schedules import (
        Constant,
        CosineDecay,
        ExponentialDecay,
        InverseTimeDecay,
        OneCycle,
        Plateau,
        PolynomialDecay,
        Schedule,
        StepDecay,
    )
    from jaxcnn.typed import Part

__version__ = "0.1.0"

# Loaded when first asked for: models and layers then need neither Orbax nor a data set library, and the command line
# is ready for Ctrl-C before JAX is imported.
_ROOMS = ("data", "layers", "models", "report", "runs", "tasks", "train", "weights")
_HOMES = {
    "backend": ("jit",),
    "data": ("DataConfig",),
    "data.augment": (
        *("Affine", "AutoAugment", "ColorJitter", "CutMix", "Cutout", "Erasing", "Flip", "Grayscale", "Lighting"),
        *("Mixup", "PadCrop", "RandAugment", "TrivialAugment"),
    ),
    "data.crops": ("RandomResizedCrop", "ScaleJitter"),
    "data.transforms.base": ("Geometric", "Transform"),
    "experiment": ("Experiment", "load_experiment"),
    "models": ("create",),
    "models.config": ("ModelConfig",),
    "models.features": ("features",),
    "runs": ("Run", "Trainer", "load_run", "resume", "run", "run_seeds"),
    "tasks": ("Classification", "Task"),
    "train.callbacks": ("EarlyStopping", "Stop"),
    "train.config": ("CheckpointConfig", "EvalConfig", "TrainConfig"),
    "train.optimizers": (
        *("Adagrad", "Adam", "AdamW", "DeltaBarDelta", "LAMB", "LARS", "Momentum", "Muon", "Optimizer", "RMSProp"),
        "SGD",
    ),
    "train.schedules": (
        *("Constant", "CosineDecay", "ExponentialDecay", "InverseTimeDecay", "OneCycle", "Plateau"),
        *("PolynomialDecay", "Schedule", "StepDecay"),
    ),
    "typed": ("Part",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Affine",
    "AutoAugment",
    "CheckpointConfig",
    "Classification",
    "ColorJitter",
    "Constant",
    "CosineDecay",
    "CutMix",
    "Cutout",
    "DataConfig",
    "DeltaBarDelta",
    "EarlyStopping",
    "Erasing",
    "EvalConfig",
    "Experiment",
    "ExponentialDecay",
    "Flip",
    "Geometric",
    "Grayscale",
    "InverseTimeDecay",
    "Lighting",
    "Mixup",
    "ModelConfig",
    "Momentum",
    "Muon",
    "OneCycle",
    "Optimizer",
    "PadCrop",
    "Part",
    "Plateau",
    "PolynomialDecay",
    "RMSProp",
    "RandAugment",
    "RandomResizedCrop",
    "Run",
    "ScaleJitter",
    "Schedule",
    "StepDecay",
    "Stop",
    "Task",
    "TrainConfig",
    "Trainer",
    "Transform",
    "TrivialAugment",
    "create",
    "data",
    "features",
    "jit",
    "layers",
    "load_experiment",
    "load_run",
    "models",
    "report",
    "resume",
    "run",
    "run_seeds",
    "runs",
    "tasks",
    "train",
    "weights",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _ROOMS:
        return importlib.import_module(f"jaxcnn.{name}")
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"jaxcnn.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'jaxcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
