"""20,000 streamed steps under random signals: the bits of a run left alone, and a process that does not grow."""

import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_interruptions import Runner

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STREAMED = """
from jaxcnn import *
EXPERIMENT = Experiment(
    name="soak",
    model=ModelConfig(name="lenet5"),
    data=DataConfig(
        source="folder",
        path="images",
        image_size=28,
        pipeline="streaming",
        threads=2,
        train_crop=RandomResizedCrop(area=(0.5, 1.0)),
        augment=(PadCrop(pad=2),),
        val_split="train[:200]",
        train_split="train[400:]",
        test_split="train[200:400]",
    ),
    optim=Momentum(learning_rate=0.02),
    train=TrainConfig(batch_size=128, steps=20_000, log_every=50),
    eval=EvalConfig(every=500),
    checkpoint=CheckpointConfig(every=200),
)
"""
# Seconds between two signals, in the mean: some fifteen sittings.
_SITTING = 60.0
# Seconds from which on a sitting is at its size: everything is compiled, and evaluated and saved once.
_SETTLED = 30.0


def digits(folder: Path) -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    for number, (image, label) in enumerate(zip(data.images, data.target, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(np.uint8(image * 15.9)).resize((48, 40), Image.Resampling.BICUBIC)
        pixels.save(folder / str(label) / f"{number:04}.{('png', 'jpg')[number % 2]}")


def size_of(process: subprocess.Popen) -> tuple[float, int, int] | None:
    """Return MiB of memory, threads and open files of a process, None where it has ended."""
    here = Path(f"/proc/{process.pid}")
    try:
        status = dict(line.split(":", 1) for line in (here / "status").read_text().splitlines())
        return int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), len(list((here / "fd").iterdir()))
    except (OSError, KeyError):
        return None


def sit(runner: Runner, seconds: float) -> tuple[subprocess.Popen, list[tuple[float, int, int]]]:
    """Start a process and watch it, for so long or until it ends; return its sizes once it had settled."""
    process, started, sizes = runner.start("experiment.py", "--quiet"), time.monotonic(), []
    while process.poll() is None and (passed := time.monotonic() - started) < seconds:
        if passed > _SETTLED and (size := size_of(process)) is not None:
            sizes.append(size)
        time.sleep(0.5)
    return process, sizes


def check_flat(sizes: list[tuple[float, int, int]]) -> None:
    """Of a sitting long enough to tell: its second half is no larger than its first."""
    half = len(sizes) // 2
    for what, values, slack in zip(("MiB", "threads", "files"), zip(*sizes, strict=True), (8, 1, 2), strict=True):
        assert max(values[half:]) <= max(values[:half]) + slack, (what, values[:: max(1, half // 10)])


def test_twenty_thousand_steps_under_random_signals(tmp_path):
    runners = {name: Runner(tmp_path / name, tmp_path / "cache", STREAMED) for name in ("alone", "disturbed")}
    for runner in runners.values():
        digits(runner.folder / "images")
    _, sizes = sit(runners["alone"], float("inf"))
    check_flat(sizes)
    chance, signals = random.Random(0), 0
    while True:
        process, sizes = sit(runners["disturbed"], chance.expovariate(1 / _SITTING))
        if len(sizes) > 60:
            check_flat(sizes)
        if process.poll() is None:
            process.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
            signals += 1
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, -9, 130, 143), said
        assert "Traceback" not in said, said
        if process.returncode == 0:
            break
    assert signals >= 5
    assert runners["disturbed"].outcome() == runners["alone"].outcome()
