"""Convolutional networks in JAX: the classic architectures, exact, reproducible and fast.

    model = jaxcnn.create("resnet18", num_classes=10)                   # `jaxcnn.models.MODELS` has the names
    model, variables = jaxcnn.weights.load("torchvision/resnet18", "resnet18.pth")

    run = jaxcnn.run(jaxcnn.Experiment(name=..., model=..., data=..., optim=..., train=...))        # in runs/
    run = jaxcnn.load_run("runs/NAME/HASH")                             # read back: metrics, model, state, predict

    trainer = jaxcnn.Trainer(model, optax.adam(1e-3), jaxcnn.Classification(), data, train=jaxcnn.TrainConfig(...))
    trainer.fit()                                                       # ready objects, ours or one's own

    step = jaxcnn.jit(jaxcnn.train.make_train_step(model, tx, task))    # the parts alone

An experiment is made of `ModelConfig`, `DataConfig`, a task (`Classification`), an optimiser (`Adam`, `Momentum`,
...), a schedule (`CosineDecay`, ...), `TrainConfig`, `EvalConfig` and `CheckpointConfig`; transforms (`Flip`, ...)
belong to the data. `jaxcnn train --help` explains every field. Own parts derive from `Task`, `Transform`,
`Geometric`, `Optimizer` or `Schedule`, or are plain functions; `Part` names one. The rooms `data`, `layers`,
`models`, `report`, `runs`, `tasks`, `train` and `weights` have what is below.
"""

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
    from jaxcnn.parts import Part
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
    "parts": ("Part",),
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
