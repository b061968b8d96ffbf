"""What the training loop costs, as ratios in one run: python scripts/bench_loop.py [--models lenet5 resnet20]

Prints JSON with, for each model, images per second of the bare compiled step (its batch already on the device) and of
whole runs (batches made, logged, saved; evaluation timed apart), interleaved, medians over the repeats; the time
from starting `jaxcnn train` to the first step with a cold and a warm compilation cache; and the time of `init` of
ResNet-50.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bench_tools
import jax
import numpy as np

import jaxcnn
from jaxcnn import backend
from jaxcnn.environment import environment
from jaxcnn.runs.trainer import Trainer

_SHAPES = {"lenet5": (28, 28, 1), "resnet20": (32, 32, 3)}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    models: tuple[str, ...] = ("lenet5", "resnet20")
    """Models to train."""
    seconds: float = 20.0
    """About how long each measurement lasts."""
    repeats: int = 3
    """Interleaved measurements of each kind."""


def experiment(model: str, folder: Path, steps: int) -> jaxcnn.Experiment:
    """Return an experiment on random images of the model's usual size, with the usual CIFAR augmentation."""
    path = folder / f"{model}.npz"
    if not path.exists():
        rng = np.random.default_rng(0)
        arrays: dict[str, Any] = {}
        for split, count in (("train", 20_000), ("test", 500)):
            arrays[f"{split}_images"] = rng.integers(0, 256, (count, *_SHAPES[model]), np.uint8)
            arrays[f"{split}_labels"] = rng.integers(0, 10, count)
        np.savez(path, **arrays)
    return jaxcnn.Experiment(
        name=f"bench_{model}",
        model=jaxcnn.ModelConfig(name=model),
        data=jaxcnn.DataConfig(source="npz", path=path, augment=(jaxcnn.PadCrop(pad=4), jaxcnn.Flip())),
        optim=jaxcnn.Momentum(learning_rate=0.01),
        train=jaxcnn.TrainConfig(batch_size=128, steps=steps),
        eval=jaxcnn.EvalConfig(every=10**9),
    )


class Bare:
    """The training step alone, compiled as a run compiles it, on one batch that stays on the device."""

    def __init__(self, trainer: Trainer) -> None:
        """Compile it and make one step."""
        self._step = jaxcnn.jit(trainer.make_step(), donate_argnums=0)
        self._batch: dict[str, Any] = jaxcnn.jit(trainer.inputs.batch)(trainer.stream.at(0))
        self._state = trainer.initial_state()
        self.rate(1)

    def rate(self, steps: int) -> float:
        """Return images per second over so many steps."""
        start = time.perf_counter()
        for _ in range(steps):
            self._state, sums = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, sums))
        return steps * len(self._batch["mask"]) / (time.perf_counter() - start)


def measure(model: str, arguments: Arguments, folder: Path) -> dict[str, Any]:
    """Return medians and ratios for one model."""
    step = Bare(Trainer.from_experiment(experiment(model, folder, 1)))
    steps = max(20, int(step.rate(10) / 128 * arguments.seconds))
    bare, loop, whole = [], [], []
    for repeat in range(arguments.repeats):
        bare.append(step.rate(steps))
        started = time.perf_counter()
        run = jaxcnn.run(replace(experiment(model, folder, steps), seed=repeat), folder / "runs", progress=False)
        whole.append(steps * 128 / (time.perf_counter() - started))
        loop.append(run.result["examples_per_second"])
    rates = {"bare_step": bare, "loop": loop, "whole_process_with_set_up_and_scores": whole}
    medians = {f"{name}_images_per_second": round(statistics.median(values), 1) for name, values in rates.items()}
    ratios = [a / b for a, b in zip(loop, bare, strict=True)]
    return {
        "steps": steps,
        **medians,
        "loop_over_bare": round(statistics.median(ratios), 4),
        "loop_over_bare_all": [round(ratio, 4) for ratio in ratios],
    }


def first_step_seconds(folder: Path, cache: Path) -> float:
    """Return the time from starting the command to its first row, which is written after the first step."""
    runs = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-c", "from jaxcnn.cli import main; main()", "train", "experiments/lenet_digits.py"]
    options = ["--train.steps", "40", "--train.log-every", "2", "--quiet", "--runs-dir", str(runs)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, *options], env={**os.environ, "XDG_CACHE_HOME": str(cache)}, stdout=subprocess.DEVNULL
    )
    while process.poll() is None and not any(path.stat().st_size for path in runs.glob("*/*/metrics.jsonl")):
        time.sleep(0.005)
    seconds = time.perf_counter() - start
    process.wait()
    return seconds


def init_seconds() -> float:
    """Return the time of ResNet-50's `init` in a process that has done nothing else."""
    code = (
        "import time, jax, jax.numpy as jnp, jaxcnn\n"
        "model = jaxcnn.create('resnet50')\n"
        "start = time.perf_counter()\n"
        "jax.block_until_ready(model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3))))\n"
        "print(time.perf_counter() - start)"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)


def main() -> None:
    arguments = bench_tools.arguments(Arguments, __doc__)
    backend.keep_freed_memory()  # as the command line does
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found: dict[str, Any] = {"environment": environment()}
        found["models"] = {model: measure(model, arguments, folder) for model in arguments.models}
        cold, *warm = [first_step_seconds(folder, folder / "cache") for _ in range(1 + arguments.repeats)]
        found["first_step_seconds"] = {"cold_cache": round(cold, 2), "warm_cache": [round(value, 2) for value in warm]}
        found["resnet50_init_seconds"] = [round(init_seconds(), 2) for _ in range(arguments.repeats)]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    sys.exit(bench_tools.run_script(main))
