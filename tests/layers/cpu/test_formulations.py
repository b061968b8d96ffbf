"""Each formulation against XLA's convolution and its transposes, on random geometries of the formulation's domain."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.layers import reference
from jaxcnn.layers.cpu import depthwise, grouped, products, reshaped
from jaxcnn.layers.cpu.depthwise import shifts_forward, shifts_input_gradient, windows_kernel_gradient
from jaxcnn.layers.cpu.grouped import merged_forward, merged_input_gradient, merged_kernel_gradient
from jaxcnn.layers.cpu.products import product_kernel_gradient, rows_kernel_gradient
from jaxcnn.layers.cpu.reshaped import (
    by_examples,
    channels_as_positions_kernel_gradient,
    phases_input_gradient,
)
from jaxcnn.layers.cpu.trimming import trimmed
from jaxcnn.layers.geometry import Geometry
from jaxcnn.layers.reference import im2col_forward, xla_forward, xla_input_gradient, xla_kernel_gradient

REFERENCES = {
    "forward": xla_forward,
    "input_gradient": xla_input_gradient,
    "kernel_gradient": xla_kernel_gradient,
}


class Domain(NamedTuple):
    """The geometries that a formulation is for."""

    dims: tuple[int, ...] = (1, 2, 3)
    window: int | None = None
    strides: int | None = None
    dilation: int | None = None
    last_dilation: int | None = None
    most_padding: int = 2
    groups: tuple[int, ...] = (1, 2, 3)
    depthwise: bool = False
    most_features: int = 3


ANY = Domain()
ONE_GROUP = Domain(groups=(1,))
POINTWISE = Domain(window=1, most_padding=0, groups=(1,))
DENSE = Domain(dilation=1)
DEPTHWISE = Domain(groups=(1, 3, 4), depthwise=True)
WIDE_GROUPS = Domain(groups=(2, 4))
WIDELY_PADDED = Domain(most_padding=7)

FORMULATIONS: dict[str, tuple[Callable, Domain]] = {
    "product_kernel_gradient": (product_kernel_gradient, POINTWISE),
    "rows_kernel_gradient": (rows_kernel_gradient, Domain((2,), strides=1, dilation=1, groups=(1,))),
    "channels_as_positions_kernel_gradient": (
        channels_as_positions_kernel_gradient,
        Domain(last_dilation=1),
    ),
    "channels_as_positions_kernel_gradient, two examples at a time": (
        lambda x, y, geometry: by_examples(channels_as_positions_kernel_gradient, 2, x, y, geometry),
        Domain(last_dilation=1),
    ),
    "channels_as_positions_kernel_gradient, one row at a time": (
        partial(channels_as_positions_kernel_gradient, rows=1),
        ONE_GROUP._replace(last_dilation=1),
    ),
    "channels_as_positions_kernel_gradient, two rows at a time": (
        partial(channels_as_positions_kernel_gradient, rows=2),
        ONE_GROUP._replace(last_dilation=1),
    ),
    "phases_input_gradient": (phases_input_gradient, DENSE),
    "shifts_forward": (shifts_forward, DEPTHWISE),
    "shifts_input_gradient": (shifts_input_gradient, DEPTHWISE._replace(strides=1, most_features=1)),
    "shifts_input_gradient, strided": (shifts_input_gradient, DEPTHWISE._replace(dilation=1, most_features=1)),
    "windows_kernel_gradient": (windows_kernel_gradient, DEPTHWISE),
    "merged_forward": (partial(merged_forward, dense=xla_forward, width=2), WIDE_GROUPS),
    "merged_input_gradient": (partial(merged_input_gradient, dense=xla_input_gradient, width=2), WIDE_GROUPS),
    "merged_kernel_gradient": (partial(merged_kernel_gradient, dense=xla_kernel_gradient, width=2), WIDE_GROUPS),
    "im2col_forward": (im2col_forward, ANY),
    "trimmed forward": (trimmed(xla_forward, ("sizes", "window"), "outputs"), WIDELY_PADDED),
    "trimmed input_gradient": (trimmed(xla_input_gradient, ("outputs", "window"), "sizes"), WIDELY_PADDED),
    "trimmed kernel_gradient": (trimmed(xla_kernel_gradient, ("sizes", "outputs"), "window"), WIDELY_PADDED),
}
# Where the random geometries of the domain above would seldom lead: convolutions that networks have.
STEM = Geometry((15, 14), (5, 5), (2, 2), ((2, 2), (2, 2)), (1, 1), 1)
SKIPPING = Geometry((8, 11), (2, 1), (3, 4), ((0, 1), (2, 0)), (1, 1), 1)  # windows smaller than the strides
ATROUS = Geometry((9, 9), (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 1)


def kind_of(name: str) -> str:
    return next(kind for kind in REFERENCES if kind in name)


def operands(kind, geometry, batch, channels, features, seed=0, draw=np.random.Generator.standard_normal):
    """Return the two operands of a formulation in float64; `channels` and `features` are per group."""
    rng = np.random.default_rng(seed)
    x = (batch, *geometry.sizes, channels * geometry.groups)
    kernel = (*geometry.window, channels, features * geometry.groups)
    y = (batch, *geometry.outputs, features * geometry.groups)
    shapes = {"forward": (x, kernel), "input_gradient": (y, kernel), "kernel_gradient": (x, y)}[kind]
    return [draw(rng, shape) for shape in shapes]


@st.composite
def problems(draw, domain):
    """Return a small geometry of the domain, the operands' number of examples, channels and features, and a seed."""
    dims = draw(st.sampled_from(domain.dims))
    pick = lambda fixed, high: draw(st.integers(1, high)) if fixed is None else fixed  # noqa: E731
    window, strides, dilation = (
        [pick(fixed, high) for _ in range(dims)]
        for fixed, high in ((domain.window, 4), (domain.strides, 3), (domain.dilation, 2))
    )
    dilation[-1] = domain.last_dilation or dilation[-1]
    # A transposed convolution with output padding is one with less than no padding at the end.
    most = domain.most_padding
    edges = [(draw(st.integers(0, most)), draw(st.integers(-1, most))) if most else (0, 0) for _ in range(dims)]
    sizes = [
        max(1, d * (w - 1) + 1 - lo - hi) + draw(st.integers(0, 4))
        for w, d, (lo, hi) in zip(window, dilation, edges, strict=True)
    ]
    groups = draw(st.sampled_from(domain.groups))
    geometry = Geometry(*map(tuple, (sizes, window, strides, edges, dilation)), groups)
    channels = 1 if domain.depthwise else draw(st.integers(1, 3))
    return (
        geometry,
        draw(st.integers(1, 4)),
        channels,
        draw(st.integers(1, domain.most_features)),
        draw(st.integers(0, 99)),
    )


def check(name, geometry, batch, channels, features, seed=0):
    """Assert that a formulation gives XLA's numbers in float64."""
    formulation, kind = FORMULATIONS[name][0], kind_of(name)
    both = jax.jit(
        lambda a, b: (formulation(a, b, geometry=geometry), REFERENCES[kind](a, b, geometry)),
        # XLA's simplifier (jaxlib 0.12) ends the process for some transposes of its own convolution by the input: sizes
        # (7, 4), window (4, 2), strides 2, padding ((1, -1), (1, 1)), one channel and one feature.
        compiler_options={"xla_disable_hlo_passes": "algsimp"},
    )
    with jax.enable_x64(True):
        found, expected = both(*operands(kind, geometry, batch, channels, features, seed))
    assert found.dtype == expected.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FORMULATIONS)
def test_a_formulation_is_xlas_in_its_domain(name):
    @settings(deadline=None, max_examples=6, database=None)
    @given(problems(FORMULATIONS[name][1]))
    def property_(problem):
        check(name, *problem)

    property_()


@pytest.mark.parametrize("geometry", [STEM, SKIPPING, ATROUS])
@pytest.mark.parametrize(
    "name",
    [
        "im2col_forward",
        "phases_input_gradient",
        "channels_as_positions_kernel_gradient, two rows at a time",
    ],
)
def test_geometries_of_networks(name, geometry):
    if geometry is ATROUS and "im2col" not in name:
        geometry = geometry._replace(dilation=(1, 1))
    check(name, geometry, batch=2, channels=3, features=4)


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
def test_a_depthwise_kernels_gradient_over_more_examples_than_are_taken_at_a_time(strides):
    geometry = Geometry((5, 6), (3, 3), strides, ((1, 1), (1, 1)), (1, 1), 3)
    check("windows_kernel_gradient", geometry, batch=19, channels=1, features=2)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("merged", [merged_forward, merged_kernel_gradient])
def test_as_many_groups_are_merged_as_asked(merged, width):
    kind = kind_of(merged.__name__)
    geometry = Geometry((5, 6), (3, 3), (2, 1), ((1, 1), (1, 0)), (1, 1), 4)
    seen = []

    def dense(a, b, geometry):
        seen.append((a.shape[-1], geometry.groups))
        return REFERENCES[kind](a, b, geometry)

    with jax.enable_x64(True):
        a, b = map(jnp.asarray, operands(kind, geometry, 2, 3, 2))
        found = jax.jit(partial(merged, geometry=geometry, dense=dense, width=width))(a, b)
        np.testing.assert_allclose(found, REFERENCES[kind](a, b, geometry), atol=1e-10)
    assert seen == [(3 * width, 1)] * (4 // width)


@pytest.mark.parametrize("name", FORMULATIONS)
def test_bfloat16_is_kept_and_summed_in_float32(name):
    """Of a sum of positive numbers all that rounds is the result; in bfloat16 it would stop growing."""
    formulation, domain = FORMULATIONS[name]
    dims = 2 if 2 in domain.dims else domain.dims[0]
    groups = domain.groups[-1]
    window = domain.window or 3
    geometry = Geometry((16,) * dims, (window,) * dims, (1,) * dims, ((0, 0),) * dims, (1,) * dims, groups)
    # 512 or more terms, of examples and positions for the kernel's gradient, else of taps and channels or features.
    kind = kind_of(name)
    batch = 32 if kind == "kernel_gradient" else 1
    channels = features = 4 if kind == "kernel_gradient" else 512 // window**dims
    if domain.depthwise:  # which has a term for each tap alone, but for the kernel's gradient
        channels, features = 1, domain.most_features
    drawn = operands(kind, geometry, batch, channels, features, draw=lambda rng, shape: rng.uniform(0.5, 1.5, shape))
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in drawn)
    found = jax.jit(partial(formulation, geometry=geometry))(a, b)
    assert found.dtype == jnp.bfloat16
    with jax.enable_x64(True):
        expected = jax.jit(partial(REFERENCES[kind], geometry=geometry))(a.astype(np.float64), b.astype(np.float64))
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2**-8)


def test_what_a_geometry_says_of_itself():
    assert STEM.outputs == (8, 7)
    assert ATROUS.outputs == (9, 9)
    assert (STEM.dense, ATROUS.dense) == (True, False)
    assert (STEM.unit_strides, ATROUS.unit_strides) == (False, True)
    pointwise = Geometry((4, 4), (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1)
    assert pointwise.pointwise
    assert not pointwise._replace(groups=2).pointwise
    assert not pointwise._replace(padding=((0, 0), (0, 1))).pointwise
    assert not pointwise._replace(window=(1, 2)).pointwise


def test_every_formulation_is_here():
    functions = {
        name
        for module in (reference, depthwise, grouped, products, reshaped)
        for name, f in vars(module).items()
        if callable(f) and getattr(f, "__module__", "") == module.__name__
    }
    computing = {name for name in functions if name.endswith(tuple(REFERENCES)) and not name.startswith("xla")}
    assert computing == {name.split(",")[0] for name in FORMULATIONS if not name.startswith("trimmed")}
