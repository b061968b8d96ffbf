# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A loop of one's own
#
# `jaxcnn.run` and `Trainer` are one way to train. Under them are pure functions, which `jax.jit` puts together: a model,
# an optimiser, a task and a data set. Here each is first one of the package's, then one of our own.

# %%
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcnn
from jaxcnn.data import DataConfig, eval_batch, eval_batches, load, training_batch, training_batches
from jaxcnn.train import create_state, evaluate, make_eval_step, make_train_step

# %% [markdown]
# ## All parts of the package's
#
# The handwritten digits that come with scikit-learn, LeNet-5, cross-entropy, Adam.


# %%
def train(model, task, tx, data, steps, seed=0):
    """Train, print the loss now and then, and return what the test split's scores are."""
    key = jax.random.key(seed)
    prepare = jax.jit(lambda batch, key: training_batch(batch, key, data.norms, data.augment, data.fields))
    score = jax.jit(lambda variables, batch: make_eval_step(model, task)(variables, eval_batch(batch, data.norms)))
    step = jax.jit(make_train_step(model, tx, task), donate_argnums=0)
    state = None
    for number, batch in enumerate(training_batches(data, key, batch_size=64, steps=steps)):
        batch = prepare(batch, jax.random.fold_in(key, number))
        if state is None:
            state = create_state(task.init(model, key, batch), tx, key)
        state, sums = step(state, batch)
        if (number + 1) % 50 == 0:
            print(f"step {number + 1}  loss {float(sums['loss'] / sums['count']):.3f}")
    found = evaluate(lambda batch: score(state.variables, batch), eval_batches(data.test, 100), task, data.test)
    return state, found.metrics


digits = load(DataConfig(source="digits", image_size=28, augment=(jaxcnn.PadCrop(pad=2),)))
model = jaxcnn.create("lenet5", num_classes=10)
state, metrics = train(model, jaxcnn.Classification(), optax.adam(2e-3), digits, steps=200)
metrics

# %% [markdown]
# ## A network, a loss and an optimiser of one's own
#
# Any Linen module is a model. A loss of one's own is a task with another `losses`. Any Optax transformation will do.


# %%
class Small(nn.Module):
    """Two convolutions, global pooling."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(32, (3, 3), strides=2)(x))
        x = nn.relu(nn.Conv(64, (3, 3), strides=2)(x))
        return nn.Dense(10)(x.max((1, 2)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Focal(jaxcnn.Classification):
    """The focal loss of Lin et al. 2017: less for what is right already."""

    gamma: float = 2.0

    def losses(self, outputs, batch):
        log_p = jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["label"][:, None], axis=1)[:, 0]
        return jnp.where(batch["mask"], -((1 - jnp.exp(log_p)) ** self.gamma) * log_p, 0.0)


tx = optax.chain(optax.clip_by_global_norm(1.0), optax.lion(5e-4))
state, metrics = train(Small(), Focal(), tx, digits, steps=200)
metrics

# %% [markdown]
# ## Data of one's own
#
# Arrays by field name. What a field is, is told by its type: 8-bit images, whole numbers as labels.

# %%
rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 600)
images = rng.integers(0, 120, (600, 16, 16, 1))
images[labels != 1, :, :8] += 100
images[labels != 0, :, 8:] += 100
arrays = {"image": images.astype(np.uint8), "label": labels.astype(np.int32)}
mine = load(
    DataConfig(augment=(jaxcnn.PadCrop(pad=1),)),
    source={
        "train": {name: array[:500] for name, array in arrays.items()},
        "test": {name: array[500:] for name, array in arrays.items()},
    },
)
state, metrics = train(Small(), jaxcnn.Classification(), optax.adam(5e-3), mine, steps=100)
metrics

# %% [markdown]
# ## The step, too
#
# `make_train_step` is 20 lines without what can be asked of it. The task's losses are summed and divided once.


# %%
@jax.jit
def own_step(state, batch, key):
    """Return the state after one step of plain gradient descent, and the loss."""

    def loss_of(params):
        outputs, _ = task.forward(model, {"params": params}, batch, key, True)
        return task.losses(outputs, batch).sum() / task.count(batch).astype(jnp.float32)

    loss, grads = jax.value_and_grad(loss_of)(state)
    return jax.tree.map(lambda p, g: p - 0.1 * g, state, grads), loss


model, task = Small(), jaxcnn.Classification()
key = jax.random.key(0)
params, losses = None, []
for batch in training_batches(mine, key, batch_size=50, steps=100):
    batch = eval_batch(batch, mine.norms)
    params = task.init(model, key, batch)["params"] if params is None else params
    params, loss = own_step(params, batch, key)
    losses.append(float(loss))
print(f"{losses[0]:.3f} -> {losses[-1]:.3f}")
