"""Names of pre-activation residual networks' tensors in other libraries."""

from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.peer import KERAS_LEAVES, Names, Peer, keras_kernel
from jaxcnn.weights.resnet import keras_variances

TIMM = Names(
    (
        (r"stem/conv", "stem.conv"),
        (r"stage(\d+)/block(\d+)/shortcut", "stages.{0:-1}.blocks.{1:-1}.downsample.conv"),
        (r"stage(\d+)/block(\d+)/bn(\d)", "stages.{0:-1}.blocks.{1:-1}.norm{2}"),
        (r"stage(\d+)/block(\d+)/(conv\d)", "stages.{0:-1}.blocks.{1:-1}.{2}"),
        (r"norm/bn", "norm"),
        (r"head", "head.fc"),
    )
)

KERAS = Names(
    (
        (r"stem/conv", "conv1_conv"),
        (r"stage(\d)/block(\d+)/shortcut", "conv{0:1}_block{1}_0_conv"),
        (r"stage(\d)/block(\d+)/bn1", "conv{0:1}_block{1}_preact_bn"),
        (r"stage(\d)/block(\d+)/bn(\d)", "conv{0:1}_block{1}_{2:-1}_bn"),
        (r"stage(\d)/block(\d+)/conv(\d)", "conv{0:1}_block{1}_{2}_conv"),
        (r"norm/bn", "post_bn"),
        (r"head", "predictions"),
    ),
    leaves=KERAS_LEAVES,
    separator="/",
    kernel_layout=keras_kernel,
    prepare=keras_variances,
)


def _timm(resize: int) -> Preprocessing:
    """Return timm's preprocessing for these networks."""
    return Preprocessing(resize=resize, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


PEERS = {
    **{
        f"timm/resnetv2_{depth}": Peer(
            model=f"resnet{depth}v2", names=TIMM, preprocessing=_timm(resize), tags=dict.fromkeys(tags, _timm(resize))
        )
        for depth, resize, *tags in (
            (18, 248, "ra4_e3600_r224_in1k"),
            (34, 248, "ra4_e3600_r224_in1k"),
            (50, 235, "a1h_in1k"),
            (101, 235, "a1h_in1k"),
            (152, 256),
        )
    },
    **{
        f"keras/ResNet{depth}V2": Peer(
            model=f"resnet{depth}v2",
            names=KERAS,
            options={"variant": "keras"},
            preprocessing=Preprocessing(scale=1 / 127.5, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0)),
        )
        for depth in (50, 101, 152)
    },
}
