"""Inception-v4 (Szegedy et al. 2016, 1602.07261, section 3.1), as in the authors' released code (TF-slim)."""

from functools import partial

import flax.linen as nn

from jaxcnn.errors import UsageError
from jaxcnn.layers import Row
from jaxcnn.layers.initialisers import VarianceScaling, glorot_uniform
from jaxcnn.models.base import ModelEntry
from jaxcnn.models.inception_v3 import Inception, Stages, V, avg_same, max_halving

# Figure 3. The second of its branches has 7x1 first there, 1x7 in the code.
STEM = (
    *(Row(32, 3, 2, V), Row(32, 3, 1, V), Row(64, 3)),
    ((max_halving,), (Row(96, 3, 2, V),)),
    (
        (Row(64, 1), Row(96, 3, 1, V)),
        (Row(64, 1), Row(64, (1, 7)), Row(64, (7, 1)), Row(96, 3, 1, V)),
    ),
    ((Row(192, 3, 2, V),), (max_halving,)),
)
# Figure 4.
BLOCK_A = (
    (Row(96, 1),),
    (Row(64, 1), Row(96, 3)),
    (Row(64, 1), Row(96, 3), Row(96, 3)),
    (avg_same, Row(96, 1)),
)
# Figure 7 with the widths of table 1.
REDUCTION_A = (
    (Row(384, 3, 2, V),),
    (Row(192, 1), Row(224, 3), Row(256, 3, 2, V)),
    (max_halving,),
)
# Figure 5.
BLOCK_B = (
    (Row(384, 1),),
    (Row(192, 1), Row(224, (1, 7)), Row(256, (7, 1))),
    (Row(192, 1), Row(192, (7, 1)), Row(224, (1, 7)), Row(224, (7, 1)), Row(256, (1, 7))),
    (avg_same, Row(128, 1)),
)
# Figure 8.
REDUCTION_B = (
    (Row(192, 1), Row(192, 3, 2, V)),
    (Row(256, 1), Row(256, (1, 7)), Row(320, (7, 1)), Row(320, 3, 2, V)),
    (max_halving,),
)
# Figure 6.
FORK_C = ((Row(256, (1, 3)),), (Row(256, (3, 1)),))
BLOCK_C = (
    (Row(256, 1),),
    (Row(384, 1), FORK_C),
    (Row(384, 1), Row(448, (3, 1)), Row(512, (1, 3)), FORK_C),
    (avg_same, Row(256, 1)),
)

# As TF-slim: its variance scaling for convolutions, its default for fully connected layers.
conv_init = VarianceScaling(2.0, "fan_in", "truncated_normal")
head_init = glorot_uniform


def three_depths(depths: tuple[int, ...]) -> tuple[int, ...]:
    """Return `depths`, which has to be three numbers: of blocks on 35x35, 17x17 and 8x8."""
    if len(depths) != 3:
        raise UsageError(f"depths={depths}: expected three numbers of blocks, on 35x35, 17x17 and 8x8, as (4, 7, 3)")
    return depths


class InceptionV4(Inception):
    """Inception-v4 (figure 9); further attributes are those of `Inception`.

    The auxiliary head is in the released code only.

    Attributes:
      depths: blocks on 35x35, 17x17 and 8x8.
    """

    inits = conv_init, head_init, conv_init, head_init

    depths: tuple[int, ...] = (4, 7, 3)

    @nn.nowrap
    def stage_steps(self) -> Stages:
        """Return figure 9."""
        a, b, c = three_depths(self.depths)
        return {
            "stem": STEM,
            "inception_a": (BLOCK_A,) * a,
            "reduction_a": (REDUCTION_A,),
            "inception_b": (BLOCK_B,) * b,
            "reduction_b": (REDUCTION_B,),
            "inception_c": (BLOCK_C,) * c,
        }


inception_v4 = InceptionV4

# For tests.
inception_v4_tiny = partial(InceptionV4, depths=(1, 1, 1), width=1 / 16, num_classes=5)

MODELS = {
    "inception_v4": ModelEntry(
        inception_v4, paper="1602.07261", year=2016, input_shape=(299, 299, 3), num_classes=1000
    ),
}
