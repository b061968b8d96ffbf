"""Convolutional networks in JAX: the classic architectures, exact, reproducible and fast."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcnn import weights
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
    from jaxcnn.experiment import CheckpointConfig, EvalConfig, Experiment, ModelConfig, TrainConfig, load_experiment
    from jaxcnn.models import create
    from jaxcnn.models.features import features
    from jaxcnn.runs import Run, load_run, resume, run, run_seeds
    from jaxcnn.train.optim import OptimConfig
    from jaxcnn.train.schedules import ScheduleConfig

__all__ = [
    "Affine",
    "AutoAugment",
    "CheckpointConfig",
    "ColorJitter",
    "CutMix",
    "Cutout",
    "DataConfig",
    "Erasing",
    "EvalConfig",
    "Experiment",
    "Flip",
    "Grayscale",
    "Lighting",
    "Mixup",
    "ModelConfig",
    "OptimConfig",
    "PadCrop",
    "RandAugment",
    "RandomResizedCrop",
    "Run",
    "ScaleJitter",
    "ScheduleConfig",
    "TrainConfig",
    "TrivialAugment",
    "create",
    "features",
    "load_experiment",
    "load_run",
    "resume",
    "run",
    "run_seeds",
    "weights",
]

# Loaded when first asked for: models and layers then need neither Orbax nor a data set library, and the command line
# is ready for Ctrl-C before JAX is imported.
_HOMES = {
    "jaxcnn.data": ("DataConfig",),
    "jaxcnn.data.augment": (
        "Affine",
        "AutoAugment",
        "ColorJitter",
        "CutMix",
        "Cutout",
        "Erasing",
        "Flip",
        "Grayscale",
        "Lighting",
        "Mixup",
        "PadCrop",
        "RandAugment",
        "TrivialAugment",
    ),
    "jaxcnn.data.crops": ("RandomResizedCrop", "ScaleJitter"),
    "jaxcnn.experiment": (
        "CheckpointConfig",
        "EvalConfig",
        "Experiment",
        "ModelConfig",
        "TrainConfig",
        "load_experiment",
    ),
    "jaxcnn.models": ("create",),
    "jaxcnn.models.features": ("features",),
    "jaxcnn.runs": ("Run", "load_run", "resume", "run", "run_seeds"),
    "jaxcnn.train.optim": ("OptimConfig",),
    "jaxcnn.train.schedules": ("ScheduleConfig",),
}


_ROOMS = ("data", "layers", "models", "report", "runs", "tasks", "train", "weights")


def __getattr__(name: str) -> Any:
    import importlib

    if name in _ROOMS:
        return importlib.import_module(f"jaxcnn.{name}")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'jaxcnn' has no attribute {name!r}")
