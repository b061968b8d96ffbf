"""SqueezeNet against table 1 of 1602.07360 and the authors' version 1.1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import features
from jaxcnn.models import create
from jaxcnn.models.squeezenet import squeezenet_tiny

WIDTHS = [128, 128, 256, 256, 384, 384, 512, 512]


@pytest.mark.parametrize(
    ("name", "side", "stem", "sizes"),
    [
        # Table 1; every pooling comes out even. In the other rows rounding down would lose a row of maps.
        ("squeezenet1_0", 227, (111, 96), [55, 55, 55, 27, 27, 27, 27, 13]),
        ("squeezenet1_0", 224, (109, 96), [54, 54, 54, 27, 27, 27, 27, 13]),
        ("squeezenet1_1", 224, (111, 64), [55, 55, 27, 27, 13, 13, 13, 13]),
        ("squeezenet1_1", 230, (114, 64), [57, 57, 28, 28, 14, 14, 14, 14]),
    ],
)
def test_maps(name, side, stem, sizes):
    model, images = create(name), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    names = ["stem", *(f"fire{i}" for i in range(2, 10)), "head"]
    maps = jax.eval_shape(lambda v, x: features(model, v, x, names), variables, images)
    expected = [stem, *zip(sizes, WIDTHS, strict=True), (sizes[-1], 1000)]
    assert [maps[name].shape[1:] for name in names] == [(size, size, channels) for size, channels in expected]


def test_the_head_drops_its_input_and_is_averaged():
    model = squeezenet_tiny()
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 35, 35, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), x)
    names = ["fire4", "head", "output"]
    tested = features(model, variables, x, names)
    trained = features(model, variables, x, names, train=True, key=jax.random.key(0))
    assert [np.array_equal(tested[name], trained[name]) for name in names] == [True, False, False]
    assert tested["head"].min() == 0 < tested["head"].max()
    np.testing.assert_allclose(tested["output"], tested["head"].mean((1, 2)), rtol=1e-5)
    pooled = model.clone(num_classes=None).apply(variables, x)
    np.testing.assert_allclose(pooled, tested["fire4"].mean((1, 2)), rtol=1e-5)
