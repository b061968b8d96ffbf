"""One device, several under jit, several under pmap, and several processes train alike.

Rounding differs between them: sums over the batch are added up in another order. A ReLU whose input is within
rounding of zero then passes a gradient in one and none in the other, which changes a gradient by 1e-4 to 5e-3 at
once. In ResNet-20 with batches of 32 this happens about every other step, on one device too, where parameters are moved
by half a unit in their last place; the losses of 20 steps part by up to 0.1 (at learning rate 0.1). So BatchNorm
networks are compared here with a smooth activation in place of ReLU, which leaves all that is parallel as it is.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from toys import Toy, assert_close, assert_same_bits, batch, host, start

from jaxcnn import (
    CheckpointConfig,
    Classification,
    DataConfig,
    Experiment,
    Flip,
    ModelConfig,
    Momentum,
    PadCrop,
    TrainConfig,
)
from jaxcnn.errors import RunError, UsageError
from jaxcnn.experiment import fingerprint
from jaxcnn.layers import Dropout, StochasticDepth, mapped_over
from jaxcnn.models import MODELS
from jaxcnn.report.held import read_metrics
from jaxcnn.runs import Trainer
from jaxcnn.runs.folder import RunFolder
from jaxcnn.stop import Stopped
from jaxcnn.train.parallel import Parallel, together
from jaxcnn.train.step import make_train_step

STEPS = 20
LENET = Experiment(
    name="lenet",
    model=ModelConfig(name="lenet5"),
    data=DataConfig(source="digits", image_size=28, augment=(PadCrop(pad=2), Flip())),
    optim=Momentum(learning_rate=0.05, weight_decay=1e-4),
    task=Classification(label_smoothing=0.1),
    train=TrainConfig(batch_size=64, steps=STEPS, log_every=1),
    checkpoint=CheckpointConfig(tensorboard=False),
)
RESNET = replace(
    LENET,
    model=ModelConfig(name="resnet20"),
    data=DataConfig(source="digits", image_size=16, augment=(PadCrop(pad=2), Flip())),
    train=replace(LENET.train, batch_size=32),
)
MODES = {
    "jit1": {"devices": 1},
    "jit4": {"devices": 4},
    "pmap4": {"devices": 4, "parallel": "pmap"},
    "pmap1": {"devices": 1, "parallel": "pmap"},
}


def trainer(experiment, **train):
    return Trainer.from_experiment(replace(experiment, train=replace(experiment.train, **train)))


def losses(experiment, **train):
    """Return the loss of each step."""
    found = trainer(experiment, **train)
    state, losses = found.initial_state(), []
    for step in range(STEPS):
        state, sums = found.train_step(state, found.stream.at(step))
        losses.append(np.asarray(sums["loss"]).item() / int(sums["count"]))
    assert state.step == STEPS
    return np.array(losses)


@cache
def lenet_losses(mode):
    return losses(LENET, **MODES[mode])


@pytest.mark.parametrize("mode", ["jit4", "pmap4"])
def test_lenet(mode):
    np.testing.assert_allclose(lenet_losses(mode), lenet_losses("jit1"), rtol=1e-5)
    assert lenet_losses("jit1")[-1] < lenet_losses("jit1")[0] - 0.5


def test_batch_norm_network(monkeypatch):
    monkeypatch.setitem(MODELS, "toy", replace(MODELS["resnet20"], factory=partial(Toy, norm=True)))
    experiment = replace(RESNET, model=ModelConfig(name="toy"))
    expected = losses(experiment, **MODES["jit1"])
    for mode in ("jit4", "pmap4"):
        np.testing.assert_allclose(losses(experiment, **MODES[mode]), expected, rtol=1e-5, err_msg=mode)


@pytest.mark.slow
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_resnet20(monkeypatch, accumulation_steps):
    monkeypatch.setattr(nn, "relu", nn.softplus)
    experiment = replace(RESNET, train=replace(RESNET.train, accumulation_steps=accumulation_steps))
    expected = losses(experiment, **MODES["jit1"])
    for mode in ("jit4", "pmap4", "pmap1"):
        np.testing.assert_allclose(losses(experiment, **MODES[mode]), expected, rtol=1e-5, err_msg=mode)


def test_batches_are_the_same_bits_on_every_number_of_devices():
    def made(**train):
        found = trainer(RESNET, **train)
        make = jax.jit(found.inputs.batch, out_shardings=found.parallel.sharded)
        return host(make(found.stream.at(50)))

    assert_same_bits(made(devices=8), made(devices=1))


TASK, SGD = Classification(), optax.sgd(0.5)
pytestmark = pytest.mark.usefixtures("compiled_as_for_users")  # losses are compared with other processes
several_ways = pytest.mark.parametrize("mode", ["jit", "pmap"])


def one_step(parallel, model, data, tx=SGD, **options):
    """Return state and sums after one compiled step."""
    step = make_train_step(model, tx, TASK, axis_name=parallel.axis_name, **options)
    return parallel.compile_train(step, lambda batch: batch)(parallel.place(start(model, tx)), data)


@pytest.mark.parametrize("mode", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_without_synchronisation_each_device_normalises_its_own_part(mode, accumulation_steps):
    model, data, parallel = Toy(norm=True), batch(16), Parallel(16, mode, 4)
    options = {"accumulation_steps": accumulation_steps}
    state, sums = one_step(parallel, model, data, sync_batch_norm=False, **options)

    before = start(model, SGD)
    parts = jax.tree.map(lambda x: x.reshape(4, 4 // accumulation_steps, -1, *x.shape[1:]).swapaxes(1, 2), data)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss_of(params):
        """Map over one device's rows after the other, each part normalised by itself."""

        def one(rows):
            stats, losses = before.batch_stats, []
            for number in range(accumulation_steps):
                part = jax.tree.map(lambda x, number=number: x[number], rows)
                variables = {"params": params, "batch_stats": stats}
                logits, updated = model.apply(variables, part["image"], train=True, mutable=["batch_stats"])
                stats, losses = updated["batch_stats"], [*losses, TASK.losses(logits, part).sum()]
            return sum(losses), stats

        found, stats = jax.lax.map(one, parts)
        return found.sum() / 16, stats

    (loss, stats), grads = loss_of(before.params)
    assert_close(state.params, jax.tree.map(lambda p, g: p - 0.5 * g, before.params, grads))
    np.testing.assert_allclose(sums["loss"], 16 * loss, rtol=1e-5)
    assert sums["count"] == 16
    assert_close(state.batch_stats, jax.tree.map(lambda x: x.mean(0), stats))

    whole, _ = one_step(Parallel(16, devices=1), model, data, **options)
    synchronised, _ = one_step(parallel, model, data, **options)
    assert_close(synchronised, whole)
    far = jax.tree.map(lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(), state.params, whole.params)
    assert max(jax.tree.leaves(far)) > 1e-3


@pytest.mark.parametrize("sync_batch_norm", [True, False])
def test_jit_and_pmap_are_one_program(sync_batch_norm):
    found = []
    for mode in ("jit", "pmap"):
        parallel, model = Parallel(16, mode, 4), Toy(norm=True, dropout=0.5)
        found.append(one_step(parallel, model, batch(16), sync_batch_norm=sync_batch_norm))
    assert_same_bits(*found)


def test_an_experiment_without_synchronisation_trains_alike_either_way(monkeypatch):
    monkeypatch.setitem(MODELS, "toy", replace(MODELS["resnet20"], factory=partial(Toy, norm=True)))
    experiment = replace(RESNET, model=ModelConfig(name="toy"))
    jit, pmap, whole = (losses(experiment, sync_batch_norm=False, **MODES[mode]) for mode in ("jit4", "pmap4", "jit1"))
    np.testing.assert_array_equal(jit, pmap)
    assert np.abs(jit - whole).max() > 1e-3  # it is not passed over


class Dropping(Toy):
    """Drops units within the maps, whole branches of examples, and units of the features."""

    @nn.compact
    def __call__(self, x, train=False):
        x = Dropout(0.5, deterministic=not train)(x)
        x = x + StochasticDepth(0.5, deterministic=not train)(jnp.tanh(x))
        return super().__call__(x, train)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_dropout_is_the_same_on_every_number_of_devices(accumulation_steps):
    data, model = batch(16), Dropping(dropout=0.5)

    def after(parallel):
        return one_step(parallel, model, data, accumulation_steps=accumulation_steps)

    whole = after(Parallel(16, devices=1))
    for mode in ("jit", "pmap"):
        assert_close(after(Parallel(16, mode, 4)), whole)


def test_masks_of_rows_are_rows_of_the_mask():
    @jax.jit
    @partial(jax.shard_map, mesh=Parallel(16).mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    def rows(x):
        with mapped_over("data"):
            return dropped(x)

    def dropped(x):
        return Dropout(0.5, deterministic=False).apply({}, x, rngs={"dropout": jax.random.key(0)})

    ones = np.ones((16, 3, 5), np.float32)
    found = rows(ones)
    assert_same_bits(found, dropped(ones))
    assert len({row.tobytes() for row in np.asarray(found)}) == 16


@several_ways
@pytest.mark.parametrize("devices", [1, 2])
def test_the_state_is_donated_and_nothing_else(mode, devices):
    parallel, model = Parallel(4, mode, devices), Toy()
    step = make_train_step(model, SGD, TASK, axis_name=parallel.axis_name)
    run = parallel.compile_train(step, lambda batch: batch)
    state = parallel.place(start(model, SGD))
    data = jax.device_put(batch(4), parallel.sharded)
    run(state, data)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(data))


class Failing:
    """Stands for a step that is traced and cannot be compiled."""

    def lower(self, *like):
        return self

    def compile(self):
        raise RunError("cannot be compiled")


def test_what_cannot_be_compiled_meanwhile_is_raised_to_who_waits():
    wait = Parallel(1, devices=1).compile_meanwhile(Failing())
    with pytest.raises(RunError, match="cannot be compiled"):
        wait()


@several_ways
@pytest.mark.parametrize("devices", [1, 4])
def test_state_and_sums_have_one_shape_and_are_whole_on_every_device(mode, devices):
    parallel, heavy = Parallel(8, mode, devices), optax.sgd(0.1, momentum=0.9)
    found = one_step(parallel, Toy(norm=True), batch(8), heavy)
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding == parallel.replicated
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (found[0], start(Toy(norm=True), heavy))]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((30, 4), "batch size 30 does not divide over 4 devices: the nearest that does is 28"),
        ((31, 4), "batch size 31 does not divide over 4 devices: the nearest that does is 32"),
        ((3, 8), "batch size 3 does not divide over 8 devices: the nearest that does is 8"),
        ((100, None), "batch size 100 does not divide over 8 devices: the nearest that does is 96"),
        ((32, 9), "train.devices is 9: expected 1 to 8, the devices found"),
        ((32, 0), "train.devices is 0: expected 1 to 8, the devices found"),
    ],
)
def test_refusals(arguments, message):
    for mode in ("jit", "pmap"):
        with pytest.raises(UsageError) as error:
            Parallel(arguments[0], mode, arguments[1])
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([0, 0], None),
        ([0, -1], RunError("another process failed: see its message")),
        ([0, 15], Stopped(15)),
        ([15, -1], RunError("another process failed: see its message")),
    ],
)
def test_what_ends_one_process_ends_all(monkeypatch, others, expected):
    sent = []

    def gather(code):
        sent.append(int(code[0]))
        return np.array([*sent[-1:], *others])

    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr("jax.experimental.multihost_utils.process_allgather", gather)
    with pytest.raises(type(expected), match=str(expected)) if expected else nullcontext(), together():
        pass
    for own in (Stopped(2), ValueError("mine")):
        with pytest.raises(type(own), match=str(own)), together():
            raise own
    assert sent == [0, 2, -1]


FILE = """\
from jaxcnn import *

EXPERIMENT = {experiment!r}
"""


def cluster(folder, experiment, *flags, processes=2):
    """Start `jaxcnn train --distributed` in processes of two devices each and return them."""
    file = folder / f"{experiment.name}.py"
    file.write_text(FILE.format(experiment=experiment))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(processes),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    command = [str(Path(sys.executable).parent / "jaxcnn"), "train", str(file), "--distributed", "--quiet"]
    return [
        subprocess.Popen(
            [*command, "--runs-dir", str(folder / "runs"), *flags],
            env={**os.environ, **common, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(processes)
    ]


def finish(processes, timeout=300):
    """Return the exit codes and what was said, killing what does not end."""
    try:
        said = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "\n".join(said)


def logged_losses(folder):
    (path,) = folder.glob("runs/*/*/metrics.jsonl")
    return [row["train/loss"] for row in read_metrics(path) if "train/loss" in row]


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_two_processes(tmp_path, mode):
    codes, said = finish(cluster(tmp_path, LENET, "--train.parallel", mode))
    assert codes == [0, 0], said
    found = logged_losses(tmp_path)
    assert len(found) == STEPS
    np.testing.assert_allclose(found, lenet_losses("jit1"), rtol=1e-5)
    assert said.count("run folder") == 1  # the first process alone reports


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_two_processes_with_batch_norm(tmp_path, monkeypatch, mode):
    # A learning rate so small that what a ReLU's kink makes of rounding stays far below the tolerance.
    train = replace(RESNET.train, parallel=mode, recompute_batch_stats=True, accumulation_steps=2)
    gentle = replace(RESNET, train=train, optim=Momentum(learning_rate=1e-5))
    codes, said = finish(cluster(tmp_path, gentle))
    assert codes == [0, 0], said
    np.testing.assert_allclose(logged_losses(tmp_path), losses(gentle, parallel="jit", devices=1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("mode", ["jit", "pmap"])
@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_one_process_stops_both_and_they_resume(tmp_path, mode, signalled):
    experiment = replace(LENET, train=replace(LENET.train, steps=120, parallel=mode))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    codes, said = finish(cluster(whole, experiment))
    assert codes == [0, 0], said

    processes = cluster(stopped, experiment)
    while not any(len(path.read_text().splitlines()) > 30 for path in stopped.glob("runs/*/*/metrics.jsonl")):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    processes[signalled].send_signal(signal.SIGTERM)
    codes, said = finish(processes)
    assert codes == [143, 143], said
    (folder,) = stopped.glob("runs/*/*")
    assert "go on with" in said
    (step,) = {int(number) for number in re.findall(r"stopped after step (\d+);", said)}
    assert 30 <= step < 120
    assert (folder / "checkpoints" / f"{step:08d}").is_dir()

    codes, said = finish(cluster(stopped, experiment, "--resume", str(folder)))
    assert codes == [0, 0], said
    (expected,) = whole.glob("runs/*/*")
    for name in ("metrics.jsonl", "predictions.npz"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes()
    digests = [json.loads((path / "result.json").read_text())["params_sha256"] for path in (folder, expected)]
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.e2e
def test_what_is_refused_to_one_process_ends_both(tmp_path):
    folder = tmp_path / "runs" / LENET.name / fingerprint(LENET)
    with RunFolder(folder).locked():
        codes, said = finish(cluster(tmp_path, LENET), timeout=60)
    assert codes == [2, 1], said
    assert "is in use by another process" in said and "another process failed: see its message" in said
    folder.mkdir(parents=True)
    (folder / "data.json").write_text(json.dumps({"sha256": {"train": ""}}))
    codes, said = finish(cluster(tmp_path, LENET), timeout=60)
    assert codes == [2, 2], said
