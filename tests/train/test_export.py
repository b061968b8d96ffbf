"""The programs lower for accelerators that this machine need not have."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from toys import Toy, batch, start, state_like

from jaxcnn.models import create
from jaxcnn.tasks import Classification
from jaxcnn.train.optim import make_optimizer
from jaxcnn.train.optimizers import Momentum
from jaxcnn.train.parallel import Parallel
from jaxcnn.train.schedules import Constant, CosineDecay
from jaxcnn.train.step import make_train_step

PLATFORMS = ("cuda", "tpu")
CONFIG = Momentum(learning_rate=0.1, weight_decay=1e-4)


@pytest.mark.parametrize(("dtype", "element"), [("float32", "f32"), ("bfloat16", "bf16")])
def test_the_training_step_of_resnet50(dtype, element):
    model, key = create("resnet50", dtype=dtype), jax.random.key(0)
    images = jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(model.init, key, images)["params"]
    tx = make_optimizer(CONFIG, CosineDecay(warmup_steps=5), 100, params)
    state = state_like(model, tx, images)
    data = {
        "image": images,
        "label": jax.ShapeDtypeStruct((8,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((8,), bool),
    }
    step = jax.jit(make_train_step(model, tx, Classification(label_smoothing=0.1)), donate_argnums=0)
    exported = jax.export.export(step, platforms=PLATFORMS)(state, data)
    assert exported.platforms == PLATFORMS
    text = exported.mlir_module()
    # Forward, gradient by kernel, gradient by input (not for the images), for each of 53 convolutions.
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) % (3 * 53 - 1) == 0
    assert convolutions
    assert all(f"x{element}>" in line.split("->")[-1] for line in convolutions)
    returned = [(x.shape, x.dtype) for x in exported.out_avals[: len(jax.tree.leaves(state))]]
    assert returned == [(x.shape, x.dtype) for x in jax.tree.leaves(state)]


def test_the_program_over_a_mesh():
    parallel = Parallel(8, devices=4)
    model = Toy(norm=True)
    params = start(model, make_optimizer(Momentum(), Constant(), 10, {})).params
    tx = make_optimizer(CONFIG, Constant(), 10, params)
    state = parallel.place(start(model, tx))
    step = make_train_step(model, tx, Classification(), axis_name=parallel.axis_name)
    run = parallel.compile_train(step, lambda batch: batch)
    plain = jax.jit(lambda state, batch: run(state, batch))  # JAX exports no program with compiler options
    exported = jax.export.export(plain, platforms=PLATFORMS)(state, batch(8))
    assert (exported.platforms, exported.nr_devices) == (PLATFORMS, 4)
    assert '"data"' in exported.mlir_module()  # the batch is sharded over the mesh's axis
    here = jax.export.export(plain)(state, batch(8))
    found = jax.jit(here.call)(state, batch(8))
    _, sums = run(state, batch(8))
    np.testing.assert_allclose(found[1]["loss"], sums["loss"], rtol=1e-6)
