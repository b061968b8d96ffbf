"""The ways to train several seeds together: python scripts/bench_seeds.py [--models lenet5 resnet20] [--seeds 8]

Prints JSON with, for each model and each `train.seeds_mode` that this machine has devices for, the milliseconds of one
step of all seeds, from what their runs note (interleaved rounds: the median, and all of them), and the seconds of the
whole call, which compiles, trains and scores. "vmap" is never chosen by itself, since its bits are not those of a seed
alone: where it is the fastest, ask for it.
"""

import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bench_tools
import jax
from bench_loop import experiment

import jaxcnn
from jaxcnn import backend
from jaxcnn.environment import environment
from jaxcnn.runs.seeds import Mode


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    models: tuple[str, ...] = ("lenet5", "resnet20")
    """Models to train: lenet5 at 28x28x1, resnet20 at 32x32x3, batches of 128."""
    seeds: int = 8
    """How many train together."""
    rounds: int = 3
    """Interleaved measurements of each way."""
    steps: int = 30
    """Steps of each seed; the first, which compiles, does not count."""


def trained(usual: jaxcnn.Experiment, mode: Mode, seeds: int, folder: Path) -> tuple[float, float]:
    """Return the milliseconds of one step of all seeds, and the seconds of the whole call."""
    train = replace(usual.train, seeds=seeds, seeds_mode=mode, devices=None if mode == "devices" else 1)
    start = time.perf_counter()
    runs = jaxcnn.run_seeds(replace(usual, train=train), folder, progress=False)
    seconds = time.perf_counter() - start
    each = [1000 * train.batch_size / run.result["examples_per_second"] for run in runs]
    # Side by side: all of them, or as many as there are devices; or one after the other.
    abreast = {"sequential": 1, "devices": min(seeds, jax.device_count()), "vmap": seeds}[mode]
    return sum(each) / abreast, seconds


def measure(model: str, arguments: Arguments, folder: Path) -> dict[str, Any]:
    """Return the times of each way for one model."""
    usual = experiment(model, folder, arguments.steps)
    modes: list[Mode] = ["sequential", "vmap"]
    if jax.device_count() > 1:
        modes.append("devices")
    found: dict[Mode, list[tuple[float, float]]] = {mode: [] for mode in modes}
    for number in range(arguments.rounds):
        for mode in modes:
            found[mode].append(trained(usual, mode, arguments.seeds, folder / str(number) / mode))
    return {
        mode: {
            "step_ms": round(statistics.median(step for step, _ in times), 2),
            "step_ms_all": [round(step, 2) for step, _ in times],
            "whole_seconds": round(statistics.median(whole for _, whole in times), 2),
        }
        for mode, times in found.items()
    }


def main() -> None:
    arguments = bench_tools.arguments(Arguments, __doc__)
    backend.keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        models = {model: measure(model, arguments, Path(name)) for model in arguments.models}
    print(json.dumps({"environment": environment(), "seeds": arguments.seeds, "models": models}, indent=1))


if __name__ == "__main__":
    sys.exit(bench_tools.run_script(main))
