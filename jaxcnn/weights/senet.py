"""The squeeze-and-excitation networks of timm; their tensors are named as those of its residual networks."""

from jaxcnn.weights.resnet import timm_peer

PEERS = {
    "timm/seresnet18": timm_peer("se_resnet18", "untrained", min_hidden=8),
    "timm/seresnet34": timm_peer("se_resnet34", "untrained", min_hidden=8),
    "timm/seresnet50": timm_peer("se_resnet50", "a1_in1k", "a2_in1k", "a3_in1k", "ra2_in1k"),
    "timm/seresnet101": timm_peer("se_resnet101", "untrained"),
    "timm/seresnet152": timm_peer("se_resnet152", "untrained"),
    "timm/seresnext50_32x4d": timm_peer("se_resnext50_32x4d", "racm_in1k", "gluon_in1k"),
    "timm/seresnext101_32x4d": timm_peer("se_resnext101_32x4d", "gluon_in1k"),
}
