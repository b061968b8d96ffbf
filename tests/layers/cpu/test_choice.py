"""Which formulation is chosen: by shape, and by the compiler that will have the program."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import backend
from jaxcnn.layers import conv
from jaxcnn.layers.cpu.choice import RULES
from jaxcnn.layers.geometry import Geometry

GROUPED = Geometry((28, 28), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 32)


def chosen(kind, a, b, geometry, onednn, dtype=jnp.float32):
    """The name of the formulation for operands of these shapes."""
    a, b = jax.ShapeDtypeStruct(a, dtype), jax.ShapeDtypeStruct(b, dtype)
    with backend.with_onednn(onednn):
        return next(rule.formulation.__name__ for rule in RULES[kind] if rule.fits(a, b, geometry))


@pytest.mark.parametrize("kind", RULES)
def test_the_last_rule_is_xlas_own_and_fits_always(kind):
    *_, last = RULES[kind]
    assert last.formulation.__name__ == f"xla_{kind}"
    assert last.fits(None, None, None)


def test_each_formulation_has_one_rule():
    names = [rule.formulation.__name__ for rules in RULES.values() for rule in rules]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("kind", "a", "b", "onednn", "plain"),
    [
        ("forward", (8, 28, 28, 128), (3, 3, 4, 128), "xla_forward", "merged_where_narrow_forward"),
        ("forward", (8, 28, 28, 32), (3, 3, 1, 32), "xla_forward", "shifts_forward"),
        ("input_gradient", (8, 28, 28, 32), (3, 3, 1, 32), "xla_input_gradient", "shifts_input_gradient"),
        (
            "input_gradient",
            (8, 28, 28, 128),
            (3, 3, 4, 128),
            "xla_input_gradient",
            "merged_where_narrow_input_gradient",
        ),
    ],
)
def test_groups_are_for_the_compiler_that_convolves_them(kind, a, b, onednn, plain):
    assert chosen(kind, a, b, GROUPED, onednn=True) == onednn
    assert chosen(kind, a, b, GROUPED, onednn=False) == plain
    # oneDNN convolves no groups in bfloat16.
    assert chosen(kind, a, b, GROUPED, onednn=True, dtype=jnp.bfloat16) == plain


@pytest.mark.parametrize("kind", ["forward", "gradients"])
def test_plain_jit_is_never_left_with_a_grouped_convolution(kind):
    """XLA's own takes 25 times as long."""
    x, kernel = jnp.ones((2, 8, 8, 64)), jnp.ones((3, 3, 8, 64))
    f = lambda x, kernel: jnp.sum(conv(x, kernel, padding=1, groups=8))  # noqa: E731
    f = jax.grad(f, (0, 1)) if kind == "gradients" else f
    groups = re.compile(r"_group_count = (\d+)")
    assert set(groups.findall(jax.jit(f).lower(x, kernel).as_text())) <= {"1"}
    if backend.ONEDNN in backend.compiler_options("cpu"):
        assert "8" in groups.findall(backend.jit(f).lower(x, kernel).as_text())


def test_a_depthwise_window_of_many_taps_is_no_sum_of_products():
    enlarging = Geometry((96, 96), (64, 64), (32, 32), ((0, 0), (0, 0)), (1, 1), 3)
    shapes = {"forward": (8, 96, 96, 3), "input_gradient": (8, 2, 2, 3)}
    for kind, shape in shapes.items():
        assert "shifts" not in chosen(kind, shape, (64, 64, 1, 3), enlarging, onednn=False)
