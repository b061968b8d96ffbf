"""U-Net: figure 1's sizes, admitted sizes, symmetry, initialisation, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.models import create
from jaxcnn.models.summary import stage_rows
from jaxcnn.models.unet import unet, unet_same, unet_tiny


def test_sizes_of_figure_1():
    shapes = {row.path: row.output_shape for row in stage_rows(create("unet"), (572, 572, 1))}
    sizes = {path: shape[0] for path, shape in shapes.items() if not path.startswith("Dropout")}
    assert sizes == {
        **{"down1": 568, "down2": 280, "down3": 136, "down4": 64, "down5": 28},
        **{"up4": 52, "up3": 100, "up2": 196, "up1": 388, "head": 388},
    }
    assert [shapes[f"up{i}"][-1] for i in (4, 3, 2, 1)] == [512, 256, 128, 64]


def valid_output(size, levels):
    """Walk down and up; None where maps do not halve evenly or nothing is left."""
    sizes = [size - 4]
    for _ in range(levels - 1):
        if sizes[-1] <= 0 or sizes[-1] % 2:
            return None
        sizes.append(sizes[-1] // 2 - 4)
    out = sizes.pop()
    while sizes and out > 0:
        out = 2 * out - 4
        sizes.pop()
    return out if out > 0 else None


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_admitted_sizes_of_valid_convolutions(levels):
    model = unet(widths=(2,) * levels)
    for size in range(1, 320):
        expected = valid_output(size, levels)
        if expected is None:
            with pytest.raises(UsageError, match=f"size {size}: "):
                model.check_size((size,))
        else:
            model.check_size((size,))
            spec = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
            if size % 5 == 0:
                logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), spec)
                assert logits.shape == (1, expected, expected, 2)


@pytest.mark.parametrize(
    ("make", "size", "nearest"),
    [
        (unet, 512, "nearest valid 508 and 524"),
        (unet, 100, "nearest valid 188(?! and)"),
        (unet_same, 500, "nearest valid 496 and 512"),
        (unet_same, 15, "nearest valid 16(?! and)"),
    ],
)
def test_other_sizes_are_named(make, size, nearest):
    spec = jax.ShapeDtypeStruct((1, 572 if make is unet else 512, size, 1), jnp.float32)
    with pytest.raises(UsageError, match=rf"size {size}: .*{nearest}"):
        jax.eval_shape(make().init, jax.random.key(0), spec)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_mirrored_images_give_mirrored_logits(padding):
    # With mirrored kernels, that is; it takes crops at the centre.
    model = unet_tiny(padding=padding)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 48, 52, 1)), jnp.float32)
    x = x[:, :, :48] if padding == "same" else x
    variables = model.init(jax.random.key(0), x)
    mirror = lambda maps: maps[..., ::-1, ::-1, :, :]  # noqa: E731
    variables = jax.tree.map(lambda p: (p + mirror(p)) / 2 if p.ndim == 4 else p, variables)
    logits = model.apply(variables, x)
    np.testing.assert_allclose(model.apply(variables, x[:, ::-1, ::-1]), logits[:, ::-1, ::-1], atol=1e-4)
    assert np.std(logits) > 0.1


def test_initial_deviation_is_that_of_the_nodes_seen():
    params = unet(widths=(32, 64)).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 20, 20, 1), jnp.float32))["params"]
    seen = {"down2/conv1": 9 * 32, "up1/upconv": 64, "up1/conv1": 9 * 64}
    for path, nodes in seen.items():
        level, layer = path.split("/")
        kernel = params[level][layer].get("conv", params[level][layer])["kernel"]
        assert np.std(kernel) == pytest.approx(np.sqrt(2 / nodes), rel=0.05), path


def test_dropout_is_at_the_end_of_the_contracting_path():
    # Two draws of dropout first differ in what the last level is given.
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 48, 48, 1)), jnp.float32)
    model = unet_tiny()
    variables = model.init(jax.random.key(0), x)

    def maps(seed):
        rngs = {"dropout": jax.random.key(seed)}
        _, state = model.apply(variables, x, train=True, rngs=rngs, capture_intermediates=True)
        return [state["intermediates"][f"down{i}"]["__call__"][0] for i in (1, 2, 3)]

    same = [bool(np.array_equal(*pair)) for pair in zip(maps(0), maps(1), strict=True)]
    assert same == [True, True, False]
