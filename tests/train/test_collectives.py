"""What crosses devices in a training step, read from the compiled program: gradients once, BatchNorm's statistics."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxcnn import (DataConfig, Experiment, Flip, ModelConfig, Momentum, PadCrop, TrainConfig)
from jaxcnn.models import MODELS
from jaxcnn.models.resnet import resnet_tiny
from jaxcnn.runs.session import Session
from jaxcnn.stop import StopFlag
from jaxcnn.train.compiled import Collective, collectives_of
from jaxcnn.train.parallel import Jit
from jaxcnn.train.reduction import sum_over

LENET = Experiment(
    name="x",
    model=ModelConfig(name="lenet5"),
    data=DataConfig(source="digits", image_size=32, augment=(PadCrop(pad=2), Flip())),
    optim=Momentum(learning_rate=0.1, clip_norm=1.0),
    train=TrainConfig(batch_size=16, steps=1, ema_decay=0.9),
)
RESNET50 = replace(LENET, model=ModelConfig(name="resnet50"))
# With the gradients travel the mean loss, its sum, and three counts, each as four floats.
BESIDE = 4 * (1 + 1 + 3 * 4)


def in_a_step(experiment, **train):
    """Return the collectives of a training step on eight devices, and the session."""
    session = Session(replace(experiment, train=replace(experiment.train, **train)), StopFlag())
    assert session.parallel.mesh.size == 8
    state = session.abstract_state(session.parallel.replicated)
    lowered = session.train_step.lower(state, session.parallel.window({}), session.arguments(0))
    return collectives_of(lowered.compile().as_text()), state


def total_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def check(found, state, batches=1):
    """Check that gradients cross once; and for each of so many batches BatchNorm's statistics, back and forth."""
    assert {collective.kind for collective in found} == {"all-reduce"}
    gradients = total_bytes(state.params) + BESIDE
    assert [collective.bytes for collective in found].count(gradients) == 1
    # Of each channel mean and mean of squares, as the state holds mean and variance; in the backward pass as much.
    norms = len(jax.tree.leaves(state.batch_stats)) // 2
    assert sum(collective.bytes for collective in found) == gradients + 2 * batches * total_bytes(state.batch_stats)
    assert len(found) <= 1 + 2 * batches * norms  # XLA puts some of those together that do not wait for each other


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", replace(MODELS["resnet50"], factory=resnet_tiny))
    return replace(LENET, model=ModelConfig(name="tiny"))


def test_without_batch_norm_there_is_one():
    found, state = in_a_step(LENET)
    assert found == [Collective("all-reduce", total_bytes(state.params) + BESIDE)]


@pytest.mark.parametrize(
    ("accumulation_steps", "remat"), [(1, False), *(pytest.param(n, True, marks=pytest.mark.slow) for n in (1, 2))]
)
def test_with_batch_norm(tiny, accumulation_steps, remat):
    found, state = in_a_step(tiny, accumulation_steps=accumulation_steps, remat=remat)
    assert state.batch_stats
    check(found, state, batches=accumulation_steps)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_resnet50(remat):
    found, state = in_a_step(RESNET50, remat=remat)
    assert total_bytes(state.batch_stats) == 4 * 53_120
    check(found, state)


@pytest.mark.parametrize("mapped", ["shard_map", "pmap"])
def test_a_sum_of_many_leaves_is_one_collective_and_exact(mapped):
    rng = np.random.default_rng(0)
    tree = {
        "a": rng.normal(size=(8, 3, 2)).astype(np.float32),
        "b": rng.integers(-(2**27), 2**27, (8, 5)).astype(np.int32),  # float32 holds integers up to 2**24
        "c": rng.normal(size=(8,)).astype(np.float32),
        "d": np.full(8, -1, np.int32),
    }
    add = partial(sum_over, "data")
    if mapped == "pmap":
        program = jax.pmap(add, axis_name="data")
    else:
        mesh, rows = Jit(jax.devices()).mesh, PartitionSpec("data")

        @jax.jit
        @partial(jax.shard_map, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
        def program(tree):
            sums = add(jax.tree.map(lambda x: x[0], tree))
            return jax.tree.map(lambda x: x[None], sums)

    found = program(tree)
    for name, values in tree.items():
        expected = np.broadcast_to(values.sum(0, dtype=values.dtype), values.shape)
        assert found[name].dtype == values.dtype
        np.testing.assert_allclose(found[name], expected, rtol=1e-6 if name in "ac" else 0)
    floats = 6 + 4 * 5 + 1 + 4
    assert collectives_of(program.lower(tree).compile().as_text()) == [Collective("all-reduce", 4 * floats)]


HLO = """
  %psum.1 = f32[2,16]{1,0} all-reduce(%fusion), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  ROOT %all-reduce.2 = (f32[3]{0}, (s32[], bf16[2,2]{1,0})) all-reduce(%a, %b), channel_id=2
  %start = f32[7]{0} all-reduce-start(%c), channel_id=3
  %done = f32[7]{0} all-reduce-done(%start)
  %part = f32[3]{0} get-tuple-element(%all-reduce.2), index=0
  all-gather.3 = pred[4,2]{0,1:T(8,128)} all-gather(pred[1,2] %d), dimensions={0}
  %f8 = f8e4m3fn[5]{0} collective-permute(%e), source_target_pairs={{0,1}}
  %none = f32[0]{0} reduce-scatter(%e), metadata={op_name="jit(f)/all-to-all(x)"}
  %call = f64[3]{0} fusion(%all-gather.3), kind=kLoop, calls=%fused
"""


def test_reading_the_text_of_a_program():
    assert collectives_of(HLO) == [
        Collective("all-reduce", 4 * 2 * 16),
        Collective("all-reduce", 4 * 3 + 4 + 2 * 4),
        Collective("all-reduce", 4 * 7),
        Collective("all-gather", 8),
        Collective("collective-permute", 5),
        Collective("reduce-scatter", 0),
    ]


def test_what_xla_partitions_by_itself_is_seen():
    parallel, x = Jit(jax.devices()), jax.ShapeDtypeStruct((8, 4), jnp.float32)
    gather = jax.jit(lambda x: x, in_shardings=parallel.sharded, out_shardings=parallel.replicated).lower(x).compile()
    assert collectives_of(gather.as_text()) == [Collective("all-gather", 4 * 8 * 4)]
