"""What augmentation costs on the device: python scripts/bench_augment.py [--sizes 32 224]

Prints JSON with, for each image size, the milliseconds of each transform and of usual recipes for one batch (uint8 in,
normalised float32 out for the recipes), medians over interleaved rounds, and, at 32x32, as a share of a training step
of ResNet-20 at the same batch size, measured in the same rounds.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bench_tools
import jax
import jax.numpy as jnp
import numpy as np
from bench_ours import Program

from jaxcnn import backend
from jaxcnn.data.augment import (
    Affine,
    Augmentation,
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
    augment,
)
from jaxcnn.data.fields import Batch, Fields, Image, Label
from jaxcnn.data.norms import normalize
from jaxcnn.environment import environment

_BATCH = {32: 128, 224: 64}
_FIELDS: Fields = {"image": Image(channels=3), "label": Label(tuple("0123456789"))}
_CIFAR = (PadCrop(pad=4), Flip())

TRANSFORMS: dict[str, Augmentation] = {
    "flip": Flip(),
    "pad_crop": PadCrop(pad=4),
    "affine": Affine(degrees=15, shear=10, scale=(0.9, 1.1), translate=(0.1, 0.1)),
    "affine, bilinear": Affine(degrees=15, interpolation="bilinear"),
    "color_jitter": ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
    "color_jitter with hue": ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    "grayscale": Grayscale(probability=0.2),
    "lighting": Lighting(),
    "rand_augment": RandAugment(),
    "auto_augment": AutoAugment(policy="cifar10"),
    "trivial_augment": TrivialAugment(),
    "cutout": Cutout(),
    "erasing": Erasing(),
    "mixup": Mixup(),
    "cutmix": CutMix(),
}
RECIPES: dict[str, tuple[Augmentation, ...]] = {
    "none": (),
    "CIFAR": _CIFAR,
    "CIFAR + RandAugment": (*_CIFAR, RandAugment()),
    "CIFAR + Mixup": (*_CIFAR, Mixup()),
    "ImageNet with jitter and lighting": (
        Flip(),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        Lighting(),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    sizes: tuple[int, ...] = (32,)
    """Sides of the images: 32 in batches of 128, 224 of 64."""
    rounds: int = 15
    """Interleaved measurements of each."""


def compiled(transforms: tuple[Augmentation, ...], batch: Batch, normalised: bool) -> Callable[[], Any]:
    """Return a function that augments the batch by a new key each time."""

    def run(key: jax.Array, batch: Batch) -> Batch:
        out = augment(transforms, key, batch, _FIELDS)
        return {**out, "image": normalize(out["image"], jnp.float32(0.5), jnp.float32(0.25))} if normalised else out

    keys = iter(jax.random.split(jax.random.key(0), 1000))
    fast = backend.jit(run).lower(jax.random.key(0), batch).compile()
    return lambda: fast(next(keys), batch)


def medians(programs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the milliseconds of each, one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            if number:  # the first warms up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def measure(size: int, rounds: int) -> dict[str, Any]:
    """Return the milliseconds at one image size."""
    count = _BATCH.get(size, 64)
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (count, size, size, 3)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 10, count), jnp.int32),
        "mask": jnp.ones(count, bool),
    }
    programs: dict[str, Callable[[], Any]] = {
        name: compiled((transform,), batch, normalised=False) for name, transform in TRANSFORMS.items()
    }
    programs |= {f"recipe {name}": compiled(recipe, batch, normalised=True) for name, recipe in RECIPES.items()}
    if size == 32:
        programs["step"] = Program("resnet20", "train", count, "float32", 1, "ours")
    found = medians(programs, rounds)
    step = found.pop("step", None)
    rows = {name: {"ms": value} | ({"share": value / step} if step else {}) for name, value in found.items()}
    return {"size": size, "batch_size": count, "resnet20_step_ms": step, "costs": rows}


def main(arguments: Arguments) -> None:
    """Print what was asked for as JSON."""
    backend.keep_freed_memory()
    found = [measure(size, arguments.rounds) for size in arguments.sizes]
    print(json.dumps({"environment": environment(), "sizes": found}, indent=1))


if __name__ == "__main__":
    sys.exit(bench_tools.run_script(lambda: main(bench_tools.arguments(Arguments, __doc__))))
