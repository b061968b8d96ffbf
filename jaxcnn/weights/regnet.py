"""Names of RegNets' tensors in other libraries."""

from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.peer import Names, Peer

_BLOCK = "trunk_output.block{0}.block{0}-{1:-1}"
TORCHVISION = Names(
    (
        (r"stem/conv", "stem.0"),
        (r"stem/bn", "stem.1"),
        (r"stage(\d+)/block(\d+)/shortcut/conv", f"{_BLOCK}.proj.0"),
        (r"stage(\d+)/block(\d+)/shortcut/norm", f"{_BLOCK}.proj.1"),
        *(
            (rf"stage(\d+)/block(\d+)/conv{i}/{layer}", f"{_BLOCK}.f.{letter}.{at}")
            for i, letter in ((1, "a"), (2, "b"), (3, "c"))
            for layer, at in (("conv", 0), ("bn", 1))
        ),
        (r"stage(\d+)/block(\d+)/se/(fc\d)", f"{_BLOCK}.f.se.{{2}}"),
        (r"head", "fc"),
    )
)
TIMM = Names(
    (
        (r"stem/(conv|bn)", "stem.{0}"),
        (r"stage(\d+)/block(\d+)/shortcut/conv", "s{0}.b{1}.downsample.conv"),
        (r"stage(\d+)/block(\d+)/shortcut/norm", "s{0}.b{1}.downsample.bn"),
        (r"stage(\d+)/block(\d+)/(conv\d)/(conv|bn)", "s{0}.b{1}.{2}.{3}"),
        (r"stage(\d+)/block(\d+)/se/(fc\d)", "s{0}.b{1}.se.{2}"),
        (r"head", "head.fc"),
    )
)

_V1, _V2 = Preprocessing(), Preprocessing(resize=232)
_LINEAR = Preprocessing(resize=224, interpolation="bicubic")
_FINE_TUNED = Preprocessing(size=(384, 384), resize=384, interpolation="bicubic")
# timm's weights by the tag of their recipe.
_TIMM_TAGS = {
    "deit_in1k": Preprocessing(resize=235, interpolation="bicubic"),
    "lion_in12k_ft_in1k": Preprocessing(resize=235, interpolation="bicubic"),
    "pycls_in1k": Preprocessing(interpolation="bicubic"),
    "ra_in1k": Preprocessing(resize=235, interpolation="bicubic"),
    "ra3_in1k": Preprocessing(resize=235, interpolation="bicubic"),
    "seer_ft_in1k": _FINE_TUNED,
    "sw_in12k": Preprocessing(resize=235, interpolation="bicubic"),
    "sw_in12k_ft_in1k": Preprocessing(resize=235, interpolation="bicubic"),
    "swag_ft_in1k": _FINE_TUNED,
    "swag_lc_in1k": Preprocessing(resize=232, interpolation="bicubic"),
    "tv2_in1k": Preprocessing(resize=232, interpolation="bicubic"),
}
# What timm calls each size, and the tags of X's and Y's weights, the default first.
_PYCLS, _TV2 = ("pycls_in1k",), ("tv2_in1k", "pycls_in1k")
_TIMM = {
    "200mf": ("002", _PYCLS, _PYCLS),
    "400mf": ("004", _PYCLS, _TV2),
    "600mf": ("006", _PYCLS, _PYCLS),
    "800mf": ("008", _TV2, _PYCLS),
    "1_6gf": ("016", _TV2, _TV2),
    "3_2gf": ("032", _TV2, ("ra_in1k", *_TV2)),
    "4gf": ("040", _PYCLS, ("ra3_in1k", *_PYCLS)),
    "6_4gf": ("064", _PYCLS, ("ra3_in1k", *_PYCLS)),
    "8gf": ("080", _TV2, ("ra3_in1k", *_PYCLS)),
    "12gf": ("120", _PYCLS, ("sw_in12k_ft_in1k", "sw_in12k", *_PYCLS)),
    "16gf": (
        "160",
        _TV2,
        (
            *("sw_in12k_ft_in1k", "lion_in12k_ft_in1k", "sw_in12k", "deit_in1k"),
            *("tv2_in1k", "swag_ft_in1k", "swag_lc_in1k", "pycls_in1k"),
        ),
    ),
    "32gf": ("320", _TV2, ("tv2_in1k", "swag_ft_in1k", "swag_lc_in1k", "seer_ft_in1k", "pycls_in1k")),
}


def _timm(model: str, tags: tuple[str, ...], rounding: str) -> Peer:
    """Return the row of a model of timm whose weights have these tags, the default first."""
    known = {tag: _TIMM_TAGS[tag] for tag in tags}
    return Peer(model=model, names=TIMM, options={"rounding": rounding}, preprocessing=known[tags[0]], tags=known)


PEERS = {
    **{
        f"torchvision/regnet_{kind}_{size}": Peer(
            model=f"regnet_{kind}_{size}",
            names=TORCHVISION,
            preprocessing=_V1,
            tags={
                "IMAGENET1K_V2": _V2,
                **(
                    {"IMAGENET1K_SWAG_E2E_V1": _FINE_TUNED, "IMAGENET1K_SWAG_LINEAR_V1": _LINEAR}
                    if (kind, size) in (("y", "16gf"), ("y", "32gf"))
                    else {}
                ),
            },
        )
        for kind in "xy"
        for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")
    },
    **{
        f"timm/regnet{kind}_{name}": _timm(f"regnet_{kind}_{size}", tags, "paper")
        for size, (name, x_tags, y_tags) in _TIMM.items()
        for kind, tags in (("x", x_tags), ("y", y_tags))
    },
    # The three whose torchvision widths are not the paper's.
    **{
        f"timm/regnet{kind}_{name}_tv": _timm(f"regnet_{kind}_{size}", ("tv2_in1k",), "torchvision")
        for kind, name, size in (("x", "004", "400mf"), ("y", "008", "800mf"), ("y", "080", "8gf"))
    },
}
