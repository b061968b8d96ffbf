"""Whether a device gives the same bits each time, what that costs, and how fast training steps are: one JSON file.

    python scripts/check_device.py --out device.json
    python scripts/check_device.py --torch-python PYTHON          torch under another interpreter than this one
    python scripts/check_device.py --seconds 100 --networks lenet5 resnet20        a look

For any machine that has jax, flax, optax, numpy and jaxtyping; it reads no data. Under nine minutes: what does not fit
into `--seconds` is left out, and the file says so. Its checks, each in processes of its own:

    same_bits            two processes train the same networks: the parameters have the same SHA-256
    same_after_kill      a process that saves checkpoints is sent SIGKILL; another one goes on from the newest. For this
                         orbax-checkpoint is needed
    steps                milliseconds of a training step and its memory, of ours and of torch.compile's, in turns
    cost_of_determinism  from `steps`: our step over the one whose compiler may choose what gives other bits

Exit code: 0, or 1 where a check failed.
"""

import argparse
import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # also where jaxcnn is not installed

Say = Callable[..., None]
"""Notes one row of what a task found."""

# BatchNorm and strides; overlapping max pooling, large products and dropout; depthwise convolutions.
TRAINED = ("resnet20", "alexnet", "mobilenet_v2")
# Beside torch, in the order of what is worth knowing most; all but the first few may not fit into the time.
NETWORKS = (
    *("resnet50", "mobilenet_v2", "convnext_tiny", "resnet20", "alexnet", "vgg11"),
    *("resnext50_32x4d", "regnet_y_400mf", "wide_resnet50_2", "lenet5", "densenet121", "vgg16"),
)
# For which the cost of determinism is measured, too: another compilation, with the search for the fastest kernels.
COMPARED = NETWORKS[:4]
STEPS, EVERY, BATCH = 30, 5, 32
# Shares of the time that checks before `steps` may take.
_SHARE = {"same_bits": 0.4, "same_after_kill": 0.25}


# Tasks: each in a process of its own, which alone starts JAX.


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
    fields = {"image": Image(channels=shape[-1]), "label": Label(tuple(map(str, range(classes))))}
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
    import jax
    from bench_ours import Program
    from bench_peer import Peer
    from bench_step import CPU_BATCH

    from jaxcnn.errors import RunError, UsageError
    from jaxcnn.models import MODELS

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
        pool = stack.enter_context(ThreadPoolExecutor(1))
        for name in networks:
            size = batch or (CPU_BATCH[name] if platform == "cpu" else 256)
            row: dict[str, Any] = {"network": name, "batch_size": size, "dtype": dtype}
            asked = {"mode": "train", "image": MODELS[name].input_shape, "num_classes": MODELS[name].num_classes}
            theirs = peer and pool.submit(
                peer.ask, "step", model=name, batch=size, dtype=dtype, compiled=True, **asked
            )  # the two compile at the same time
            ways = ["ours", *["free"] * (platform == "gpu" and name in COMPARED)]
            made = {way: Program(name, "train", size, dtype, 1, way) for way in ways}
            timers = {way: bench_tools.timer(program) for way, program in made.items()}
            number = None
            if peer is not None and theirs is not None:
                try:
                    answer = theirs.result()
                    number = answer["id"]
                    timers["torch_compile"] = peer.timer(number)
                    if answer["parameters"] != made["ours"].parameters:
                        row["torch_error"] = f"its network has {answer['parameters']} parameters"
                except RunError as error:
                    row["torch_error"] = str(error)
            row["seconds"] = bench_tools.in_turns(timers, repeats, least_seconds=0.25)
            row["over_torch_compile"] = bench_tools.ratio(row["seconds"], peer="torch_compile")
            row["over_free"] = bench_tools.ratio(row["seconds"], peer="free")
            row["parameters"] = made["ours"].parameters
            row["compile_seconds"] = {way: program.compile_seconds for way, program in made.items()}
            row["peak_bytes"] = made["ours"].peak_bytes
            stats = jax.local_devices()[0].memory_stats()
            row["device_peak_bytes_so_far"] = stats and stats.get("peak_bytes_in_use")
            say(**row)
            if peer is not None and number is not None:
                peer.ask("drop", id=number)


TASKS: dict[str, Callable[..., None]] = {"about": about, "train": train, "steps": steps}


# The checks.


class Work:
    """A task in a process of its own; what it says is read from a file, and is there after a kill."""

    def __init__(self, task: str, **settings: Any) -> None:
        """Start it."""
        self._folder = tempfile.TemporaryDirectory()
        self._said, self._errors = (Path(self._folder.name) / name for name in ("said", "errors"))
        command = [sys.executable, __file__, "--task", task, json.dumps(settings), str(self._said)]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)

    def rows(self) -> list[dict[str, Any]]:
        """Return what it has said so far."""
        lines = self._said.read_text().split("\n") if self._said.exists() else [""]
        return [json.loads(line) for line in lines[:-1]]

    def ended(self) -> bool:
        """Return whether the process has."""
        return self._process.poll() is not None

    def wait(self, deadline: float) -> str | None:
        """Return None once it is done, or why it is not: it failed, or was killed at `deadline` (time.monotonic)."""
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            return "there was no more time"
        lines = [line for line in self._errors.read_text(errors="replace").splitlines() if line.strip()]
        return f"exit code {code}: {lines[-1][:300] if lines else 'it said nothing'}" if code else None

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()
        self._process.wait()


def _failed(why: str | None) -> bool:
    return why is not None and why.startswith("exit code")


def _digests(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {row["network"]: row["sha256"] for row in rows if "sha256" in row}


def same_bits(deadline: float, options: argparse.Namespace, work: Callable[..., Any] = Work) -> dict[str, Any]:
    """Return whether two processes, one after the other, come to the same parameters."""
    settings = {"networks": options.trained, "steps": options.steps, "batch": options.batch}
    found: list[dict[str, str]] = []
    why, rows = None, []
    for _ in range(2):
        process = work("train", **settings)
        why = process.wait(deadline) or why
        rows.append(process.rows())
        found.append(_digests(rows[-1]))
    both = [name for name in options.trained if all(name in digests for digests in found)]
    differ = [name for name in both if found[0][name] != found[1][name]]
    status = "failed" if differ or _failed(why) else "passed" if both else "left out"
    missing = [name for name in options.trained if name not in both]
    return {"status": status, "differ": differ, "left_out": missing, "why": why, "processes": rows}


def same_after_kill(
    deadline: float, options: argparse.Namespace, expected: Mapping[str, str], work: Callable[..., Any] = Work
) -> dict[str, Any]:
    """Return whether a process that goes on from the checkpoints of a killed one comes to the parameters `expected`."""
    name = options.trained[0]
    if name not in expected:
        return {"status": "left out", "why": f"{name} was not trained without a kill"}
    if importlib.util.find_spec("orbax") is None:
        return {"status": "left out", "why": "orbax-checkpoint is not installed"}
    with tempfile.TemporaryDirectory() as folder:
        settings = {"networks": [name], "steps": options.steps, "batch": options.batch, "folder": folder}
        first = work("train", **settings)
        while not first.ended() and len(first.rows()) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        if first.ended() or not first.rows():
            why = first.wait(deadline) or "it was done before it could be killed"
            return {"status": "failed" if _failed(why) else "left out", "why": why}
        first.kill()
        second = work("train", **settings)
        why = second.wait(deadline)
        found = [row for row in second.rows() if "sha256" in row]
    if why is not None or not found:
        return {"status": "failed" if _failed(why) else "left out", "why": why}
    same, resumed = found[0]["sha256"] == expected[name], found[0]["began"] > 0
    status = "passed" if same and resumed else "failed"
    return {"status": status, "killed_after": first.rows()[-1]["saved"], "went_on_from": found[0]["began"], **found[0]}


def measured_steps(deadline: float, options: argparse.Namespace, work: Callable[..., Any] = Work) -> dict[str, Any]:
    """Return a row for each network that could be measured in the time."""
    settings = {"networks": options.networks, "torch_python": options.torch_python, "repeats": options.repeats}
    process = work("steps", **settings, batch=options.step_batch)
    why = process.wait(deadline)
    rows = [row for row in process.rows() if "network" in row]
    others = {key: value for row in process.rows() if "network" not in row for key, value in row.items()}
    missing = [name for name in options.networks if name not in [row["network"] for row in rows]]
    status = "failed" if _failed(why) else "left out" if not rows else "passed" if not missing else "in part"
    return {"status": status, "left_out": missing, "why": why, **others, "rows": rows}


def cost_of_determinism(platform: str | None, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return our time over that of steps whose compiler may choose what gives other bits, by network."""
    if platform != "gpu":
        return {
            "status": "not applicable",
            "why": f"the compiler for {platform} has no operations that give other bits",
        }
    found = {row["network"]: row["over_free"] for row in rows if row["over_free"] is not None}
    return {"status": "passed" if found else "left out", "over_free": found}


def check(options: argparse.Namespace, work: Callable[..., Any] = Work) -> Iterator[dict[str, Any]]:
    """Yield the whole report, again and again, as checks are added to it."""
    start = time.monotonic()
    end = start + options.seconds
    report: dict[str, Any] = {"seconds_allowed": options.seconds, "options": vars(options), "checks": {}}

    def note(name: str, found: dict[str, Any], began: float) -> dict[str, Any]:
        report["checks"][name] = {"status": found.pop("status"), "seconds": time.monotonic() - began, **found}
        report["seconds"] = time.monotonic() - start
        return report

    process = work("about")
    why = process.wait(end)
    report |= {"why": why} if why else process.rows()[0]
    platform = report.get("environment", {}).get("platform")
    yield report
    if why:
        return
    began = time.monotonic()
    yield note("same_bits", same_bits(began + _SHARE["same_bits"] * options.seconds, options, work), began)
    expected = _digests(report["checks"]["same_bits"]["processes"][0])
    began = time.monotonic()
    until = min(end, began + _SHARE["same_after_kill"] * options.seconds)
    yield note("same_after_kill", same_after_kill(until, options, expected, work), began)
    began = time.monotonic()
    yield note("steps", measured_steps(end, options, work), began)
    rows = report["checks"]["steps"]["rows"]
    yield note("cost_of_determinism", cost_of_determinism(platform, rows), time.monotonic())


def summary(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines that say what was found."""
    machine = report.get("environment", {})
    yield f"{machine.get('device_kind')} x{machine.get('device_count')}, commit {machine.get('commit')}"
    for name, found in report["checks"].items():
        why = "; ".join(filter(None, [", ".join(found.get("left_out", [])), found.get("why")]))
        yield f"{name}: {found['status']} ({found['seconds']:.0f} s){': ' + why if why else ''}"
    for row in report["checks"].get("steps", {}).get("rows", []):
        times = ", ".join(f"{way} {1e3 * times['median']:.2f} ms" for way, times in row["seconds"].items())
        yield f"  {row['network']} x{row['batch_size']} {row['dtype']}: {times}, {(row['peak_bytes'] or 0) >> 20} MiB"


def main(words: Sequence[str] | None = None) -> int:
    """Run the checks, or one task; return the exit code."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["--task"]:
        _, task, settings, said = words
        with Path(said).open("a") as file:

            def say(**row: Any) -> None:
                file.write(json.dumps(row) + "\n")
                file.flush()

            TASKS[task](say, **json.loads(settings))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = sys.executable if importlib.util.find_spec("torch") else None
    parser.add_argument("--out", type=Path, default=Path("check_device.json"), help="the JSON file")
    parser.add_argument("--seconds", type=float, default=520.0, help="how long all of it may take")
    parser.add_argument("--trained", nargs="+", default=TRAINED, help="networks to compare the bits of")
    parser.add_argument("--steps", type=int, default=STEPS, help="to train them for")
    parser.add_argument("--batch", type=int, default=BATCH, help="images in such a step")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="networks to measure steps of")
    parser.add_argument("--step-batch", type=int, help="images in such a step; left out: 256, on a CPU 8 to 128")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each")
    parser.add_argument("--torch-python", default=here, help="an interpreter that has torch; left out: this one, if so")
    options = parser.parse_args(words)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for report in check(options):
        options.out.write_text(json.dumps(report, indent=1, default=str) + "\n")
    print("\n".join([*summary(report), f"written to {options.out}"]))
    failed = any(found["status"] == "failed" for found in report["checks"].values())
    return 1 if failed or "why" in report else 0


if __name__ == "__main__":
    sys.exit(main())
