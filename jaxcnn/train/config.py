"""How long to train, in what batches, on which devices; when to evaluate and what to keep."""

from dataclasses import dataclass
from typing import Literal

from jaxcnn.errors import UsageError
from jaxcnn.train.callbacks import Callback
from jaxcnn.typed import Config, Count, Inside, Positive


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config, at="train"):
    """How long, in what batches, on which devices."""

    batch_size: Count
    """Examples per optimiser step, over all devices and hosts."""
    steps: Count | None = None
    """Optimiser steps. Given, it takes the place of `epochs`."""
    epochs: Positive | None = None
    """Passes over the training split; the steps are rounded up."""
    accumulation_steps: Count = 1
    """Parts that each batch is run in, one after the other, to save memory; BatchNorm sees one part."""
    remat: bool = False
    """Compute the inner activations of blocks once more in the backward pass in place of keeping them: the same up to
    rounding, in less memory and more time."""
    frozen: tuple[str, ...] = ()
    """Parameters that stay as they are, as shell patterns over their paths, such as 'stem/*' 'stage1/*'. BatchNorm
    of a frozen path normalises by its running statistics, which stay, too."""
    ema_decay: Inside | None = None
    """Decay per step of an average of the parameters, which evaluation then uses; None: none."""
    recompute_batch_stats: bool = False
    """After training, replace BatchNorm's moving averages by exact statistics over the training images."""
    log_every: Count = 100
    """Steps between rows of training metrics."""
    norms: bool = False
    """Log the norms of gradient, update and parameters, too, as means over the steps of a row."""
    callbacks: tuple[Callback, ...] = ()
    """Called at each row, evaluation and at the end: they may add metrics, or stop the run, as EarlyStopping does."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How the program of each device is mapped over several: jax.shard_map under jax.jit, or jax.pmap."""
    sync_batch_norm: bool = True
    """BatchNorm over the batch of all devices, or over each device's own part."""
    devices: Count | None = None
    """Devices to use; None: all."""
    deterministic: bool = True
    """On GPUs, let the compiler use nothing that gives other bits from one run to the next, which may cost time. CPUs
    and TPUs have nothing of the kind."""
    seeds: Count = 1
    """How many seeds to train together: `seed`, `seed` + 1, ...; each has a run folder of its own, and is the run of
    that seed alone."""
    seeds_mode: Literal["auto", "sequential", "devices", "vmap"] = "auto"
    """How several seeds are trained. sequential: one after the other, with one set of data and one compiled program.
    devices: as many at a time as there are devices, each on one; a run is, bit for bit, that of its seed with
    train.devices 1. vmap: as one batch of networks on one device; each run equals its seed alone only up to rounding.
    auto: devices where there are several and parallel is jit, else sequential."""

    def __post_init__(self) -> None:
        """Check what goes together."""
        super().__post_init__()
        if self.steps is None and self.epochs is None:
            raise UsageError("train.steps and train.epochs are both None: give one of them")
        if self.frozen and self.recompute_batch_stats:
            raise UsageError(
                "train.recompute_batch_stats would change the statistics that train.frozen keeps: give one"
            )


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Config, at="eval"):
    """When and how to evaluate."""

    every: Count | None = None
    """Steps between evaluations on the validation split (the test split where there is none); None: an epoch."""
    batch_size: Count = 500
    """Examples at a time; rounded up to a multiple of the devices. Every example counts once, whatever it is."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Config, at="checkpoint"):
    """What is kept for resuming; no result depends on it."""

    every: Count | None = None
    """Steps between checkpoints, beside those at each evaluation; None: none."""
    keep: Count = 2
    """Newest checkpoints kept, beside the best."""
    tensorboard: bool = True
    """Write TensorBoard events, too."""
