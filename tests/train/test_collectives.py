"""What crosses devices in a training step, read from the compiled program: gradients once, BatchNorm's statistics."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from programs import Collective, collectives_of

from jaxcnn import DataConfig, Experiment, Flip, ModelConfig, Momentum, PadCrop, TrainConfig
from jaxcnn.models import MODELS
from jaxcnn.models.resnet import resnet_tiny
from jaxcnn.runs import Trainer
from jaxcnn.train.parallel import Parallel

LENET = Experiment(
    name="x",
    model=ModelConfig(name="lenet5"),
    data=DataConfig(source="digits", image_size=32, augment=(PadCrop(pad=2), Flip())),
    optim=Momentum(learning_rate=0.1, clip_norm=1.0),
    train=TrainConfig(batch_size=16, steps=1, ema_decay=0.9),
)
RESNET50 = replace(LENET, model=ModelConfig(name="resnet50"))
# With the gradients travel two sums of losses, that which is differentiated and the task's own.
LOSSES = 4 * 2
# Whole numbers go by themselves, since a collective is of one type: correct, correct_top5, what divides, and the task's
# count, which is the same and may go as one.
COUNTS = (4 * 3, 4 * 4)


def in_a_step(experiment, **train):
    """Return the collectives of a training step on eight devices, and the shapes of the state."""
    trainer = Trainer.from_experiment(replace(experiment, train=replace(experiment.train, **train)))
    assert len(trainer.parallel.devices) == 8
    state = trainer.abstract_state()
    lowered = trainer.train_step.lower(state, trainer.stream.like(0))
    return collectives_of(lowered.compile().as_text()), state


def total_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def check(found, state, *, crossing, most):
    """Check that gradients and sums cross once, nearly all in one collective, and beside them so many bytes."""
    assert {collective.kind for collective in found} == {"all-reduce"}
    sizes = sorted(collective.bytes for collective in found)
    assert sizes.pop(0) in COUNTS
    gradients = total_bytes(state.params) + LOSSES
    # XLA sends equal arrays once, such as the gradients of two BatchNorms whose outputs are added.
    assert 0.97 * (gradients + crossing) <= sum(sizes) <= gradients + crossing
    assert sizes[-1] > 0.97 * gradients
    assert len(sizes) <= most


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", replace(MODELS["resnet50"], factory=resnet_tiny))
    return replace(LENET, model=ModelConfig(name="tiny"))


several_ways = pytest.mark.parametrize("parallel", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])


@several_ways
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_without_batch_norm_there_is_one_of_each_type(parallel, accumulation_steps):
    found, state = in_a_step(LENET, parallel=parallel, accumulation_steps=accumulation_steps)
    assert max(found) == Collective("all-reduce", total_bytes(state.params) + LOSSES)
    check(found, state, crossing=0, most=1)


@several_ways
def test_where_devices_normalise_by_themselves_their_statistics_travel_with_the_gradients(tiny, parallel):
    found, state = in_a_step(tiny, parallel=parallel, sync_batch_norm=False)
    check(found, state, crossing=total_bytes(state.batch_stats), most=1)


def check_synchronised(found, state, batches):
    """Check that of each channel mean and mean of squares cross for each of so many batches, to and fro."""
    assert state.batch_stats
    norms = len(jax.tree.leaves(state.batch_stats)) // 2
    # XLA puts some of those together that do not wait for each other.
    check(found, state, crossing=2 * batches * total_bytes(state.batch_stats), most=1 + 2 * batches * norms)


@pytest.mark.parametrize(
    ("accumulation_steps", "remat"), [(1, False), *(pytest.param(n, True, marks=pytest.mark.slow) for n in (1, 2))]
)
def test_with_batch_norm(tiny, accumulation_steps, remat):
    found, state = in_a_step(tiny, accumulation_steps=accumulation_steps, remat=remat)
    check_synchronised(found, state, accumulation_steps)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_resnet50(remat):
    found, state = in_a_step(RESNET50, remat=remat)
    assert total_bytes(state.batch_stats) == 4 * 53_120
    check_synchronised(found, state, 1)


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
    parallel, x = Parallel(8), jax.ShapeDtypeStruct((8, 4), jnp.float32)
    gather = jax.jit(lambda x: x, in_shardings=parallel.sharded, out_shardings=parallel.replicated).lower(x).compile()
    assert collectives_of(gather.as_text()) == [Collective("all-gather", 4 * 8 * 4)]
