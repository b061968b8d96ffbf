"""Training steps and inference, on a batch that stays on the device, against torch.

    python scripts/bench_step.py --torch-python PYTHON --out step.json
    python scripts/bench_step.py --models lenet5 --repeats 3 --no-start-up      a look, in seconds
    python scripts/bench_step.py --epoch resnet20 --batch-size 512              epochs on the device, ours alone

A training step is the library's own: forward, cross-entropy and metrics, backward, SGD with momentum; torch's is the
same without the metrics. Inference makes logits. Columns, measured in turns in one run: `ours`; `plain` the same step
under plain `jax.jit`; `eager` and `compile` torch with channels_last tensors, op by op and through torch.compile,
under another interpreter. bfloat16 is the type of the layers here and autocast there. Ratios are our median time over
theirs, the spread is (largest - least) / median.

Peak memory is that of the compiled program: arguments, results and temporary buffers, without those that share their
place. MFU is the share of the device's peak (dense bfloat16) that the model's own multiply-adds take: 2 operations
each, and three times the forward pass's for training. Start-up is the time from the start of `jaxcnn train` to its
first step, with an empty and a filled compilation cache. An interrupted run goes on with the same command, where
`--out` was given.
"""

import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bench_ours
import bench_tools
import jax
from bench_ours import Mode, Program
from bench_peer import Peer, PeerError
from bench_tools import Counter, Results

from jaxcnn import backend
from jaxcnn.environment import environment
from jaxcnn.errors import RunError, UsageError, unknown
from jaxcnn.models import MODELS, create
from jaxcnn.models.summary import totals

# The default models, those of `torch_models.py`, with the images per step on a CPU; 256 elsewhere.
CPU_BATCH = {
    "lenet5": 128,
    "resnet20": 128,
    "resnet50": 32,
    "vgg11": 16,
    "mobilenet_v2": 32,
    "resnext50_32x4d": 16,
    "densenet121": 16,
    "convnext_tiny": 16,
    "regnet_y_400mf": 32,
    "alexnet": 32,
    "vgg16": 8,
    "wide_resnet50_2": 16,
}

# Peak of one device in bfloat16, dense, in operations per second, by what its name starts with: the makers' data
# sheets (H100 and H200 SXM 989.5e12, A100 312e12) and cloud.google.com/tpu/docs (per chip).
_PEAKS = {
    "NVIDIA H200": 989.5e12,
    "NVIDIA H100 80GB HBM3": 989.5e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    models: tuple[str, ...] = tuple(CPU_BATCH)
    """Names of models, at the size of images that each was published with."""
    modes: tuple[Mode, ...] = ("train", "inference")
    """What a step does."""
    torch_python: Path | None = None
    """An interpreter that has torch, to compare with; None: only ours is measured."""
    peers: tuple[Literal["eager", "compile"], ...] = ("eager", "compile")
    """How torch runs."""
    plain: bool = False
    """Measure our step under plain jax.jit, too."""
    remat: bool = False
    """Measure our training step with rematerialised blocks, too; its memory is in the JSON."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What layers compute in."""
    batch_size: int | None = None
    """Images in a step; None: 256; on CPU 16 to 128 by model."""
    repeats: int = 7
    """Measurements of each, in turns."""
    devices: int = 1
    """How many devices ours takes; on a CPU, that many are made of it."""
    start_up: bool = True
    """Measure the start of a process for each model, cold once and warm three times."""
    allocator: bool = True
    """Let malloc keep freed memory, on both sides."""
    epoch: str | None = None
    """Measure epochs of this model in place of steps: data and augmentation on the device."""
    epoch_images: int = 50_000
    """Images of an epoch."""
    out: Path | None = None
    """JSON file of all measurements, written as they are made."""


def mfu(flops: float, seconds: float, dtype: str, device_kind: str, devices: int) -> float | None:
    """Return the share of the devices' peak; None where that is not known, and for other types than bfloat16."""
    peak = next((peak for name, peak in _PEAKS.items() if device_kind.startswith(name)), None)
    return None if peak is None or dtype != "bfloat16" else flops / seconds / (devices * peak)


def measure(name: str, mode: Mode, batch_size: int, arguments: Arguments, peer: Peer | None) -> dict[str, Any]:
    """Return the row of one model in one mode."""
    ways: list[str] = ["ours", *["plain"] * arguments.plain, *["remat"] * (arguments.remat and mode == "train")]
    made = {way: Program(name, mode, batch_size, arguments.dtype, arguments.devices, way) for way in ways}
    timers = {way: bench_tools.timer(program) for way, program in made.items()}
    errors, numbers = {}, []
    for way in arguments.peers if peer is not None else ():
        assert peer is not None
        try:
            answer = peer.ask(
                "step",
                model=name,
                mode=mode,
                batch=batch_size,
                image=MODELS[name].input_shape,
                num_classes=MODELS[name].num_classes,
                dtype=arguments.dtype,
                compiled=way == "compile",
            )
        except PeerError as error:
            errors[way] = str(error)
            continue
        numbers.append(answer["id"])
        if answer["parameters"] != made["ours"].parameters:
            raise RunError(f"{name}: torch's has {answer['parameters']} parameters, ours {made['ours'].parameters}")
        timers[way] = peer.timer(answer["id"])
    seconds = bench_tools.in_turns(timers, arguments.repeats, least_seconds=0.25)
    for number in numbers:
        assert peer is not None
        peer.ask("drop", id=number)
    parameters, macs = totals(create(name), MODELS[name].input_shape)
    assert macs is not None  # of layers of ours
    flops = 2.0 * macs * batch_size * (3 if mode == "train" else 1)
    memory = jax.devices()[0].memory_stats()
    return {
        "parameters": parameters,
        "seconds": seconds,
        "images_per_second": {way: batch_size / times["median"] for way, times in seconds.items()},
        "ratios": {way: bench_tools.ratio(seconds, peer=way) for way in arguments.peers},
        "compile_seconds": {way: program.compile_seconds for way, program in made.items()},
        "peak_bytes": {way: program.peak_bytes for way, program in made.items()},
        "device_peak_bytes_so_far": None if memory is None else memory["peak_bytes_in_use"],
        "flops": flops,
        "mfu": mfu(flops, seconds["ours"]["median"], arguments.dtype, jax.devices()[0].device_kind, arguments.devices),
        "errors": errors,
    }


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table, one line for each model and mode."""
    ways = [way for way in ("ours", "plain", "remat", "eager", "compile") if any(way in row["seconds"] for row in rows)]
    peers = [way for way in ways if way in ("eager", "compile")]

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    cells = []
    for row in rows:
        start_up, peak = row["start_up"], row["peak_bytes"]["ours"]
        warm = None if start_up is None else statistics.median(start_up["warm_seconds"])
        cells.append(
            [
                *(row["model"], row["mode"], str(row["batch_size"])),
                *(bench_tools.milliseconds(row["seconds"].get(way)) for way in ways),
                *(shown(row["ratios"].get(way), ".2f") for way in peers),
                f"{100 * max(times['spread'] for times in row['seconds'].values()):.0f} %",
                f"{row['images_per_second']['ours']:,.0f}",
                shown(None if row["mfu"] is None else 100 * row["mfu"], ".1f"),
                shown(None if peak is None else peak / 2**20, ",.0f"),
                f"{row['compile_seconds']['ours']:.1f}",
                *(shown(value, ".1f") for value in (start_up and start_up["cold_seconds"], warm)),
            ]
        )
    header = ["model", "mode", "batch", *(f"{way} ms" for way in ways), *(f"/ {way}" for way in peers), "spread"]
    header += ["images/s", "MFU %", "peak MiB", "compile s", "cold start s", "warm start s"]
    return bench_tools.table(header, cells, left=2)


def benchmark(arguments: Arguments) -> None:
    """Measure what is asked for and print the table."""
    for name in (*arguments.models, *([] if arguments.epoch is None else [arguments.epoch])):
        if name not in MODELS:
            raise unknown("model", name, MODELS)
    for option in ("repeats", "batch_size", "devices", "epoch_images"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise UsageError(f"--{option.replace('_', '-')} is {value}: expected at least 1")
    shared = arguments.torch_python is not None
    platform, keeps = bench_tools.prepare_process(arguments.allocator, shared=shared, devices=arguments.devices)

    def batch_size_of(name: str) -> int:
        return arguments.batch_size or (CPU_BATCH.get(name, 16) if platform == "cpu" else 256)

    if arguments.epoch is not None:
        return _epoch(arguments.epoch, arguments, batch_size_of(arguments.epoch))
    with ExitStack() as stack:
        peer = None
        if arguments.torch_python is not None:
            peer = stack.enter_context(closing(Peer(arguments.torch_python, platform, allocator=arguments.allocator)))
        settings = {
            option: getattr(arguments, option) for option in ("dtype", "repeats", "devices", "plain", "remat", "peers")
        }
        settings |= {"keeps_freed_memory": keeps, "compiler_options": backend.compiler_options(platform)}
        head = {"environment": environment(), "torch": peer and peer.about, "settings": settings}
        results = Results(arguments.out, head, ("model", "mode", "batch_size"))
        stack.callback(results.write)
        work = [(name, mode) for name in arguments.models for mode in arguments.modes]
        rows = []
        with Counter(len(work)) as counter:
            for name, mode in work:
                counter.doing(f"{name} {mode}")
                row: dict[str, Any] = {"model": name, "mode": mode, "batch_size": batch_size_of(name)}
                found = results.get(row)
                if found is None:
                    row |= measure(name, mode, row["batch_size"], arguments, peer)
                    is_asked = arguments.start_up and mode == "train"
                    options = (name, row["batch_size"], arguments.dtype, arguments.devices)
                    row["start_up"] = bench_ours.start_up(*options, repeats=3) if is_asked else None
                    found = results.add(row)
                rows.append(found)
                counter.step(f"{name} {mode}")
    print(render(rows))
    for row in rows:
        for way, error in row["errors"].items():
            print(f"{row['model']} {row['mode']}: torch {way} could not be measured: {error}", file=sys.stderr)


def _epoch(name: str, arguments: Arguments, batch_size: int) -> None:
    """Measure epochs and print them."""
    options = (name, batch_size, arguments.dtype, arguments.devices, arguments.epoch_images, arguments.repeats)
    seconds, steps = bench_ours.epoch_seconds(*options)
    found = bench_tools.statistics_of(seconds)
    row = {"model": name, "batch_size": batch_size, "images": arguments.epoch_images, "steps": steps, "seconds": found}
    head = {"environment": environment(), "settings": {"dtype": arguments.dtype, "devices": arguments.devices}}
    results = Results(arguments.out, head, ("model", "batch_size", "images"))
    results.add(row)
    results.write()
    rate = arguments.epoch_images / found["median"]
    cells = [
        name,
        f"{batch_size}",
        f"{steps}",
        f"{found['median']:.3f}",
        f"{100 * found['spread']:.0f} %",
        f"{rate:,.0f}",
    ]
    print(bench_tools.table(["model", "batch", "steps", "epoch s", "spread", "images/s"], [cells]))


if __name__ == "__main__":
    sys.exit(bench_tools.run_script(lambda: benchmark(bench_tools.arguments(Arguments, __doc__))))
