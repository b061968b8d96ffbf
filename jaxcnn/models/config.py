"""Which network, as a value."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from jaxcnn.errors import UsageError
from jaxcnn.typed import Config, Interval, Option


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config, at="model"):
    """Which network."""

    name: str
    """A name that `jaxcnn models` lists; or your own, `nets.py:tiny` or `my_package.nets:tiny`: a Linen module's class,
    or a function that returns a module."""
    num_classes: Annotated[int, Interval(least=1, most=2**20)] | None = None
    """Outputs; None: as many as the task takes, such as the data set's classes."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the layers compute in. Parameters, BatchNorm statistics, outputs and loss are float32 always."""
    options: dict[str, Option] = field(default_factory=dict)
    """Variant of the architecture, as pairs KEY VALUE, such as shortcut B; an unknown KEY lists those there are."""
    weights: Path | None = None
    """File to start from: ours, as `jaxcnn export` writes it, or one of `peer`; None: initialised. A head for another
    number of classes is initialised. Images are then normalised as the weights expect, where data.mean and data.std
    do not say otherwise."""
    peer: str = "jaxcnn"
    """Whose file `weights` is, such as torchvision/resnet50."""

    def __post_init__(self) -> None:
        """Check what goes together."""
        super().__post_init__()
        for name in ("num_classes", "dtype", "axis_name"):
            if name in self.options:
                where = f": give model.{name}" if hasattr(self, name) else ""
                raise UsageError(f"model.options has {name}, which is no option but a setting of its own{where}")
        if self.weights is None and self.peer != "jaxcnn":
            raise UsageError(f"model.peer is {self.peer!r} without a file: give model.weights, too")
