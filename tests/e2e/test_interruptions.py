"""Real processes killed, stopped and resumed: the result is that of one that was left alone, bit for bit."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

COMMAND = [sys.executable, "-c", "from jaxcnn.cli import main; main()"]
DIGITS = """
from jaxcnn import *
EXPERIMENT = Experiment(
    name="interrupted",
    model=ModelConfig(name="lenet5"),
    data=DataConfig(
        source="digits",
        image_size=28,
        augment=(PadCrop(pad=2),),
        train_split="train[:1000]",
        val_split="train[1000:]",
    ),
    optim=Momentum(learning_rate=0.05),
    train=TrainConfig(batch_size=50, steps=90, log_every=7),
    eval=EvalConfig(every=28, batch_size=1),
    checkpoint=CheckpointConfig(every=10),
)
"""
# Everything that has a state of its own: BatchNorm, averaged parameters, a schedule that watches the loss, clipping.
# Streamed, cropped on the host, mixed on the device, with filled up batches.
STATEFUL = """
from dataclasses import replace
from functools import partial
from jaxcnn import *
from jaxcnn.models import MODELS
small = partial(MODELS["resnet20"].factory, depths=(1, 1), width=8)
MODELS["resnet_small"] = replace(MODELS["resnet20"], factory=small)
EXPERIMENT = Experiment(
    name="stateful",
    model=ModelConfig(name="resnet_small"),
    data=DataConfig(
        source="digits",
        image_size=16,
        train_crop=RandomResizedCrop(area=(0.5, 1.0)),
        augment=(PadCrop(pad=2), Mixup(alpha=0.2)),
        last_batch="pad",
        train_split="train[:650]",
    ),
    optim=Momentum(learning_rate=0.05, clip_norm=1.0, weight_decay=1e-4),
    schedule=Plateau(patience=5),
    train=TrainConfig(batch_size=32, steps=100, log_every=9, ema_decay=0.95, recompute_batch_stats=True),
    eval=EvalConfig(every=20, batch_size=60),
    checkpoint=CheckpointConfig(every=6),
)
"""


class Runner:
    """Starts `jaxcnn train` on one experiment in a folder of its own, with one compilation cache for all."""

    def __init__(self, folder: Path, cache: Path, experiment: str) -> None:
        self.folder = folder
        self.folder.mkdir()
        (folder / "experiment.py").write_text(experiment)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX", "XLA"))}
        self.environment = kept | {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*COMMAND, "train", *(arguments or ("experiment.py",))],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, *arguments: str) -> None:
        process = self.start(*arguments)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert not re.search("Traceback|[Ww]arning", said), said

    @property
    def run(self) -> Path:
        (found,) = self.folder.glob("runs*/*/*")
        return found

    def outcome(self) -> tuple[str, bytes]:
        result = json.loads((self.run / "result.json").read_text())
        assert result["status"] == "finished"
        return result["params_sha256"], (self.run / "metrics.jsonl").read_bytes()

    def size(self, name: str) -> int:
        return sum(path.stat().st_size for path in self.folder.glob(f"runs*/*/*/{name}"))

    def saving(self) -> bool:
        return any(self.folder.glob("runs*/*/*/checkpoints/tmp-new-*/*"))


def wait(process: subprocess.Popen, condition: Callable[[], object]) -> bool:
    """Return True once the condition holds, False if the process ends before."""
    limit = time.monotonic() + 300
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < limit
        time.sleep(0.001)
    return True


def resume_command(said: str) -> list[str]:
    """Return what a stopped process told the user to paste, as the shell would split it."""
    (line,) = [line for line in said.splitlines() if "go on with: " in line]
    program, command, *arguments = shlex.split(line.split("go on with: ")[1])
    assert (program, command) == ("jaxcnn", "train")
    return arguments


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache) -> tuple[str, bytes]:
    """The outcome of a process that compiles everything anew and that nothing disturbs."""
    runner = Runner(tmp_path_factory.mktemp("undisturbed") / "a", cache, DIGITS)
    runner.finish()
    return runner.outcome()


def test_a_run_killed_while_it_saves_goes_on_to_the_same_bits(tmp_path, cache, undisturbed):
    runner = Runner(tmp_path / "a", cache, DIGITS)
    for rows in (1, 500):  # in the first checkpoint, and in one after some rows
        process = runner.start()
        assert wait(process, lambda rows=rows: runner.size("metrics.jsonl") >= rows and runner.saving())
        process.kill()
        process.communicate()
    runner.finish()
    assert runner.outcome() == undisturbed
    assert not list(runner.run.glob("checkpoints/tmp-*")) and not list(runner.run.glob(".*"))


def test_a_run_stopped_by_signals_says_how_to_go_on_to_the_same_bits(tmp_path, cache, undisturbed):
    runner = Runner(tmp_path / "a place", cache, DIGITS)  # a path that a shell must be given in quotes
    # SIGTERM in an evaluation, which follows the row of training metrics of the same step.
    process = runner.start("experiment.py", "--runs-dir", "runs here")
    assert wait(process, lambda: b'"step": 28, "train' in read(runner, "metrics.jsonl"))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143, said
    assert b'"step": 28, "val' not in read(runner, "metrics.jsonl")
    assert json.loads(read(runner, "result.json"))["status"] == "stopped"
    # Ctrl-C between two steps.
    process = runner.start(*resume_command(said))
    assert wait(process, lambda: b'"step": 35' in read(runner, "metrics.jsonl"))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    runner.finish(*resume_command(said))
    assert runner.outcome() == undisturbed


def test_a_second_interrupt_ends_the_process_at_once(tmp_path, cache, undisturbed):
    # A cache of its own and a deep network: the process is compiling when the signals come, for seconds in which
    # Python runs no handler. On a slow machine it may not have come so far, and stops properly: then wait longer.
    for delay in (1.5, 4.0, 8.0):
        runner = Runner(tmp_path / str(delay), tmp_path / "empty", DIGITS)
        process = runner.start("experiment.py", "--model.name", "resnet110")
        assert wait(process, lambda runner=runner: runner.size("data.json"))
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        assert process.returncode == 130
        if "stopped after step 0" not in said:
            break
    assert time.monotonic() - sent < 1.0
    assert said.strip() == "jaxcnn: interrupted; the last checkpoint is good"


def read(runner: Runner, name: str) -> bytes:
    return b"".join(path.read_bytes() for path in runner.folder.glob(f"runs*/*/*/{name}"))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [DIGITS, STATEFUL], ids=["lenet", "stateful"])
def test_ten_kills_at_random_moments_change_nothing(tmp_path, cache, experiment):
    alone = Runner(tmp_path / "alone", cache, experiment)
    alone.finish()
    again = Runner(tmp_path / "again", cache, experiment)  # now with a warm compilation cache
    started = time.monotonic()
    again.finish()
    duration = time.monotonic() - started
    assert again.outcome() == alone.outcome()

    chance = random.Random(0)
    runner = Runner(tmp_path / "killed", cache, experiment)
    for kill in range(10):
        process = runner.start()
        if kill % 3 == 0:  # anywhere, the first second included
            time.sleep(chance.uniform(0, 1 if kill == 0 else duration))
        elif kill % 3 == 1:  # in a checkpoint, or just after
            wait(process, runner.saving)
            time.sleep(chance.uniform(0, 0.15))
        else:  # around a row that is written
            size = runner.size("metrics.jsonl")
            wait(process, lambda size=size: runner.size("metrics.jsonl") > size)
            time.sleep(chance.uniform(0, 0.15))
        process.kill()
        process.communicate()
    runner.finish()
    assert runner.outcome() == alone.outcome()


@pytest.mark.slow
def test_signals_at_random_moments_stop_cleanly_and_change_nothing(tmp_path, cache, undisturbed):
    runner = Runner(tmp_path / "a", cache, DIGITS)
    chance = random.Random(1)
    for _ in range(14):
        process = runner.start()
        time.sleep(chance.uniform(1.0, 6.0))  # from when Python is up to after the end
        sent = chance.choice([[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT] * 2, [signal.SIGTERM, signal.SIGINT]])
        for number in sent:
            process.send_signal(number)
            time.sleep(0.02)
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, *(128 + number for number in sent)), said
        assert not re.search("Traceback|Exception|[Ww]arning", said), said
        if process.returncode:
            assert "go on with: " in said or said.endswith("interrupted; the last checkpoint is good\n")
    runner.finish()
    assert runner.outcome() == undisturbed
