"""Parameters and multiply-adds against the numbers of the papers and of the reference implementations."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxcnn.models import MODELS, create
from jaxcnn.models.summary import totals
from jaxcnn.models.trace import Known

# (name, options, parameters, multiply-adds, source)
COUNTS = [
    ("lenet5_1998", {}, 60_000, None, "LeCun et al. 1998, section II-B"),
    ("lenet5", {}, 61_706, 416_520, "156 + 2,416 + 48,120 + 10,164 + 850"),
    ("lenet5_valid", {}, 44_426, 281_640, "256 inputs to the first dense layer"),
    # The largest five layers of the 2012 network: 37,752,832 + 16,781,312 + 4,097,000 + 885,120 + 663,936.
    ("alexnet_2012", {}, 60_965_224, 724_406_816, "Caffe, bvlc_alexnet"),
    ("alexnet_2012", {"groups": 1}, 62_378_344, 1_135_256_096, "48 x 25 x 256 + 192 x 9 x (384 + 256) more"),
    ("alexnet", {}, 61_100_840, 714_188_480, "torchvision"),
    ("zfnet", {}, 62_357_608, 1_168_032_896, "counted"),
    ("zfnet_512_1024_512", {}, 107_627_624, 2_476_704_896, "counted"),
    ("vgg11", {}, 132_863_336, 7_609_090_048, "1409.1556, table 2: 133 million"),
    ("vgg11_lrn", {}, 132_863_336, 7_609_090_048, "the same"),
    ("vgg13", {}, 133_047_848, 11_308_466_176, "133 million"),
    ("vgg16_c", {}, 133_638_952, 11_770_888_192, "134 million"),
    ("vgg16", {}, 138_357_544, 15_470_264_320, "138 million"),
    ("vgg19", {}, 143_667_240, 19_632_062_464, "144 million"),
    ("vgg11_bn", {}, 132_868_840, 7_609_090_048, "torchvision"),
    ("vgg13_bn", {}, 133_053_736, 11_308_466_176, "torchvision"),
    ("vgg16_bn", {}, 138_365_992, 15_470_264_320, "torchvision"),
    ("vgg19_bn", {}, 143_678_248, 19_632_062_464, "torchvision"),
    ("googlenet", {}, 6_998_552, 1_582_671_872, "Caffe, bvlc_googlenet"),
    ("googlenet", {"aux_heads": True}, 13_378_280, 1_591_044_096, "1409.4842, section 5"),
    ("googlenet_bn", {}, 6_624_904, 1_498_376_192, "torchvision"),
    ("googlenet_bn", {"aux_heads": True}, 13_004_888, 1_506_748_416, "torchvision"),
    ("inception_v3", {}, 23_834_568, 5_713_216_096, "timm"),
    ("inception_v3", {"aux_heads": True}, 27_161_264, 5_718_899_296, "torchvision"),
    ("inception_v4", {}, 42_679_816, 12_253_974_624, "timm"),
    ("inception_v4", {"aux_heads": True}, 46_039_280, 12_260_477_024, "slim's head on the last 17x17 block"),
    ("inception_resnet_v2", {}, 55_843_464, 13_155_794_016, "timm"),
    ("densenet40_k12", {}, 1_019_722, 264_812_928, "1608.06993, table 2: 1.0 M"),
    ("densenet40_k12", {"num_classes": 100}, 1_060_132, None, "90 more outputs of 449 each"),
    ("densenet100_k12", {}, 6_979_642, 1_769_516_448, "7.0 M"),
    ("densenet100_k24", {}, 27_249_082, 6_889_347_744, "27.2 M"),
    ("densenet_bc100_k12", {}, 769_162, 287_929_692, "0.8 M"),
    ("densenet_bc250_k24", {}, 15_324_406, 5_418_785_724, "15.3 M"),
    ("densenet_bc190_k40", {}, 25_624_430, 9_301_945_740, "25.6 M"),
    ("densenet121", {}, 7_978_856, 2_834_161_664, "torchvision"),
    ("densenet161", {}, 28_681_000, 7_727_907_072, "torchvision"),
    ("densenet169", {}, 14_149_480, 3_359_843_328, "torchvision"),
    ("densenet201", {}, 20_013_928, 4_291_365_888, "torchvision"),
    ("squeezenet1_0", {}, 1_248_424, 818_924_576, "1602.07360, table 1"),
    ("squeezenet1_1", {}, 1_235_496, 349_151_936, "torchvision"),
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
    # Keras: 25,613,800, 44,675,560 and 60,380,648 with the moving statistics, 45,440, 97,664 and 143,744.
    ("resnet50v2", {"variant": "keras"}, 25_568_360, None, "Keras, trainable"),
    ("resnet101v2", {"variant": "keras"}, 44_577_896, None, "Keras, trainable"),
    ("resnet152v2", {"variant": "keras"}, 60_236_904, None, "Keras, trainable"),
    # 1605.07146, tables 4 and 5: 0.6, 2.2, 35.7, 17.2, 26.8, 52.5, 2.7 and 17.1 M; others are in the CSV.
    ("wrn_40_1", {}, 563_930, None, "0.6 M"),
    ("wrn_40_2", {}, 2_243_546, None, "2.2 M"),
    ("wrn_40_8", {}, 35_748_314, None, "35.7 M"),
    ("wrn_22_8", {}, 17_158_106, None, "17.2 M"),
    ("wrn_22_10", {}, 26_797_914, None, "26.8 M"),
    ("wrn_28_12", {}, 52_517_850, None, "52.5 M"),
    ("wrn_16_4", {}, 2_748_890, None, "2.7 M"),
    ("wrn_16_10", {}, 17_116_634, None, "17.1 M"),
    ("wide_resnet101_2", {}, 126_886_696, 22_753_050_624, "torchvision"),
    ("se_resnet34", {"min_hidden": 8}, 21_960_416, None, "timm seresnet34"),
    ("se_resnext50_32x4d", {}, 27_559_896, None, "timm"),
    ("se_resnext101_32x4d", {}, 48_955_416, None, "timm"),
    # timm has the paper's widths: 5.2, 6.3 and 39.2 M in 2003.13678, tables 2 and 4.
    ("regnet_x_400mf", {"rounding": "paper"}, 5_157_512, None, "timm regnetx_004"),
    ("regnet_y_800mf", {"rounding": "paper"}, 6_263_168, None, "timm regnety_008"),
    ("regnet_y_8gf", {"rounding": "paper"}, 39_180_068, None, "timm regnety_080"),
    ("regnet_x_32gf", {}, 107_811_560, None, "torchvision"),
    ("regnet_y_32gf", {}, 145_046_770, None, "torchvision"),
    # 1905.11946, table 2, and 2201.03545, table 1, both rounded; exact integers as torchvision.
    # 1704.04861, tables 6 and 8: 569 M and 4.2 M, 325 M and 2.6 M, 149 M and 1.3 M, 41 M and 0.5 M.
    ("mobilenet_v1", {}, 4_231_976, 568_740_352, "timm mobilenetv1_100"),
    ("mobilenet_v1", {"width": 0.75}, 2_585_560, 325_400_448, "counted"),
    ("mobilenet_v1", {"width": 0.5}, 1_331_592, 149_497_088, "counted"),
    ("mobilenet_v1", {"width": 0.25}, 470_072, 41_030_272, "counted"),
    ("mobilenet_v1", {"width": 1.25}, 6_270_840, None, "timm mobilenetv1_125"),
    ("mobilenet_v2", {}, 3_504_872, 300_774_272, "torchvision"),
    ("mobilenet_v2", {"width": 0.35}, 1_677_128, None, "timm mobilenetv2_035"),
    ("mobilenet_v2", {"width": 0.5}, 1_968_680, None, "timm mobilenetv2_050"),
    ("mobilenet_v2", {"width": 0.75}, 2_636_424, None, "timm mobilenetv2_075"),
    ("mobilenet_v2", {"width": 1.4}, 6_108_776, None, "timm mobilenetv2_140"),
    ("mobilenet_v3_large", {}, 5_483_032, 216_589_760, "torchvision; 219 M in the paper's table 3"),
    ("mobilenet_v3_small", {}, 2_542_856, 56_510_400, "torchvision"),
    ("mobilenet_v3_large", {"width": 0.75}, 3_993_528, None, "timm mobilenetv3_large_075"),
    ("mobilenet_v3_small", {"width": 0.5}, 1_593_224, None, "timm mobilenetv3_small_050"),
    ("shufflenet_v2_x0_5", {}, 1_366_792, 40_476_448, "torchvision; 41 M in the paper's table 5"),
    ("shufflenet_v2_x1_0", {}, 2_278_604, 144_907_992, "torchvision; 146 M in the paper's table 5"),
    ("shufflenet_v2_x1_5", {}, 3_503_624, 295_759_392, "torchvision; 299 M in the paper's table 5"),
    ("shufflenet_v2_x2_0", {}, 7_393_996, 583_253_464, "torchvision; 591 M in the paper's table 5"),
    ("mnasnet0_5", {}, 2_218_512, 104_455_968, "torchvision"),
    ("mnasnet0_75", {}, 3_170_208, 215_493_104, "torchvision"),
    ("mnasnet1_0", {}, 4_383_312, 314_415_872, "torchvision"),
    ("mnasnet1_3", {}, 6_282_256, 526_362_432, "torchvision"),
    ("mnasnet_a1", {}, 3_887_038, 311_579_072, "timm semnasnet_100; 3.9 M and 312 M in the paper's table 1"),
    ("efficientnet_b0", {}, 5_288_548, 385_814_752, "torchvision"),
    ("efficientnet_b1", {}, 7_794_184, 686_802_832, "torchvision"),
    ("efficientnet_b2", {}, 9_109_994, 993_561_872, "torchvision"),
    ("efficientnet_b3", {}, 12_233_232, 1_827_141_392, "torchvision"),
    ("efficientnet_b4", {}, 19_341_616, 4_393_771_024, "torchvision"),
    ("efficientnet_b5", {}, 30_389_784, 10_266_384_752, "torchvision"),
    ("efficientnet_b6", {}, 43_040_704, 19_067_593_536, "torchvision"),
    ("efficientnet_b7", {}, 66_347_960, 37_745_884_192, "torchvision"),
    ("convnext_tiny", {}, 28_589_128, 4_455_531_264, "torchvision"),
    ("convnext_small", {}, 50_223_688, 8_683_712_256, "torchvision"),
    ("convnext_base", {}, 88_591_464, 15_354_729_472, "torchvision"),
    ("convnext_large", {}, 197_767_336, 34_361_433_600, "torchvision"),
    # Without the fixed upsampling, which has neither parameters nor a count of multiply-adds; with it as layers.
    ("fcn32s_vgg16", {}, 134_346_581, None, "1411.4038, released network"),
    ("fcn16s_vgg16", {}, 134_357_354, None, ""),
    ("fcn8s_vgg16", {}, 134_362_751, None, ""),
    ("fcn32s_vgg16", {"learned_upsampling": True}, 134_346_581 + 64 * 64 * 21 * 21, None, "by hand"),
    ("fcn16s_vgg16", {"learned_upsampling": True}, 134_357_354 + (16 + 32 * 32) * 21 * 21, None, "by hand"),
    ("fcn8s_vgg16", {"learned_upsampling": True}, 134_362_751 + (16 + 16 + 16 * 16) * 21 * 21, None, "by hand"),
    # torchvision's _ops, taken at 520 x 520, count the auxiliary head, which has 9,990,739,200 multiply-adds.
    ("fcn_resnet50", {"aux_heads": True}, 35_322_218, 152_716_512_000, "torchvision"),
    ("fcn_resnet50", {}, 32_957_013, 142_725_772_800, "2,365,205 less"),
    ("fcn_resnet101", {"aux_heads": True}, 54_314_346, 232_737_606_400, "torchvision"),
    ("deeplabv3_resnet50", {"aux_heads": True}, 42_004_074, 178_721_945_088, "torchvision"),
    ("deeplabv3_resnet50", {}, 39_638_869, None, "2,365,205 less"),
    ("deeplabv3_resnet101", {"aux_heads": True}, 60_996_202, 258_743_039_488, "torchvision"),
    ("unet", {}, 31_030_658, 150_428_424_448, "1505.04597, layer by layer"),
    ("unet_same", {}, 31_037_698, None, "layer by layer"),
]

# Rows of the reference table that are one of our models, by the start of their name.
CSV_ROWS = {
    "LeNet-5 (1998)": ("lenet5_1998", {}),
    "LeNet-5 (modern": ("lenet5", {}),
    "LeNet-5 (28x28, valid)": ("lenet5_valid", {}),
    "AlexNet two-tower (paper": ("alexnet_2012", {}),
    "AlexNet two-tower (Caffe": ("alexnet_2012", {"norm": "caffe"}),
    "AlexNet ungrouped": ("alexnet_2012", {"groups": 1}),
    "AlexNet 5 CNNs": ("alexnet_2012", {}),
    "CaffeNet (pool before norm)": ("alexnet_2012", {"norm": "caffe", "pool_first": True}),
    "AlexNet one-weird-trick": ("alexnet", {}),
    "ZFNet (fig. 3": ("zfnet", {}),
    "ZFNet (512-1024-512": ("zfnet_512_1024_512", {}),
    **{f"VGG-{n} (torchvision": (f"vgg{n}", {}) for n in (11, 13, 16, 19)},
    **{f"VGG-{n} +BN (torchvision": (f"vgg{n}_bn", {}) for n in (11, 13, 16, 19)},
    **{f"VGG-{n} (config {letter}": (f"vgg{n}", {}) for n, letter in ((11, "A"), (13, "B"), (16, "D"), (19, "E"))},
    "VGG-16 config C": ("vgg16_c", {}),
    "VGG-16 (original caffe": ("vgg16", {}),
    **{f"VGG-{n} (Keras)": (f"vgg{n}", {}) for n in (16, 19)},
    "SqueezeNet 1.0": ("squeezenet1_0", {}),
    "SqueezeNet 1.1": ("squeezenet1_1", {}),
    "SqueezeNet (paper)": ("squeezenet1_0", {}),
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
    "WRN-28-10 (CIFAR-100)": ("wrn_28_10", {"num_classes": 100}),
    **{f"WRN-{n}": (f"wrn_{n.replace('-', '_')}", {}) for n in ("28-10", "40-4", "16-8", "40-10")},
    **{start: ("wide_resnet50_2", {}) for start in ("Wide ResNet-50-2", "WRN-50-2-bottleneck")},
    **{
        f"ResNeXt-{n}": (f"resnext{n.replace(' ', '_')}", {})
        for n in ("50 32x4d", "101 32x4d", "101 32x8d", "101 64x4d")
    },
    **{f"SE-ResNet-{n} (": (f"se_resnet{n}", {}) for n in (50, 101, 152)},
    **{f"RegNetX-{n} (": (f"regnet_x_{n.lower()}", {}) for n in ("400MF", "800MF", "3_2GF")},
    **{f"RegNetY-{n} (": (f"regnet_y_{n.lower()}", {}) for n in ("400MF", "800MF", "1_6GF", "3_2GF", "8GF")},
    "MobileNet v1 1.0": ("mobilenet_v1", {}),
    "MobileNet v2 1.0": ("mobilenet_v2", {}),
    **{f"MobileNet v3 {size}": (f"mobilenet_v3_{size}", {}) for size in ("large", "small")},
    **{f"ShuffleNetV2 x{w}": (f"shufflenet_v2_x{w.replace('.', '_')}", {}) for w in ("0.5", "1.0", "1.5", "2.0")},
    **{f"MNASNet {w}": (f"mnasnet{w.replace('.', '_')}", {}) for w in ("0.5", "0.75", "1.0", "1.3")},
    **{f"EfficientNet-B{i} (": (f"efficientnet_b{i}", {}) for i in range(8)},
    **{f"ConvNeXt-{size.title()} (": (f"convnext_{size}", {}) for size in ("tiny", "small", "base", "large")},
    **{f"ConvNeXt-{size} (": (f"convnext_{size}", {}) for size in ("tiny", "small", "base", "large")},
    **{f"FCN-{n}s VGG-16": (f"fcn{n}s_vgg16", {}) for n in (32, 16, 8)},
    **{f"FCN ResNet-{n} (": (f"fcn_resnet{n}", {"aux_heads": True}) for n in (50, 101)},
    **{f"DeepLabV3 ResNet-{n} (": (f"deeplabv3_resnet{n}", {"aux_heads": True}) for n in (50, 101)},
    "U-Net (paper": ("unet", {}),
    "U-Net (same padding": ("unet_same", {}),
    "GoogLeNet (paper, no aux)": ("googlenet", {}),
    "GoogLeNet (Caffe bvlc_googlenet": ("googlenet", {}),
    "GoogLeNet with both aux heads": ("googlenet", {"aux_heads": True}),
    "GoogLeNet (BN, 3x3 in place of 5x5": ("googlenet_bn", {}),
    "GoogLeNet (torchvision, with aux)": ("googlenet_bn", {"aux_heads": True}),
    "Inception-v3 (with aux)": ("inception_v3", {"aux_heads": True}),
    "Inception-v3 (no aux)": ("inception_v3", {}),
    "Inception-v3 (TF-slim weights": ("inception_v3", {}),
    "Inception-v4 (paper)": ("inception_v4", {}),
    "Inception-v4 (timm": ("inception_v4", {}),
    "Inception-v4 with aux": ("inception_v4", {"aux_heads": True}),
    "Inception-ResNet-v2 (paper)": ("inception_resnet_v2", {}),
    "Inception-ResNet-v2 (timm": ("inception_resnet_v2", {}),
    **{f"DenseNet-{n} (": (f"densenet{n}", {}) for n in (121, 161, 169, 201)},
    "CIFAR DenseNet L=40 k=12": ("densenet40_k12", {}),
    **{f"CIFAR DenseNet L=100 k={k}": (f"densenet100_k{k}", {}) for k in (12, 24)},
    **{f"CIFAR DenseNet-BC L={n} k={k}": (f"densenet_bc{n}_k{k}", {}) for n, k in ((100, 12), (250, 24), (190, 40))},
}


# Blocks that were traced once.
KNOWN: Known = {}


@pytest.mark.parametrize(("name", "options", "params", "macs", "source"), COUNTS, ids=lambda v: str(v).replace(" ", ""))
def test_counts(name, options, params, macs, source):
    counted = totals(create(name, **options), MODELS[name].input_shape, KNOWN)
    assert counted[0] == params, source
    if macs is not None:
        assert counted[1] == macs, source


@pytest.mark.parametrize("name", ["lenet5", "lenet5_1998", "resnet20", "plain32", "resnet34", "resnet50v2"])
def test_counted_parameters_are_those_of_init(name):
    # `totals` skips repeated blocks; `init` does not.
    model, shape = create(name), MODELS[name].input_shape
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == totals(model, shape)[0]


def test_macs_scale_with_the_area():
    assert totals(create("resnet20", num_classes=None), (64, 64, 3))[1] == 4 * (40_551_040 - 640)


def test_every_name_counts():
    for name, entry in MODELS.items():
        assert min(totals(create(name), entry.input_shape, KNOWN)) > 0, name


# Keras counts BatchNorm's moving statistics, 2 for each channel that it normalises. Here is what else its networks
# have or have not: numbers per such channel, and numbers besides.
NO_SCALE, CONV_BIASES, INPUT_NORM = (-1, 0), (1, 0), (0, 7)  # The last: means, variances and a counter.
KERAS_ROWS = {
    "InceptionV3 (Keras)": ("inception_v3", {}, NO_SCALE),
    "InceptionResNetV2 (Keras)": ("inception_resnet_v2", {}, NO_SCALE),
    **{f"ResNet{n} (Keras)": (f"resnet{n}", {}, CONV_BIASES) for n in (50, 101, 152)},
    **{f"ResNet{n}V2 (Keras)": (f"resnet{n}v2", {"variant": "keras"}, (0, 0)) for n in (50, 101, 152)},
    **{f"DenseNet{n} (Keras)": (f"densenet{n}", {}, (0, 0)) for n in (121, 169, 201)},
    "MobileNet v1 1.0 (Keras)": ("mobilenet_v1", {}, (0, 0)),
    "MobileNetV2 (Keras)": ("mobilenet_v2", {}, (0, 0)),
    **{f"EfficientNetB{n} (Keras)": (f"efficientnet_b{n}", {}, INPUT_NORM) for n in range(8)},
}
# Networks that are not here.
OTHERS = ("Faster R-CNN", "RetinaNet", "SSD300", "WaveNet")


@pytest.mark.slow
@pytest.mark.data
def test_reference_table():
    path = Path(__file__).parents[2].parent / "shared/reference/architectures.csv"
    if not path.exists():
        pytest.skip(f"no reference table at {path}")
    found = set()
    for row in csv.DictReader(path.read_text().splitlines()):
        if not row["params"] or row["name"].startswith(OTHERS):
            continue
        start = next(start for start in (*KERAS_ROWS, *CSV_ROWS) if row["name"].startswith(start))
        found.add(start)
        name, options, *kerass = (KERAS_ROWS | CSV_ROWS)[start]
        model, shape = create(name, **options), MODELS[name].input_shape
        params, macs = totals(model, shape, KNOWN)
        for per_channel, besides in kerass:
            image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
            statistics = jax.eval_shape(model.init, jax.random.key(0), image)["batch_stats"]
            channels = sum(leaf.size for leaf in jax.tree.leaves(statistics)) // 2
            params += (2 + per_channel) * channels + besides
        copies = 5 if row["name"] == "AlexNet 5 CNNs" else 1
        assert copies * params == int(row["params"]), row["name"]
        if row["macs_counted"]:
            assert macs == pytest.approx(int(row["macs_counted"]), rel=0.005), row["name"]
    assert found == KERAS_ROWS.keys() | CSV_ROWS.keys()
