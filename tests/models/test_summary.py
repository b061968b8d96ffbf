"""Rows per layer, stage and model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv, ConvTranspose, Dense, LocallyConnected, SqueezeExcite, avg_pool, max_pool, ones
from jaxcnn.models import MODELS, Model, create
from jaxcnn.models.googlenet import googlenet
from jaxcnn.models.resnet import resnet_tiny
from jaxcnn.models.summary import model_rows, stage_rows, summarize, totals
from jaxcnn.models.trace import trace


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
    assert rows["up"].receptive_field is None  # It reads what is not known.


def test_shared_layers_have_their_parameters_once():
    rows = summarize(Oddities(), (18, 18, 2))
    assert [(row.params, row.macs) for row in rows if row.path == "shared"] == [(12, 36), (0, 36)]


class Gates(Model):
    """What must not widen the field, or not hide it: gates, shuffles, strided slices, resizing."""

    @nn.compact
    def __call__(self, x, train=False):
        x = Conv(4, 3, padding=1, name="conv")(x)
        x = SqueezeExcite(2, name="gated")(x)
        x = x.reshape(*x.shape[:3], 2, 2).swapaxes(3, 4).reshape(x.shape)[..., ::-1]
        x = Conv(4, 3, padding=1, name="shuffled")(x)
        x = Conv(4, 3, padding=1, name="sliced")(x[:, ::2, ::2])
        x = x + x.mean((1, 2), keepdims=True)
        x = Conv(4, 3, padding=1, name="context")(x)
        x = jax.image.resize(x, (1, 16, 16, 4), "bilinear")
        return Conv(4, 3, padding=1, name="resized")(x)


def test_operations_between_layers():
    fields = {row.path: row.receptive_field for row in summarize(Gates(), (16, 16, 3))}
    assert fields["gated/fc1"] == 3 + 15  # It sees the whole image.
    assert {name: fields[name] for name in ("conv", "shuffled", "sliced", "context", "resized")} == {
        "conv": 3,
        "shuffled": 5,
        "sliced": 9,
        "context": 13,
        "resized": None,
    }
    assert {call.path: call.field for call in trace(Gates(), (16, 16, 3), known={})}["context"] == (13, 2)


class Hourglass(Model):
    """A column's size halved twice and doubled twice, with windows on the way; every weight is 1."""

    kernel: int
    window: int

    @nn.compact
    def __call__(self, x, train=False):
        fields = {"kernel_init": ones, "use_bias": False}
        for i in (1, 2):
            x = avg_pool(Conv(1, (3, 1), name=f"down{i}", **fields)(x), (2, 1))
        for i in (2, 1):
            x = ConvTranspose(1, (self.kernel, 1), strides=(2, 1), name=f"up{i}", **fields)(x)
            x = Conv(1, (self.window, 1), name=f"conv{i}", **fields)(x)
        return x


@pytest.mark.parametrize(("kernel", "window"), [(2, 1), (2, 3), (4, 1), (4, 2), (3, 1), (3, 3), (6, 5)])
def test_receptive_fields_behind_transposed_convolutions_are_means(kernel, window):
    model, column = Hourglass(kernel, window), jnp.ones((1, 80, 1, 1))
    variables = model.init(jax.random.key(0), column)
    # An output sees the pixels with respect to which its gradient is not zero.
    seen = jax.jacobian(lambda x: model.apply(variables, x)[0, :, 0, 0])(column)[:, 0, :, 0, 0] != 0
    sizes = [np.ptp(np.flatnonzero(row)) + 1 for row in np.asarray(seen)]
    half = len(sizes) // 2
    (field,) = {call.field for call in trace(model, (80, 1, 1)) if call.path == "conv1"}
    assert field == (np.mean(sizes[half - 8 : half + 8]), 1)  # Whole periods of 4, away from the borders.


def test_models_with_auxiliary_heads_count_with_them():
    plain, with_aux = googlenet(), googlenet(aux_heads=True)
    rows = {row.path: row for row in stage_rows(with_aux, (224, 224, 3))}
    pairs = zip(totals(with_aux, (224, 224, 3)), totals(plain, (224, 224, 3)), strict=True)
    assert [more - less for more, less in pairs] == [
        rows["aux1"].params + rows["aux2"].params,
        rows["aux1"].macs + rows["aux2"].macs,
    ]
    assert with_aux.stages == plain.stages


@pytest.mark.slow
def test_model_rows_cover_the_table():
    rows = {row.name: row for row in model_rows()}
    assert list(rows) == list(MODELS)
    for name, row in rows.items():
        assert row.params > 0 and row.macs > 0 and row.receptive_field, name
    # Receptive fields as in Araujo, Norris and Sim 2019, "Computing receptive fields of convolutional neural networks".
    published = {"mobilenet_v1": 315, "inception_v3": 1311, "inception_v4": 2071, "inception_resnet_v2": 3039}
    assert {name: rows[name].receptive_field for name in published} == published


def test_model_rows_of_a_family():
    rows = {row.name: row for row in model_rows("resnet")}
    assert {"resnet20", "resnet1202", "plain34", "resnet152"} <= rows.keys() and "vgg16" not in rows
    row = rows["resnet50"]
    assert (row.family, row.year, row.paper, row.input_shape, row.num_classes) == (
        "resnet",
        2015,
        "1512.03385",
        (224, 224, 3),
        1000,
    )
    assert (row.params, row.macs, row.receptive_field) == (25_557_032, 4_089_184_256, 427)
    assert rows["resnet1202"].receptive_field == 1 + 2 * (1 + 400 + 1 + 2 * 399 + 2 + 4 * 399)
    with pytest.raises(UsageError, match="unknown family 'resnets': did you mean 'resnet'"):
        model_rows("resnets")


@pytest.mark.parametrize("name", ["resnet20", "efficientnet_b0", "densenet121", "unet", "inception_v3"])
def test_skipping_what_is_known_changes_nothing(name):
    model, shape = create(name), MODELS[name].input_shape
    known = {}
    trace(create("resnet18"), (224, 224, 3), known)
    every, short = trace(model, shape), trace(model, shape, known)
    assert len(short) < len(every) or name == "unet"
    full = {call.path: call for call in every}
    for call in short:
        assert (call.field, call.output) == (full[call.path].field, full[call.path].output), call.path
    for what in ("params", "macs"):
        assert sum(getattr(call, what) for call in every) == sum(getattr(call, what) for call in short)


def test_a_module_called_twice_is_counted_once_in_totals_too():
    rows = summarize(Oddities(), (18, 18, 2))
    assert totals(Oddities(), (18, 18, 2)) == (sum(row.params for row in rows), sum(row.macs for row in rows))


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "plain20", "resnet18v2"])
def test_layers_add_up_to_totals(name):
    model, shape = create(name), MODELS[name].input_shape
    rows = summarize(model, shape)
    assert (sum(row.params for row in rows), sum(row.macs for row in rows)) == totals(model, shape)
