"""LeNet-5: the paper's form against loops in numpy, and the sizes of both forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.models import create
from jaxcnn.models.lenet import C3_TABLE, DIGIT_CODES

# Table I of the paper: rows are the maps of S2, columns those of C3.
TABLE_I = [
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
]


def test_connections_are_those_of_table_i():
    read = [tuple(i for i in range(6) if TABLE_I[i][j] == "X") for j in range(16)]
    assert list(C3_TABLE) == read
    assert [len(row) for row in C3_TABLE] == [3] * 6 + [4] * 9 + [6]


def squash(x):
    return 1.7159 * np.tanh(2 / 3 * x)


def correlate(x, kernel):
    size = x.shape[0] - 4
    windows = [[x[i : i + 5, j : j + 5] for j in range(size)] for i in range(size)]
    return np.einsum("ijklc,klco->ijo", np.asarray(windows), kernel)


def subsample(x, p):
    n = x.shape[0] // 2
    return x.reshape(n, 2, n, 2, -1).sum((1, 3)) * p["coefficient"] + p["bias"]


def test_paper_form_against_numpy():
    model = create("lenet5_1998")
    image = np.random.default_rng(0).standard_normal((1, 32, 32, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), image)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    dense = np.zeros((5, 5, 6, 16))
    connections = [(i, j) for j in range(16) for i in range(6) if TABLE_I[i][j] == "X"]
    for k, (i, j) in enumerate(connections):
        dense[:, :, i, j] = p["c3"]["kernel"][:, :, k]
    x = squash(correlate(image[0], p["c1"]["kernel"]) + p["c1"]["bias"])
    x = squash(subsample(x, p["s2"]))
    x = squash(correlate(x, dense) + p["c3"]["bias"])
    x = squash(subsample(x, p["s4"]))
    x = squash(correlate(x, p["c5"]["kernel"]) + p["c5"]["bias"])
    f6 = squash(x.reshape(-1) @ p["f6"]["kernel"] + p["f6"]["bias"])
    distances = [np.sum((f6 - code) ** 2) for code in DIGIT_CODES]
    logits = model.apply(variables, image)[0]
    np.testing.assert_allclose(logits, -0.5 * np.asarray(distances), rtol=1e-5)
    assert np.argmax(logits) == np.argmin(distances)
    features = create("lenet5_1998", num_classes=None).apply(variables, image)[0]
    np.testing.assert_allclose(features, f6, atol=1e-5)


def test_codes_are_ten_distinct_bitmaps():
    assert DIGIT_CODES.shape == (10, 7 * 12)
    assert set(np.unique(DIGIT_CODES)) == {-1, 1}
    differing = np.sum(DIGIT_CODES[:, None] != DIGIT_CODES[None], -1)
    assert differing[~np.eye(10, dtype=bool)].min() >= 10


def test_paper_initialisation_is_within_its_bounds():
    params = create("lenet5_1998").init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))["params"]
    for layer, fan_in in {"c1": 25, "s2": 4, "s4": 4, "c5": 400, "f6": 120}.items():
        largest = max(np.abs(leaf).max() for leaf in params[layer].values())
        assert 0.5 * 2.4 / fan_in < largest <= 2.4 / fan_in, layer
    kernels = np.abs(params["c3"]["kernel"]).max((0, 1))
    fan_in = np.array([25 * len(row) for row in C3_TABLE for _ in row])
    assert (kernels <= 2.4 / fan_in).all() and (kernels > 0.5 * 2.4 / fan_in).all()


@pytest.mark.parametrize("name", ["lenet5", "lenet5_1998"])
def test_28_pixels_are_padded_by_2(name):
    model = create(name)
    small = jnp.asarray(np.random.default_rng(0).standard_normal((2, 28, 28, 1)), jnp.float32)
    variables = model.init(jax.random.key(0), small)
    padded = jnp.pad(small, ((0, 0), (2, 2), (2, 2), (0, 0)))
    np.testing.assert_array_equal(model.apply(variables, small), model.apply(variables, padded))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("lenet5", (1, 8, 8, 1), "28x28 or 32x32"),
        ("lenet5", (1, 28, 32, 1), "28x28 or 32x32"),
        ("lenet5_1998", (1, 30, 30, 1), "28x28 or 32x32"),
        ("lenet5_valid", (1, 32, 32, 1), r"\[batch, 28x28, channels\]"),
    ],
)
def test_other_sizes_are_refused(name, shape, expected):
    with pytest.raises(UsageError, match=expected):
        create(name).init(jax.random.key(0), jnp.zeros(shape))


def test_paper_form_has_ten_classes():
    with pytest.raises(UsageError, match="num_classes=11"):
        create("lenet5_1998", num_classes=11).init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))


def test_choices_of_the_modern_form_differ():
    image = jnp.asarray(np.random.default_rng(0).standard_normal((1, 28, 28, 1)), jnp.float32)
    variables = create("lenet5").init(jax.random.key(0), image)
    outputs = [
        create("lenet5", activation=activation, pooling=pooling).apply(variables, image)
        for activation in ("relu", "tanh")
        for pooling in ("max", "avg")
    ]
    assert len({np.asarray(logits).tobytes() for logits in outputs}) == 4
