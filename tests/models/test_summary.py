"""Rows per layer, stage and model."""

import flax.linen as nn
import pytest

from jaxcnn.layers import Conv, ConvTranspose, Dense, LocallyConnected, avg_pool, max_pool
from jaxcnn.models import MODELS, Model, create
from jaxcnn.models.resnet import resnet_tiny
from jaxcnn.models.summary import model_rows, stage_rows, summarize, totals


def test_stages_of_resnet50():
    rows = stage_rows(create("resnet50"), (224, 224, 3))
    assert [(row.path, row.kind, row.output_shape) for row in rows] == [
        ("stem", "Stem", (56, 56, 64)),
        ("stage1", "3 x Block", (56, 56, 256)),
        ("stage2", "4 x Block", (28, 28, 512)),
        ("stage3", "6 x Block", (14, 14, 1024)),
        ("stage4", "3 x Block", (7, 7, 2048)),
        ("head", "Dense", (1000,)),
    ]
    # Parameters per stage as torchvision's; receptive fields of ResNet-50 v1.5 by hand.
    assert [row.params for row in rows] == [9_536, 215_808, 1_219_584, 7_098_368, 14_964_736, 2_049_000]
    assert [row.receptive_field for row in rows[:5]] == [11, 35, 91, 267, 427]
    assert sum(row.params for row in rows) == 25_557_032
    assert sum(row.macs for row in rows) == 4_089_184_256


def test_stride_placement_changes_macs_and_receptive_field_only():
    v1, v15 = (stage_rows(create("resnet50", variant=v), (224, 224, 3)) for v in ("v1", "v1.5"))
    assert [row.params for row in v1] == [row.params for row in v15]
    assert [row.macs < other.macs for row, other in zip(v1, v15, strict=True)] == [0, 0, 1, 1, 1, 0]


def test_layers_of_the_paper_lenet():
    rows = summarize(create("lenet5_1998"), (32, 32, 1))
    assert [(row.path, row.params, row.output_shape, row.receptive_field) for row in rows] == [
        ("c1", 156, (28, 28, 6), 5),
        ("s2", 12, (14, 14, 6), 6),
        ("c3", 1_516, (10, 10, 16), 14),
        ("s4", 32, (5, 5, 16), 16),
        ("c5", 48_120, (1, 1, 120), 32),
        ("f6", 10_164, (84,), 32),
    ]
    assert rows[0].activation_bytes == 4 * 28 * 28 * 6


def test_shortcuts_do_not_widen_the_receptive_field():
    rows = {row.path: row for row in summarize(resnet_tiny(), (64, 64, 3))}
    # 7x7/2 and pooling 3x3/2 see 11 pixels; the block's 3x3 at a jump of 4 adds 8, the projection nothing.
    assert rows["stage1/block1/shortcut/conv"].receptive_field == 11
    assert rows["stage1/block1/conv3"].receptive_field == 19
    assert rows["stage1/block2/conv3"].receptive_field == 27


class Oddities(Model):
    @nn.compact
    def __call__(self, x, train=False):
        x = Conv(4, 3, strides=2, padding=1, groups=2, name="grouped")(x)
        x = avg_pool(max_pool(x, 2), 2)
        shared = Conv(3, 1, name="shared")
        x = shared(shared(nn.relu(Conv(3, 1, name="pointwise")(x))))
        x = LocallyConnected(4, 2, name="local")(x)
        x = ConvTranspose(5, 3, strides=2, use_bias=False, name="up")(x)
        return Dense(2, name="head")(x.mean((1, 2)))


def test_unusual_layers():
    rows = {row.path: row for row in summarize(Oddities(), (18, 18, 2))}
    macs = {path: row.macs for path, row in rows.items()}
    assert macs["grouped"] == 9 * 9 * 9 * 1 * 4
    assert macs["local"] == 1 * 1 * 4 * 3 * 4
    assert macs["up"] == 1 * 1 * 9 * 4 * 5
    assert rows["grouped"].receptive_field == 3
    assert rows["shared"].receptive_field == 9  # Windows of 2 at jumps of 2 and 4: 3 + 2 + 4.
    assert rows["local"].receptive_field is None
    assert rows["up"].receptive_field is None


def test_shared_layers_have_their_parameters_once():
    rows = summarize(Oddities(), (18, 18, 2))
    assert [(row.params, row.macs) for row in rows if row.path == "shared"] == [(12, 36), (0, 36)]


def test_model_rows_cover_the_table():
    rows = model_rows()
    assert [row.name for row in rows] == list(MODELS)
    row = rows[list(MODELS).index("resnet50")]
    assert (row.year, row.paper, row.input_shape, row.num_classes) == (
        2015,
        "1512.03385",
        (224, 224, 3),
        1000,
    )
    assert (row.params, row.macs) == (25_557_032, 4_089_184_256)


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "plain20", "resnet18v2"])
def test_layers_add_up_to_totals(name):
    model, shape = create(name), MODELS[name].input_shape
    rows = summarize(model, shape)
    assert (sum(row.params for row in rows), sum(row.macs for row in rows)) == totals(model, shape)
