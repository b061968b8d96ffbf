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

import jax, numpy as np
import jaxcnn, jaxcnn.layers, jaxcnn.models
from jaxcnn import Adam, DataConfig, Experiment, Flip, ModelConfig, PadCrop, TrainConfig, create
from jaxcnn.data import eval_batch, eval_batches, load, training_batch, training_batches
from jaxcnn.errors import UsageError
from jaxcnn.tasks import Classification
from jaxcnn.train import create_state, evaluate, make_eval_step, make_optimizer, make_train_step

rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (40, 28, 28, 1)).astype(np.uint8), (np.arange(40) % 10).astype(np.int32)
splits = {"train": {"image": images, "label": labels}, "test": {"image": images, "label": labels}}
data = load(DataConfig(augment=(PadCrop(pad=2), Flip())), source=splits)
model, task, key = create("lenet5"), Classification(), jax.random.key(0)
step, state, losses = None, None, []
for number, batch in enumerate(training_batches(data, key, batch_size=8, steps=3)):
    batch = training_batch(batch, jax.random.fold_in(key, number), data.norms, data.augment, data.fields)
    if step is None:
        variables = task.init(model, key, batch)
        tx = make_optimizer(Adam(learning_rate=1e-3), jaxcnn.Constant(), 3, variables["params"])
        state, step = create_state(variables, tx, key), jaxcnn.jit(make_train_step(model, tx, task))
    state, sums = step(state, batch)
    losses.append(float(sums["loss"]))
assert np.isfinite(losses).all() and int(state.step) == 3
score = jax.jit(lambda variables, batch: make_eval_step(model, task)(variables, eval_batch(batch, data.norms)))
found = evaluate(lambda batch: score(state.variables, batch), eval_batches(data.test, 16), task, data.test)
assert len(found.collected["labels"]) == 40 and np.isfinite(found.metrics["loss"])
experiment = Experiment(name="x", model=ModelConfig(name="lenet5"), data=DataConfig(source="npz"), optim=Adam(),
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
missing(lambda: figures.curves([{"step": 1, "train/loss": 1.0}]), "report")
print("good")
"""


def test_it_runs_without_the_others():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300)
    assert done.stdout == "good\n", done.stderr[-3000:]
