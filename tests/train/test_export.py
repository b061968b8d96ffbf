"""The programs lower for accelerators that this machine need not have, and nothing in them is without an order."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from programs import unordered_of
from toys import Toy, batch, start, state_like

import jaxcnn
from jaxcnn import DataConfig, Experiment, ModelConfig, TrainConfig, weights
from jaxcnn.data.augment import Augmentation, augment
from jaxcnn.data.fields import Image, Label
from jaxcnn.data.norms import normalize, unit_of
from jaxcnn.layers.cpu.max_pooling import Windows, xla_max
from jaxcnn.models import FAMILIES, MODELS, apply, create, init
from jaxcnn.runs.export import export
from jaxcnn.tasks import Classification
from jaxcnn.train.optim import make_optimizer
from jaxcnn.train.optimizers import Momentum
from jaxcnn.train.parallel import Parallel
from jaxcnn.train.schedules import Constant, CosineDecay
from jaxcnn.train.step import make_train_step
from jaxcnn.typed import variants

PLATFORMS = ("cuda", "tpu")
NPZ = ("images", "labels")
CONFIG = Momentum(learning_rate=0.1, weight_decay=1e-4)


def training_step(name, dtype="float32"):
    """The training step of a model as it was published, and the shapes of its arguments."""
    model, key = create(name, dtype=dtype), jax.random.key(0)
    images = jax.ShapeDtypeStruct((8, *MODELS[name].input_shape), jnp.float32)
    params = jax.eval_shape(model.init, key, images)["params"]
    tx = make_optimizer(CONFIG, CosineDecay(warmup_steps=5), 100, params)
    state = state_like(model, tx, images)
    data = {
        "image": images,
        "label": jax.ShapeDtypeStruct((8,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((8,), bool),
    }
    return jax.jit(make_train_step(model, tx, Classification()), donate_argnums=0), state, data


def test_the_training_step_of_resnet50_in_bfloat16():
    step, state, data = training_step("resnet50", "bfloat16")
    exported = jax.export.export(step, platforms=PLATFORMS)(state, data)
    assert exported.platforms == PLATFORMS
    text = exported.mlir_module()
    # Forward, and backward by input (not for the first) and by kernel, for each of 53 convolutions.
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) % (3 * 53 - 1) == 0
    assert convolutions
    assert all("xbf16>" in line.split("->")[-1] for line in convolutions)
    returned = [(x.shape, x.dtype) for x in exported.out_avals[: len(jax.tree.leaves(state))]]
    assert returned == [(x.shape, x.dtype) for x in jax.tree.leaves(state)]


def on_cuda(jitted, *like):
    return jitted.trace(*like).lower(lowering_platforms=("cuda",)).as_text()


FOUR = ("resnet20", "resnet50", "alexnet", "googlenet")
DENSE = [name for family in ("fcn", "fcn_resnet", "deeplabv3", "unet") for name in FAMILIES[family]]
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name not in (*FOUR, *DENSE)]


@pytest.mark.parametrize("name", [*FOUR, *OTHERS])
def test_no_training_step_adds_floats_in_any_order(name):
    """So that it can give the same bits twice on a GPU, whatever the order of its threads."""
    text = on_cuda(*training_step(name))
    assert "stablehlo.convolution" in text and unordered_of(text) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE)
def test_no_gradient_of_a_dense_network_adds_floats_in_any_order(name):
    model, images = create(name), jax.ShapeDtypeStruct((2, *MODELS[name].input_shape), jnp.float32)
    variables = jax.eval_shape(lambda key: init(model, key, images), jax.random.key(0))

    def loss(params, variables, images):
        outputs, _ = apply(model, {**variables, "params": params}, images, train=True, key=jax.random.key(0))
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(outputs))

    text = on_cuda(jax.jit(jax.grad(loss)), variables["params"], variables, images)
    assert "stablehlo.convolution" in text and unordered_of(text) == []


def test_no_transform_adds_floats_in_any_order():
    transforms = tuple(kind() for kind in variants(Augmentation).values())
    fields = {"image": Image(), "label": Label(class_names=("a", "b", "c"))}
    data = {
        "image": jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((4,), bool),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    text = on_cuda(jax.jit(lambda key, batch: augment(transforms, key, batch, fields)), key, data)
    assert '"stablehlo.scatter"' in text and unordered_of(text) == []  # histograms, of whole numbers


def test_what_adds_floats_in_any_order_is_found():
    x, places = jnp.zeros((1, 7, 7, 1)), jnp.zeros(4, jnp.int32)
    pooled = jax.grad(lambda x: xla_max(x, Windows((3, 3), (2, 2), ((0, 0), (0, 0)))).sum())
    assert unordered_of(on_cuda(jax.jit(pooled), x)) == ["select_and_scatter tensor<1x7x7x1xf32>"]
    added = lambda at, **kwargs: jax.jit(lambda x, at: x.at[at].add(1, **kwargs))  # noqa: E731
    flat, whole = jnp.zeros(9), jnp.zeros(9, jnp.int32)
    assert unordered_of(on_cuda(added(places), flat, places)) == ["scatter tensor<9xf32>"]
    assert unordered_of(on_cuda(added(places, unique_indices=True), flat, places)) == []
    assert unordered_of(on_cuda(added(places), whole, places)) == []


def test_images_that_are_no_files_are_exported_too(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 8, 8, 2), np.uint8), np.arange(8) % 2
    np.savez(
        tmp_path / "a.npz",
        **{f"{s}_{n}": v for s in ("train", "test") for n, v in zip(NPZ, (images, labels), strict=True)},
    )
    experiment = Experiment(
        name="channels",
        model=ModelConfig(name="resnet20", options={"depths": (1,), "width": 2}),
        data=DataConfig(source="npz", path=tmp_path / "a.npz"),
        optim=Momentum(learning_rate=0.01),
        train=TrainConfig(batch_size=8, steps=1, devices=1),
    )
    run = jaxcnn.run(experiment, tmp_path, progress=False)
    file, module = export(run.path, tmp_path / "export")
    model, variables = weights.load("jaxcnn", file)
    assert variables.preprocessing is None
    norms = run.description.norms
    logits = model.apply(variables, normalize(images, *norms, unit_of(images)))
    found = jax.export.deserialize(bytearray(module.read_bytes())).call(images)
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)


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
