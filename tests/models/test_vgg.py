"""VGG against table 1 of 1409.1556."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import features
from jaxcnn.errors import UsageError
from jaxcnn.layers import local_response_norm_paper
from jaxcnn.models import create
from jaxcnn.models.vgg import vgg_tiny


def images(side, n=2):
    return jnp.asarray(np.random.default_rng(0).standard_normal((n, side, side, 3)), jnp.float32)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        # Kernel sizes from top to bottom, by stage.
        ("vgg11", ["3", "3", "33", "33", "33"]),
        ("vgg11_lrn", ["3", "3", "33", "33", "33"]),
        ("vgg13", ["33", "33", "33", "33", "33"]),
        ("vgg16_c", ["33", "33", "331", "331", "331"]),
        ("vgg16", ["33", "33", "333", "333", "333"]),
        ("vgg19", ["33", "33", "3333", "3333", "3333"]),
    ],
)
def test_table_1(name, columns):
    model, spec = create(name), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), spec)
    names = [f"stage{i}" for i in range(1, 6)]
    maps = jax.eval_shape(lambda v, x: features(model, v, x, names), variables, spec)
    sizes = [(224, 224, 64), (112, 112, 128), (56, 56, 256), (28, 28, 512), (14, 14, 512)]
    assert [maps[name].shape[1:] for name in names] == sizes
    kernels = [
        "".join(str(stage[f"block{i}"]["conv"]["kernel"].shape[0]) for i in range(1, len(stage) + 1))
        for stage in (variables["params"][name] for name in names)
    ]
    assert kernels == columns
    dense = [variables["params"][name]["dense"]["kernel"].shape for name in ("fc6", "fc7")]
    assert dense == [(25088, 4096), (4096, 4096)]


def test_a_lrn_normalises_stage_1_alone():
    x = 100 * images(32)
    plain, normalised = vgg_tiny(), vgg_tiny(lrn=True)
    variables = plain.init(jax.random.key(0), x)
    found = features(normalised, variables, x, ["stage1", "stage1/block1", "stage2", "stage2/block2"])
    np.testing.assert_array_equal(found["stage1"], local_response_norm_paper(found["stage1/block1"]))
    assert np.abs(found["stage1"] - found["stage1/block1"]).max() > 1
    np.testing.assert_array_equal(found["stage2"], found["stage2/block2"])


def test_initialisations():
    # 1409.1556, section 3.1: variance 0.01. The others by their fans: 9 x 32 in and out, and 32 in and out.
    expected = {
        "paper": (0.1, 0.1),
        "glorot": ((1 / (9 * 32)) ** 0.5, (2 / (49 * 32 + 512)) ** 0.5),
        "he": ((2 / (9 * 32)) ** 0.5, 0.01),
    }
    for name, (in_conv, in_dense) in expected.items():
        model = vgg_tiny(initialisation=name, depths=(1, 2), widths=(32, 32), hidden=512)
        params = model.init(jax.random.key(0), images(32))["params"]
        found = params["stage2"]["block2"]["conv"]["kernel"], params["fc6"]["dense"]["kernel"]
        assert np.std(found[0]) == pytest.approx(in_conv, rel=0.05), name
        assert np.std(found[1]) == pytest.approx(in_dense, rel=0.01), name


def test_dropout_is_behind_both_hidden_layers():
    model, x = vgg_tiny(), images(32)
    variables = model.init(jax.random.key(0), x)
    names = ["fc6", "fc7", "output"]
    tested = features(model, variables, x, names)
    trained = features(model, variables, x, names, train=True, key=jax.random.key(0))
    assert [np.array_equal(tested[name], trained[name]) for name in names] == [True, False, False]
    without_head = model.clone(num_classes=None)
    np.testing.assert_array_equal(without_head.apply(variables, x), tested["fc7"])
    # The head's input is dropped too: with the activations of fc7 put back the logits still change.
    back = {"fc7": tested["fc7"] - trained["fc7"]}
    put_back = features(model, variables, x, names, train=True, key=jax.random.key(0), add=back)
    np.testing.assert_allclose(put_back["fc7"], tested["fc7"], rtol=1e-5)
    assert not np.allclose(put_back["output"], tested["output"], rtol=0.1, atol=0)


def test_wrong_widths_are_named():
    with pytest.raises(UsageError, match=r"widths=\(4, 4\): expected 3 of them, as depths=\(1, 1, 1\)"):
        vgg_tiny(depths=(1, 1, 1), widths=(4, 4)).init(jax.random.key(0), images(32))
