"""Parameters and multiply-adds against the numbers of the papers and of the reference implementations."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxcnn.models import MODELS, create
from jaxcnn.models.summary import count_macs, count_params, totals

# (name, options, parameters, multiply-adds, source)
COUNTS = [
    ("lenet5_1998", {}, 60_000, None, "LeCun et al. 1998, section II-B"),
    ("lenet5", {}, 61_706, 416_520, "156 + 2,416 + 48,120 + 10,164 + 850"),
    ("lenet5_valid", {}, 44_426, 281_640, "256 inputs to the first dense layer"),
    # 1512.03385, table 6, to two digits; exact integers as counted layer by layer.
    ("resnet20", {}, 269_722, 40_551_040, "0.27 M"),
    ("resnet32", {}, 464_154, 68_862_592, "0.46 M"),
    ("resnet44", {}, 658_586, 97_174_144, "0.66 M"),
    ("resnet56", {}, 853_018, 125_485_696, "0.85 M"),
    ("resnet110", {}, 1_727_962, 252_887_680, "1.7 M"),
    ("resnet1202", {}, 19_421_274, 2_829_238_912, "19.4 M"),
    ("resnet20", {"num_classes": 100}, 275_572, None, "90 more outputs of 65 each"),
    ("resnet32", {"num_classes": 100}, 470_004, None, ""),
    ("resnet44", {"num_classes": 100}, 664_436, None, ""),
    ("resnet56", {"num_classes": 100}, 858_868, None, ""),
    ("resnet110", {"num_classes": 100}, 1_733_812, None, ""),
    ("resnet1202", {"num_classes": 100}, 19_427_124, None, ""),
    ("resnet20", {"shortcut": "B"}, 272_474, None, "two projections with BatchNorm"),
    ("resnet32", {"shortcut": "B"}, 466_906, None, ""),
    ("resnet44", {"shortcut": "B"}, 661_338, None, ""),
    ("resnet56", {"shortcut": "B"}, 855_770, None, ""),
    ("resnet110", {"shortcut": "B"}, 1_730_714, None, ""),
    ("resnet1202", {"shortcut": "B"}, 19_424_026, None, ""),
    # Option C has 3 projections 16 -> 16, one 16 -> 32, two 32 -> 32, one 32 -> 64 and two 64 -> 64.
    (
        "resnet20",
        {"shortcut": "C"},
        269_722 + 3 * 288 + 576 + 2 * 1_088 + 2_176 + 2 * 4_224,
        None,
        "by hand",
    ),
    ("plain20", {}, 269_722, 40_551_040, "as option A"),
    ("plain32", {}, 464_154, 68_862_592, ""),
    ("plain44", {}, 658_586, 97_174_144, ""),
    ("plain56", {}, 853_018, 125_485_696, ""),
    ("plain110", {}, 1_727_962, 252_887_680, ""),
    # torchvision's num_params; v1 (3.8, 7.6 and 11.3 "FLOPs" in the paper's table 1) strides in the 1x1.
    ("resnet18", {}, 11_689_512, 1_814_073_344, "torchvision"),
    ("resnet34", {}, 21_797_672, 3_663_761_408, "torchvision"),
    ("resnet50", {}, 25_557_032, 4_089_184_256, "torchvision"),
    ("resnet101", {}, 44_549_160, 7_801_405_440, "torchvision"),
    ("resnet152", {}, 60_192_808, 11_513_626_624, "torchvision"),
    ("resnet50", {"variant": "v1"}, 25_557_032, 3_857_973_248, "1512.03385, table 1"),
    ("resnet101", {"variant": "v1"}, 44_549_160, 7_570_194_432, "1512.03385, table 1"),
    ("resnet152", {"variant": "v1"}, 60_192_808, 11_282_415_616, "1512.03385, table 1"),
    ("resnet18", {"shortcut": "A"}, 11_515_688, 1_794_805_760, "as plain"),
    ("resnet34", {"shortcut": "A"}, 21_623_848, 3_644_493_824, "as plain"),
    ("plain18", {}, 11_515_688, 1_794_805_760, "1512.03385, table 2"),
    ("plain34", {}, 21_623_848, 3_644_493_824, "1512.03385, table 2"),
    # 1603.05027; timm reports 25.55 M and 44.54 M for the first two.
    ("resnet50v2", {}, 25_549_352, 4_089_184_256, "timm resnetv2_50"),
    ("resnet101v2", {}, 44_541_480, 7_801_405_440, "timm resnetv2_101"),
    ("resnet152v2", {}, 60_185_128, 11_513_626_624, "1603.05027"),
    ("resnet200v2", {}, 64_666_152, 15_007_481_856, "1603.05027"),
    ("resnet164v2", {}, 1_703_258, 244_500_992, "1.7 M; stride as in resnet-1k-layers"),
    ("resnet1001v2", {}, 10_327_706, 1_487_849_984, "10.2 M"),
]

# Rows of the reference table that are one of our models, by the start of their name.
CSV_ROWS = {
    "LeNet-5 (1998)": ("lenet5_1998", {}),
    "LeNet-5 (modern": ("lenet5", {}),
    "LeNet-5 (28x28, valid)": ("lenet5_valid", {}),
    **{f"CIFAR ResNet-{n} (option A)": (f"resnet{n}", {}) for n in (20, 32, 44, 56, 110, 1202)},
    **{f"CIFAR plain-{n}": (f"plain{n}", {}) for n in (20, 32, 44, 56, 110)},
    **{f"CIFAR pre-act ResNet-{n}": (f"resnet{n}v2", {}) for n in (164, 1001)},
    **{f"ResNet-{n} (torchvision": (f"resnet{n}", {}) for n in (18, 34)},
    **{f"ResNet-{n} (fb.resnet.torch": (f"resnet{n}", {}) for n in (18, 34, 50, 101, 152)},
    **{f"ResNet-{n} v1.5 (torchvision": (f"resnet{n}", {}) for n in (50, 101, 152)},
    **{f"ResNet-{n} v1 (MSRA": (f"resnet{n}", {"variant": "v1"}) for n in (50, 101, 152)},
    **{f"ResNet-{n} (paper, option A)": (f"resnet{n}", {"shortcut": "A"}) for n in (18, 34)},
    **{f"plain-{n} (paper)": (f"plain{n}", {}) for n in (18, 34)},
    **{f"ResNet-{n} v2 pre-activation": (f"resnet{n}v2", {}) for n in (50, 101, 152, 200)},
    **{f"resnetv2_{n}.a1h_in1k (timm)": (f"resnet{n}v2", {}) for n in (50, 101)},
}


@pytest.mark.parametrize(("name", "options", "params", "macs", "source"), COUNTS, ids=lambda v: str(v).replace(" ", ""))
def test_counts(name, options, params, macs, source):
    counted = totals(create(name, **options), MODELS[name].input_shape)
    assert counted[0] == params, source
    if macs is not None:
        assert counted[1] == macs, source


@pytest.mark.parametrize("name", ["lenet5", "lenet5_1998", "resnet20", "plain32", "resnet34", "resnet50v2"])
def test_counted_parameters_are_those_of_init(name):
    # `totals` skips repeated blocks; `init` does not.
    model, shape = create(name), MODELS[name].input_shape
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    assert count_params(variables) == totals(model, shape)[0]


def test_macs_scale_with_the_area():
    assert count_macs(create("resnet20", num_classes=None), (64, 64, 3)) == 4 * (40_551_040 - 640)


def test_every_name_counts():
    for name, entry in MODELS.items():
        assert min(totals(create(name), entry.input_shape)) > 0, name


@pytest.mark.data
def test_reference_table():
    path = Path(__file__).parents[2].parent / "shared/reference/architectures.csv"
    if not path.exists():
        pytest.skip(f"no reference table at {path}")
    found = set()
    for row in csv.DictReader(path.read_text().splitlines()):
        match = next((start for start in CSV_ROWS if row["name"].startswith(start)), None)
        if match is None or not row["params"]:
            continue
        found.add(match)
        name, options = CSV_ROWS[match]
        params, macs = totals(create(name, **options), MODELS[name].input_shape)
        assert params == int(row["params"]), row["name"]
        if row["macs_counted"]:
            assert macs == pytest.approx(int(row["macs_counted"]), rel=0.005), row["name"]
    assert found == set(CSV_ROWS)
