"""RegNet's widths and depths against the tables of the paper (2003.13678, tables 2 and 4)."""

import jax
import jax.numpy as jnp
import pytest

from jaxcnn.models import create
from jaxcnn.models.regnet import stage_widths

PAPER = {
    "regnet_x_200mf": ([24, 56, 152, 368], [1, 1, 4, 7]),
    "regnet_x_400mf": ([32, 64, 160, 384], [1, 2, 7, 12]),
    "regnet_x_600mf": ([48, 96, 240, 528], [1, 3, 5, 7]),
    "regnet_x_800mf": ([64, 128, 288, 672], [1, 3, 7, 5]),
    "regnet_x_1_6gf": ([72, 168, 408, 912], [2, 4, 10, 2]),
    "regnet_x_3_2gf": ([96, 192, 432, 1008], [2, 6, 15, 2]),
    "regnet_x_4gf": ([80, 240, 560, 1360], [2, 5, 14, 2]),
    "regnet_x_6_4gf": ([168, 392, 784, 1624], [2, 4, 10, 1]),
    "regnet_x_8gf": ([80, 240, 720, 1920], [2, 5, 15, 1]),
    "regnet_x_12gf": ([224, 448, 896, 2240], [2, 5, 11, 1]),
    "regnet_x_16gf": ([256, 512, 896, 2048], [2, 6, 13, 1]),
    "regnet_x_32gf": ([336, 672, 1344, 2520], [2, 7, 13, 1]),
    "regnet_y_200mf": ([24, 56, 152, 368], [1, 1, 4, 7]),
    "regnet_y_400mf": ([48, 104, 208, 440], [1, 3, 6, 6]),
    "regnet_y_600mf": ([48, 112, 256, 608], [1, 3, 7, 4]),
    "regnet_y_800mf": ([64, 128, 320, 768], [1, 3, 8, 2]),
    "regnet_y_1_6gf": ([48, 120, 336, 888], [2, 6, 17, 2]),
    "regnet_y_3_2gf": ([72, 216, 576, 1512], [2, 5, 13, 1]),
    "regnet_y_4gf": ([128, 192, 512, 1088], [2, 6, 12, 2]),
    "regnet_y_6_4gf": ([144, 288, 576, 1296], [2, 7, 14, 2]),
    "regnet_y_8gf": ([168, 448, 896, 2016], [2, 4, 10, 1]),
    "regnet_y_12gf": ([224, 448, 896, 2240], [2, 5, 11, 1]),
    "regnet_y_16gf": ([224, 448, 1232, 3024], [2, 4, 11, 1]),
    "regnet_y_32gf": ([232, 696, 1392, 3712], [2, 5, 12, 1]),
}
# Where torchvision rounds another way.
TORCHVISION = {
    "regnet_x_400mf": [32, 64, 160, 400],
    "regnet_y_800mf": [64, 144, 320, 784],
    "regnet_y_8gf": [224, 448, 896, 2016],
}


def widths_and_depths(name, **options):
    model = create(name, **options)
    stages = stage_widths(model.depth, model.w0, model.wa, model.wm, model.group_width, model.rounding)
    return [width for width, _ in stages], [depth for _, depth in stages]


@pytest.mark.parametrize("name", PAPER)
def test_widths_and_depths(name):
    widths, depths = PAPER[name]
    assert widths_and_depths(name, rounding="paper") == (widths, depths)
    assert widths_and_depths(name) == (TORCHVISION.get(name, widths), depths)


def test_hidden_features_are_a_quarter_of_the_blocks_input():
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(create("regnet_y_400mf").init, jax.random.key(0), x)["params"]
    stage2 = params["stage2"]
    assert [stage2[f"block{i}"]["se"]["fc1"]["kernel"].shape for i in (1, 2)] == [(104, 12), (104, 26)]
    assert stage2["block1"]["conv2"]["conv"]["kernel"].shape == (3, 3, 8, 104)
    x_params = jax.eval_shape(create("regnet_x_400mf").init, jax.random.key(0), x)["params"]
    assert "se" not in x_params["stage2"]["block1"]
