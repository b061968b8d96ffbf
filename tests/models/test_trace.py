"""What is read from the trace of a plain Linen module, against what it computes: right, or None."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.layers import BatchNorm, Conv, ConvTranspose, Dense, LocallyConnected
from jaxcnn.models.calls import init
from jaxcnn.models.summary import stage_rows, summarize, totals
from jaxcnn.models.trace import added, trace

SHAPE = (12, 10, 3)


class Flaxs(nn.Module):
    """Flax's layers, under the names of ours."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(8, (3, 5), strides=(2, 1), padding=((1, 1), (2, 2)), name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, name="bn")(x)
        x = nn.max_pool(nn.gelu(x), (2, 2), strides=(2, 2))
        x = nn.Conv(
            8, (3, 3), kernel_dilation=2, feature_group_count=4, use_bias=False, padding="VALID", name="grouped"
        )(nn.ConvTranspose(8, (4, 4), strides=(2, 2), padding="VALID", name="up")(x))
        x = nn.ConvLocal(4, (2, 2), padding="VALID", name="local")(x)
        x = nn.Dense(6, name="dense")(x)
        return nn.Dense(5, name="head")(nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2))))


class Ours(nn.Module):
    """The same of our layers."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = Conv(8, (3, 5), strides=(2, 1), padding=(1, 2), name="conv")(x)
        x = BatchNorm(use_running_average=not train, name="bn")(x)
        x = nn.max_pool(nn.gelu(x), (2, 2), strides=(2, 2))
        x = ConvTranspose(8, 4, strides=2, name="up")(x)
        x = Conv(8, 3, kernel_dilation=2, groups=4, use_bias=False, name="grouped")(x)
        x = LocallyConnected(4, 2, name="local")(x)
        x = Dense(6, name="dense")(x)
        return Dense(5, name="head")(x.mean((1, 2)))


def test_flaxs_layers_count_and_see_as_ours():
    found, expected = (summarize(model, SHAPE) for model in (Flaxs(), Ours()))
    assert [replace(row, kind="") for row in found] == [replace(row, kind="") for row in expected]
    by_path = {row.path: row for row in found}
    # By hand: maps of 6x10, halved to 3x5, up to 8x12, 4x8 behind the dilated window.
    assert by_path["conv"].macs == 6 * 10 * 8 * 3 * 5 * 3
    assert by_path["up"].macs == 3 * 5 * 4 * 4 * 8 * 8
    assert by_path["grouped"].macs == 4 * 8 * 3 * 3 * 2 * 8
    assert by_path["local"].macs == 3 * 7 * 2 * 2 * 8 * 4
    assert by_path["dense"].macs == 3 * 7 * 4 * 6
    assert by_path["bn"].macs == 0 and by_path["bn"].params == 16
    assert [by_path[path].receptive_field for path in ("conv", "grouped", "local")] == [3, 17, None]
    assert totals(Flaxs(), SHAPE) == (sum(row.params for row in found), sum(row.macs for row in found))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(4, name="dense")(x)


class Body(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return Residual(name="block")(Residual(name="other")(x)), None


def looped(params):
    broadcast = {"variable_broadcast": "params"} if params is None else {"variable_axes": {"params": params}}
    return nn.scan(Body, length=3, split_rngs={"params": params is not None}, **broadcast)


class Lifted(nn.Module):
    """Modules that Flax calls several times, or apart."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="first")(x)
        x = nn.remat(Residual)(name="remat")(x)
        x, _ = looped(0)(name="scan")(x, None)
        x, _ = looped(None)(name="shared_scan")(x, None)
        several = nn.vmap(Residual, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=2)
        return nn.jit(Residual)(name="jit")(several(name="vmap")(x).mean(0))


class Loops(nn.Module):
    """The same loop twice, and blocks that are alike."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="first")(x)
        for i in (1, 2):
            x = Residual(name=f"residual{i}")(Looped(name=f"looped{i}")(x))
        return x


class Looped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return looped(0)(name="scan")(x, None)[0]


class Encoder(nn.Module):
    def setup(self):
        self.dense = nn.Dense(4)
        self.gain = self.param("gain", nn.initializers.ones, (4,))

    def encode(self, x):
        return self.dense(x) * self.gain


class Methods(nn.Module):
    """Another method than the call of a module, one module twice, and parameters in a tree of their own."""

    def setup(self):
        self.encoder, self.twice = Encoder(), nn.Dense(4)
        self.tree = self.param("tree", lambda key: {"a": jnp.ones(3), "b": {"c": jnp.ones(2)}})

    def __call__(self, x):
        x = self.twice(self.twice(self.encoder.encode(x)))
        return x.mean((1, 2)) * self.tree["a"].sum() + self.tree["b"]["c"].sum()


class Positions(nn.Module):
    """A parameter that is added, of which nobody can know."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="dense")(x)
        return x + self.param("position", nn.initializers.zeros, x.shape[1:])


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="embed")(x).reshape(1, -1, 4)
        return nn.MultiHeadDotProductAttention(2, name="attention")(x).mean(1)


PLAIN = {
    "lifted": Lifted(),
    "loops": Loops(),
    "methods": Methods(),
    "positions": Positions(),
    "attention": Attention(),
    "sequential": nn.Sequential([nn.Conv(4, (3, 3)), nn.relu, nn.Dense(2)]),
    "one layer": nn.Dense(3),
    "flax": Flaxs(),
}


@pytest.mark.parametrize("name", PLAIN)
def test_rows_add_up_and_parameters_are_those_of_the_variables(name):
    model = PLAIN[name]
    variables = jax.eval_shape(partial(init, model), jax.random.key(0), jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32))
    expected = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    for rows in (summarize(model, SHAPE), stage_rows(model, SHAPE)):
        assert (sum(row.params for row in rows), added(row.macs for row in rows)) == totals(model, SHAPE)
    assert totals(model, SHAPE)[0] == expected


def test_what_is_called_several_times_counts_as_often():
    rows = {row.path: row for row in summarize(Lifted(), SHAPE)}
    once = 12 * 10 * 4 * 4
    assert {path: (row.params, row.macs) for path, row in rows.items()} == {
        "first": (16, 12 * 10 * 3 * 4),
        "remat/dense": (20, once),
        "scan/other/dense": (3 * 20, 3 * once),
        "scan/block/dense": (3 * 20, 3 * once),
        "shared_scan/other/dense": (20, 3 * once),
        "shared_scan/block/dense": (20, 3 * once),
        "vmap/dense": (2 * 20, 2 * once),
        "jit/dense": (20, once),
    }
    assert rows["scan/block/dense"].activation_bytes == 3 * rows["remat/dense"].activation_bytes == 3 * 12 * 10 * 4 * 4


@pytest.mark.parametrize("name", ["positions", "attention"])
def test_multiply_adds_that_are_not_known_are_none(name):
    assert totals(PLAIN[name], SHAPE)[1] is None
    rows = {row.path: row.macs for row in summarize(PLAIN[name], SHAPE)}
    assert None in rows.values()
    assert rows["dense" if name == "positions" else "embed"] == 12 * 10 * 3 * 4


def test_other_methods_and_shared_modules():
    rows = [(row.path, row.kind, row.params, row.macs) for row in stage_rows(Methods(), SHAPE)]
    first, other = 12 * 10 * 3 * 4, 12 * 10 * 4 * 4
    # The gain is a parameter of a module that is not called: those of the model, with its tree.
    assert rows == [
        ("", "Methods", 5 + 4, 0),
        ("encoder", "1 x Dense", 16, first),
        ("twice", "Dense", 20, other),
        ("twice", "Dense", 0, other),
    ]


class Until(nn.Module):
    """Loops: to an end that shows only when the program runs, and not at all."""

    @nn.compact
    def __call__(self, x):
        within = nn.Dense(3, name="within")
        x = within(x)
        _, x = nn.while_loop(
            lambda module, carry: carry[0] < 5,
            lambda module, carry: (carry[0] + carry[1].sum(), within(carry[1])),
            self,
            (jnp.zeros(()), x),
            broadcast_variables="params",
        )
        return x


def test_loops_without_a_fixed_end_are_not_counted():
    calls = [call for call in trace(Until(), SHAPE) if call.path == "within"]
    assert [(call.params, call.macs, call.times) for call in calls] == [(12, 12 * 10 * 9, 1), (0, None, None)]
    assert totals(Until(), SHAPE) == (12, None)
    assert [row.activation_bytes for row in summarize(Until(), SHAPE)] == [4 * 12 * 10 * 3, None]


# Receptive fields -----------------------------------------------------------------------------------------------------


WIDTH, CHANNELS = 6, 2


def fixed(key, shape, dtype):
    """Weights of which no sums are zero, and for which nothing is compiled."""
    return jnp.asarray(np.random.default_rng(1).uniform(0.1, 1, shape), dtype)


def conv(kernel, strides=1, dilation=1, padding="VALID"):
    def layer(x):
        fields = {"kernel_init": fixed, "padding": padding, "kernel_dilation": (dilation, 1)}
        return nn.Conv(CHANNELS, (kernel, 1), (strides, 1), **fields)(x)

    return layer


def attention(x):
    weights = nn.softmax(jnp.einsum("bhwc,bgwc->bwhg", x, x))
    return jnp.einsum("bwhg,bgwc->bhwc", weights, x)


def rows_in_turn(x):
    return jax.lax.scan(lambda carry, row: (carry + row, carry + row), jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1))[
        1
    ].swapaxes(0, 1)


KNOWN = {
    "conv 3": conv(3),
    "conv 3, stride 2": conv(3, 2),
    "conv 3, dilation 2": conv(3, 1, 2),
    "conv 2, padded": conv(2, padding="SAME"),
    "conv 1, stride 2": conv(1, 2),
    "sum": lambda x: nn.pooling.pool(x, 0.0, jax.lax.add, (3, 1), (2, 1), "VALID"),
    "every other row": lambda x: x[:, ::2],
    "cropped": lambda x: x[:, 3:-2],
    "activations": lambda x: nn.gelu(nn.silu(jnp.exp(0.1 * x))) + jnp.where(x > 0, x, 2 * x),
    "columns turned round": lambda x: x[:, :, ::-1],
    "columns rolled": lambda x: jnp.roll(x, 1, 2),
    "columns chosen": lambda x: jnp.take(x, jnp.array([1, 0, 3]), axis=2),
    "columns and channels changed": lambda x: x.swapaxes(2, 3).swapaxes(2, 3),
    "channels shuffled": lambda x: x.reshape(*x.shape[:3], 2, -1).swapaxes(3, 4).reshape(x.shape),
    "channels mixed": lambda x: nn.Dense(CHANNELS, kernel_init=fixed)(x),
    "channels doubled": lambda x: jnp.concatenate([x, x**2], -1)[..., :CHANNELS],
    "channels stacked": lambda x: jnp.stack([x, x], -1).sum(-1),
    "mean of the columns": lambda x: x + x.mean(2, keepdims=True),
    "normalised": lambda x: nn.LayerNorm()(x),
    "softmax of channels": lambda x: nn.softmax(x),
    "jitted": lambda x: jax.jit(lambda x: conv(1)(x) if False else jnp.sin(x) + x)(x),
    "checkpointed": lambda x: jax.checkpoint(lambda x: jnp.sin(x[:, ::2]))(x),
}
UNKNOWN = {
    "rows turned round": lambda x: x[:, ::-1],
    "rows rolled": lambda x: jnp.roll(x, 1, 1),
    "rows doubled": lambda x: jnp.concatenate([x, x], 1),
    "rows chosen": lambda x: jnp.take(x, jnp.array([5, 3, 8, 13, 1, 7, 20, 4, 9, 2]), axis=1),
    "rows summed up": lambda x: jnp.cumsum(x, 1),
    "rows in turn": rows_in_turn,
    "rows sorted": lambda x: jnp.sort(x, 1),
    "rows transformed": lambda x: jnp.fft.fft(x, axis=1).real.astype(x.dtype),
    "rows and columns changed": lambda x: x.swapaxes(1, 2),
    "mean of the rows": lambda x: x.mean(1, keepdims=True) * jnp.ones((1, 12, 1, 1), x.dtype),
    "patches": lambda x: x.reshape(1, x.shape[1] // 2, 2, -1, CHANNELS).mean(2),
    "positions in a row": lambda x: x.reshape(1, -1, CHANNELS)[:, :, None],
    "rows mixed": lambda x: nn.Dense(5)(x.swapaxes(1, 3)).swapaxes(1, 3),
    "attention": attention,
    "columns apart": lambda x: nn.Conv(CHANNELS, (3,))(x),
    "added to what is not known": lambda x: x + jnp.cumsum(x, 1),
    "resized": lambda x: jax.image.resize(x, (1, 7, *x.shape[2:]), "linear"),
    "a kernel of the maps": lambda x: jax.lax.conv_general_dilated(
        x, x[0, :3, :1, :, None] * jnp.ones(2, x.dtype), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ),
}


class Steps(nn.Module):
    steps: tuple

    @nn.compact
    def __call__(self, x):
        for step in self.steps:
            x = step(x)
        return x


def seen(model, height=60):
    """Return how many rows of the image an output in the middle sees at most, by the gradient."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(0.5, 1.5, (1, height, WIDTH, CHANNELS)), jnp.float32)

    def by_row(x):
        outputs, _ = model.init_with_output(jax.random.key(0), x)
        return (outputs**3).sum((0, 2, 3))

    slopes = jax.jit(jax.jacobian(by_row))(image)
    rows = np.abs(slopes).sum((1, 3, 4)) > 0
    sizes = [np.ptp(np.flatnonzero(row)) + 1 if row.any() else 0 for row in rows]
    return max(sizes[len(sizes) // 2 - 4 : len(sizes) // 2 + 4])


@pytest.mark.parametrize("name", KNOWN)
def test_receptive_fields_are_what_gradients_reach(name):
    """Of an operation between two windows, the second of which shows the jump."""
    model = Steps((conv(3, 2), KNOWN[name], conv(3)))
    (call,) = (call for call in trace(model, (60, WIDTH, CHANNELS)) if not call.path)
    assert call.field is not None
    assert call.field.size == seen(model)


@pytest.mark.parametrize("name", UNKNOWN)
def test_receptive_fields_that_cannot_be_told_are_none(name):
    model = Steps((conv(3), UNKNOWN[name]))
    (call,) = (call for call in trace(model, (60, WIDTH, CHANNELS)) if not call.path)
    assert call.field is None


def test_maps_laid_out_as_features_see_the_whole_image():
    for last in (lambda x: x.mean((1, 2)), lambda x: x.reshape(1, -1), lambda x: x.max((1, 2))):
        model = Steps((conv(3, 2), last, lambda x: nn.Dense(2)(jnp.cumsum(x, 1))))
        calls = {call.path: call for call in trace(model, (60, WIDTH, CHANNELS))}
        assert calls[""].last_maps == (3, 2)
        assert calls["Dense_0"].field.size == 59  # 29 windows of 3 at every other row.
