"""What `check_device.py` lets other processes do, each of which starts JAX for itself:

    python scripts/device_tasks.py TASK SETTINGS FILE

SETTINGS are the task's arguments as JSON; what it finds is appended to FILE, a row of JSON in a line.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # also where jaxcnn is not installed

Say = Callable[..., None]
"""Notes one row of what a task found."""

# For which the cost of determinism is measured, too: another compilation, with the search for the fastest kernels.
COMPARED = ("resnet50", "mobilenet_v2", "convnext_tiny", "resnet20")
# Steps between checkpoints.
EVERY = 5


def about(say: Say) -> None:
    """Say what this machine is."""
    import jax

    from jaxcnn import backend
    from jaxcnn.environment import environment

    platform = jax.default_backend()
    memory = [device.memory_stats() for device in jax.local_devices()]
    limits = [stats and stats.get("bytes_limit") for stats in memory]
    say(environment=environment(), compiler_options=backend.compiler_options(platform), device_bytes=limits)


def train(
    say: Say,
    *,
    networks: Sequence[str],
    steps: int,
    batch: int,
    folder: str | None = None,
    devices: int | None = None,
) -> None:
    """Train networks on random images, and say the SHA-256 of their parameters.

    Args:
        say: see `Say`; it is told of every checkpoint, too.
        networks: names of models.
        steps: of each.
        batch: images in a step.
        folder: for checkpoints: the newest is gone on from; None: there are none.
        devices: how many share a batch; None: all.
    """
    from jaxcnn.train.parallel import Parallel

    for name in networks:
        start = time.perf_counter()
        found = _trained(
            say, name, steps, batch, Parallel(batch, devices=devices), Path(folder) / name if folder else None
        )
        say(network=name, **found, seconds=time.perf_counter() - start)


def _trained(say: Say, name: str, steps: int, batch: int, parallel: Any, folder: Path | None) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxcnn.data.fields import Image, Label
    from jaxcnn.data.norms import Norms
    from jaxcnn.data.prepared import training_batch
    from jaxcnn.data.transforms.warps import Flip, PadCrop
    from jaxcnn.keys import init_key
    from jaxcnn.models import MODELS, create
    from jaxcnn.tasks import Classification
    from jaxcnn.train.checkpoint import Checkpoints
    from jaxcnn.train.optim import make_optimizer
    from jaxcnn.train.optimizers import Momentum
    from jaxcnn.train.schedules import CosineDecay
    from jaxcnn.train.state import create_state, params_sha256
    from jaxcnn.train.step import make_train_step

    model, key = create(name), jax.random.key(0)
    shape, classes = (batch, *MODELS[name].input_shape), MODELS[name].num_classes
    variables = model.init(init_key(key), jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32))
    tx = make_optimizer(Momentum(learning_rate=0.01, weight_decay=1e-4), CosineDecay(), steps, variables["params"])
    state = parallel.place(create_state(variables, tx, key))
    fields: dict[str, Any] = {"image": Image(channels=shape[-1]), "label": Label(tuple(map(str, range(classes))))}
    norms = Norms(np.full(shape[-1:], 0.5, np.float32), np.full(shape[-1:], 0.3, np.float32))

    def make_batch(number: Any) -> Any:
        pixels, labels, changes = jax.random.split(jax.random.fold_in(jax.random.key(1), number), 3)
        stored = {
            "image": jax.random.bits(pixels, shape, jnp.uint8),
            "label": jax.random.randint(labels, shape[:1], 0, classes, jnp.int32),
            "mask": jnp.ones(shape[:1], bool),
        }
        return training_batch(stored, changes, norms, (PadCrop(pad=4), Flip()), fields)

    step = make_train_step(model, tx, Classification(), axis_name=parallel.axis_name)
    run = parallel.compile_train(step, make_batch)
    checkpoints = None if folder is None else Checkpoints(folder)
    if checkpoints is not None and checkpoints.steps():
        state, *_ = checkpoints.restore_newest(parallel.like(state))
    began, sums = int(state.step), None
    for number in range(began, steps):
        state, sums = run(state, np.int32(number))
        if checkpoints is not None and (number + 1) % EVERY == 0:
            checkpoints.save(number + 1, state, {})
            say(saved=number + 1)
    loss = None if sums is None else float(sums["loss"]) / batch
    return {"began": began, "sha256": params_sha256(state.params), "last_loss": loss}


def steps(say: Say, *, networks: Sequence[str], torch_python: str | None, batch: int | None, repeats: int) -> None:
    """Say how long training steps take, and torch's beside them, network after network.

    Args:
        say: see `Say`.
        networks: names of models.
        torch_python: an interpreter that has torch; None: only ours are measured.
        batch: images in a step; None: 256, on a CPU 8 to 128 by network.
        repeats: measurements of each, in turns.
    """
    import bench_tools
    from bench_peer import Peer
    from bench_step import CPU_BATCH

    from jaxcnn.errors import UsageError

    platform, _ = bench_tools.prepare_process(True, shared=torch_python is not None)
    dtype = "float32" if platform == "cpu" else "bfloat16"
    with contextlib.ExitStack() as stack:
        peer = None
        if torch_python is not None:
            try:
                peer = stack.enter_context(contextlib.closing(Peer(Path(torch_python), platform)))
                say(torch=peer.about)
            except UsageError as error:
                say(torch_error=str(error))
        for name in networks:
            size = batch or (CPU_BATCH[name] if platform == "cpu" else 256)
            ways = ["ours", *["free"] * (platform == "gpu" and name in COMPARED)]
            try:
                say(network=name, batch_size=size, dtype=dtype, **_step(name, size, dtype, ways, peer, repeats))
            except RuntimeError as error:  # of JAX: no memory, an operation that is not there
                say(not_measured=f"{name}: {str(error)[:300]}")


def _step(name: str, size: int, dtype: str, ways: Sequence[str], peer: Any, repeats: int) -> dict[str, Any]:
    import bench_tools
    import jax
    from bench_ours import Program

    from jaxcnn.errors import RunError
    from jaxcnn.models import MODELS

    asked = {"mode": "train", "image": MODELS[name].input_shape, "num_classes": MODELS[name].num_classes}
    asked |= {"model": name, "batch": size, "dtype": dtype, "compiled": True}
    with ThreadPoolExecutor(1) as pool:  # The two compile at the same time.
        answer = None if peer is None else pool.submit(peer.ask, "step", **asked)
        made = {way: Program(name, "train", size, dtype, 1, way) for way in ways}
    timers = {way: bench_tools.timer(program) for way, program in made.items()}
    row: dict[str, Any] = {"parameters": made["ours"].parameters}
    theirs = None
    try:
        if answer is not None:
            theirs = answer.result()
            row["torch_parameters"] = theirs["parameters"]
            timers["torch_compile"] = peer.timer(theirs["id"])
    except RunError as error:
        row["torch_error"] = str(error)
    row["seconds"] = bench_tools.in_turns(timers, repeats, least_seconds=0.25)
    if theirs is not None:
        peer.ask("drop", id=theirs["id"])
    row["over_torch_compile"] = bench_tools.ratio(row["seconds"], peer="torch_compile")
    row["over_free"] = bench_tools.ratio(row["seconds"], peer="free")
    row["compile_seconds"] = {way: program.compile_seconds for way, program in made.items()}
    row["peak_bytes"] = made["ours"].peak_bytes
    stats = jax.local_devices()[0].memory_stats()
    return {**row, "device_peak_bytes_so_far": stats and stats.get("peak_bytes_in_use")}


TASKS: dict[str, Callable[..., None]] = {"about": about, "train": train, "steps": steps}


def main() -> None:
    """Do one task."""
    task, settings, said = sys.argv[1:]
    with Path(said).open("a") as file:

        def say(**row: Any) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        TASKS[task](say, **json.loads(settings))


if __name__ == "__main__":
    main()
