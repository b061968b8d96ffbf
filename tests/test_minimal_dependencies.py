"""Layers, models, the training step and data in memory need jax, flax, optax, numpy and jaxtyping, and nothing else."""

import subprocess
import sys

CODE = r"""
import builtins, sys

# Nothing else may ask for these, so they are hidden from all. Others belong to flax, so only jaxcnn may not ask.
HIDDEN = {"pandas", "orbax", "tensorflow_datasets", "grain", "PIL", "sklearn", "matplotlib", "tensorboardX",
          "scipy"}
ALLOWED = {"jax", "flax", "optax", "numpy", "jaxtyping", "jaxcnn"} | set(sys.stdlib_module_names)
real_import = builtins.__import__


def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.startswith("jaxcnn") and level == 0 and name.split(".")[0] not in ALLOWED:
        raise ModuleNotFoundError(f"No module named {name!r}, which {importer} asks for", name=name)
    return real_import(name, globals, locals, fromlist, level)


sys.modules.update(dict.fromkeys(HIDDEN))  # None: not to be found
builtins.__import__ = guarded

import jax, jax.numpy as jnp, numpy as np
import jaxcnn, jaxcnn.layers, jaxcnn.models
from jaxcnn import (
    DataConfig, Experiment, Flip, ModelConfig, OptimConfig, PadCrop, ScheduleConfig, TrainConfig, create
)
from jaxcnn.data import Split, load, normalisation
from jaxcnn.data import eval_batches
from jaxcnn.data.order import Order
from jaxcnn.data.prepared import Norms, eval_batch, training_batch
from jaxcnn.data.resident import Arrays, Stream, gather
from jaxcnn.errors import UsageError
from jaxcnn.tasks import Classification
from jaxcnn.train.optim import make_optimizer
from jaxcnn.train.state import create_state
from jaxcnn.train.step import make_eval_step, make_train_step

rng = np.random.default_rng(0)
train = Split(rng.integers(0, 256, (40, 28, 28, 1)).astype(np.uint8), (np.arange(40) % 10).astype(np.int32))
config = DataConfig(source="npz", augment=(PadCrop(pad=2), Flip()))
model, task, key = create("lenet5"), Classification(), jax.random.key(0)
images = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
params = jax.eval_shape(model.init, key, images)["params"]
tx = make_optimizer(OptimConfig(name="adam", learning_rate=1e-3), ScheduleConfig(), 10, params)
state = create_state(model, tx, key, images)
norms = Norms(*normalisation(config, train))
arrays, stream = Arrays.of(train), Stream(Order(key, len(train), 8))
step = jax.jit(make_train_step(model, tx, task))
losses = []
for number in range(3):
    batch = training_batch(gather(arrays, *stream.at(number), 8), jax.random.fold_in(key, number), norms, config, 10)
    state, sums = step(state, batch)
    losses.append(float(sums["loss"]))
assert np.isfinite(losses).all() and int(state.step) == 3
evaluate = jax.jit(make_eval_step(model, task))
counts = [evaluate(state.variables, eval_batch(**batch, norms=norms))[0]["count"] for batch in eval_batches(train, 16)]
assert sum(map(int, counts)) == 40
experiment = Experiment(name="x", model=ModelConfig(name="lenet5"), data=config, optim=OptimConfig(),
                        train=TrainConfig(batch_size=8, steps=1))
assert experiment.train.steps == 1


def missing(call, extra):
    try:
        call()
    except UsageError as error:
        assert f"pip install 'jaxcnn[{extra}]'" in str(error), error
    else:
        raise AssertionError(f"nothing said that {extra} is missing")


# What is an extra says which one it is.
from jaxcnn.report import figures
missing(lambda: load(DataConfig(source="digits")), "digits")
rows = [{"step": 1, "train/loss": 1.0}]
missing(lambda: figures.write_figures(
    __import__("pathlib").Path("."), rows, train.images.__getitem__, np.eye(10, dtype=np.float32)[train.labels],
    train.labels, tuple("0123456789")), "report")
print("good")
"""


def test_it_runs_without_the_others():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300)
    assert done.stdout == "good\n", done.stderr[-3000:]
