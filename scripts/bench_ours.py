"""What of ours the benchmarks time: compiled steps, the start of a process, epochs with the data on the device."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxcnn
from jaxcnn import backend
from jaxcnn.errors import RunError
from jaxcnn.models import MODELS, create
from jaxcnn.tasks import Classification
from jaxcnn.train.optim import make_optimizer
from jaxcnn.train.optimizers import Momentum
from jaxcnn.train.parallel import Parallel
from jaxcnn.train.schedules import Constant
from jaxcnn.train.state import TrainState, create_state
from jaxcnn.train.step import make_train_step

Mode = Literal["train", "inference"]

# The experiment of `first_step` as a file for the command line.
_EXPERIMENT = """
from pathlib import Path
import jaxcnn
EXPERIMENT = jaxcnn.Experiment(
    name="first_step",
    model=jaxcnn.ModelConfig(name={model!r}, num_classes={num_classes}, dtype={dtype!r}),
    data=jaxcnn.DataConfig(source="npz", path=Path({path!r})),
    optim=jaxcnn.Momentum(learning_rate=0.01),
    train=jaxcnn.TrainConfig(batch_size={batch_size}, steps=2, log_every=1, devices={devices}),
)
"""


class Program:
    """One compiled step of ours, its state, and its batch on the devices."""

    def __init__(self, name: str, mode: Mode, batch_size: int, dtype: str, devices: int, way: str) -> None:
        """Compile it, for random images; the plain way is for one device, the free one need not be deterministic."""
        devices, plain = 1 if way == "plain" else devices, way == "plain"
        parallel = Parallel(batch_size, devices=devices, deterministic=way != "free")
        model = create(name, dtype=dtype)
        images, labels = jax.random.split(jax.random.key(0))
        shape = (batch_size, *MODELS[name].input_shape)
        batch = {
            "image": jax.random.normal(images, shape, jnp.float32),
            "label": jax.random.randint(labels, (batch_size,), 0, MODELS[name].num_classes, jnp.int32),
            "mask": jnp.ones(batch_size, bool),
        }
        batch = jax.device_put(batch, parallel.sharded)
        like = jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)
        variables = model.init(jax.random.key(0), like)
        tx = make_optimizer(Momentum(learning_rate=0.01), Constant(), 1, variables["params"])
        state = parallel.place(create_state(variables, tx, jax.random.key(0)))
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        if mode == "train":
            step = make_train_step(model, tx, Classification(), remat=way == "remat", axis_name=parallel.axis_name)
            self._kept, self._given, run = _training(parallel, step, state, batch, plain)
        else:
            self._kept, self._given, run = (), (state.variables, batch["image"]), _inference(parallel, model, plain)
        start = time.perf_counter()
        self._compiled = run.lower(*self._kept, *self._given).compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self) -> Any:
        """Make one step and return what is ready when it is done."""
        *kept, result = self._compiled(*self._kept, *self._given) if self._kept else (self._compiled(*self._given),)
        self._kept = tuple(kept)
        return result

    @property
    def peak_bytes(self) -> int | None:
        """Peak memory of the program on each device; None where the compiler does not say."""
        if (found := self._compiled.memory_analysis()) is None:
            return None
        beside = found.output_size_in_bytes - found.alias_size_in_bytes
        return found.argument_size_in_bytes + found.temp_size_in_bytes + beside


def _training(
    parallel: Parallel, step: Callable, state: TrainState, batch: Any, plain: bool
) -> tuple[tuple, tuple, Any]:
    """Return what a training step replaces, what it is given beside, and its jitted function."""
    if plain:
        return (state,), (batch,), jax.jit(step, donate_argnums=0)
    return (state,), (batch,), parallel.compile_train(step, lambda batch: batch)


def _inference(parallel: Parallel, model: Any, plain: bool) -> Any:
    """Return the jitted function of variables and images that makes logits."""

    def infer(variables: Any, images: jax.Array) -> Any:
        return model.apply(variables, images, train=False)

    return jax.jit(infer) if plain else backend.jit(infer, out_shardings=parallel.sharded)


def random_images(path: Path, image_shape: tuple[int, ...], train: int, test: int) -> Path:
    """Write an .npz data set of random images of ten classes, and return its path."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", train), ("test", test)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *image_shape), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 10
    np.savez(path, **arrays)
    return path


def start_up(model: str, batch_size: int, dtype: str, devices: int, repeats: int) -> dict[str, Any]:
    """Return the seconds from the start of `jaxcnn train` to the first row of its log, which follows its first step.

    The data set is one batch. The first start finds an empty compilation cache; `peak_process_bytes` is the largest
    resident set of the warm starts.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = random_images(folder / "images.npz", MODELS[model].input_shape, max(batch_size, 10), 10)
        text = _EXPERIMENT.format(
            model=model,
            num_classes=MODELS[model].num_classes,
            dtype=dtype,
            path=str(images),
            batch_size=batch_size,
            devices=devices,
        )
        (folder / "experiment.py").write_text(text)
        (cold, _), *warm = [_first_row(folder, devices) for _ in range(1 + repeats)]
        return {
            "cold_seconds": cold,
            "warm_seconds": [seconds for seconds, _ in warm],
            "peak_process_bytes": max(peak for _, peak in warm),
        }


def _first_row(folder: Path, devices: int) -> tuple[float, int]:
    """Return the seconds until the first row of a new process, which is then killed, and its largest resident set."""
    runs = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-c", "from jaxcnn.cli import main; main()", "train", str(folder / "experiment.py")]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # This process has most of the accelerator's memory.
    }
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--quiet", "--runs-dir", str(runs)], env=environment, stdout=subprocess.DEVNULL, stderr=said
        )
        ended = found = False
        while not (ended or found):
            time.sleep(0.005)
            pid, _, usage = os.wait4(process.pid, os.WNOHANG)
            ended = pid != 0
            found = any(path.stat().st_size for path in runs.glob("*/*/metrics.jsonl"))
        seconds = time.perf_counter() - start
        if not ended:
            os.kill(process.pid, signal.SIGKILL)
            _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0  # It has been waited for.
        said.seek(0)
        lines = said.read().splitlines()
    if not found:
        raise RunError(f"jaxcnn train ended before its first step: {lines[-1] if lines else 'it said nothing'}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def epoch_seconds(
    model: str, batch_size: int, dtype: Any, devices: int, images: int, repeats: int
) -> tuple[list[float], int]:
    """Return the seconds of epochs with data and augmentation on the device, and the steps of one.

    The data set is random images in uint8, of the model's size; batches are shuffled, padded and cropped, flipped and
    normalised within the step, as an experiment on CIFAR-10 does. Logging and evaluation are left out.
    """
    from jaxcnn.runs import Trainer

    with tempfile.TemporaryDirectory() as name:
        path = random_images(Path(name) / "images.npz", MODELS[model].input_shape, images, 10)
        experiment = jaxcnn.Experiment(
            name="epoch",
            model=jaxcnn.ModelConfig(name=model, dtype=dtype),
            data=jaxcnn.DataConfig(source="npz", path=path, augment=(jaxcnn.PadCrop(pad=4), jaxcnn.Flip())),
            optim=jaxcnn.Momentum(learning_rate=0.01),
            train=jaxcnn.TrainConfig(batch_size=batch_size, epochs=1.0 + repeats, devices=devices),
        )
        trainer = Trainer.from_experiment(experiment)
    steps = -(-images // batch_size)
    state, seconds = trainer.initial_state(), []
    for epoch in range(1 + repeats):
        start = time.perf_counter()
        for step in range(epoch * steps, (epoch + 1) * steps):
            state, sums = trainer.train_step(state, trainer.stream.at(step))
        jax.block_until_ready(sums)
        seconds.append(time.perf_counter() - start)
    return seconds[1:], steps  # The first one compiles.
