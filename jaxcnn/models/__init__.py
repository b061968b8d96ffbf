"""Models: one paper, one file. `MODELS` is the table of names, `create` makes a model of one."""

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import EllipsisType
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UsageError, unknown
from jaxcnn.models import (
    alexnet,
    convnext,
    deeplabv3,
    densenet,
    efficientnet,
    fcn,
    fcn_resnet,
    googlenet,
    inception_resnet,
    inception_v3,
    inception_v4,
    lenet,
    mnasnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    regnet,
    resnet,
    resnet_v2,
    resnext,
    senet,
    shufflenet_v2,
    squeezenet,
    unet,
    vgg,
    wide_resnet,
    zfnet,
)
from jaxcnn.models.base import Model

__all__ = ["MODELS", "Model", "ModelEntry", "create", "options"]


@dataclass(frozen=True)
class ModelEntry:
    """A row of `MODELS`: what makes the model, where it comes from, and the images it was made for."""

    factory: Callable[..., Model]
    paper: str
    year: int
    input_shape: tuple[int, int, int]
    num_classes: int


_lenet = partial(ModelEntry, paper="LeCun et al. 1998", year=1998, num_classes=10)
_alexnet = partial(ModelEntry, num_classes=1000)
_zfnet = partial(ModelEntry, paper="1311.2901", year=2013, input_shape=(224, 224, 3), num_classes=1000)
_vgg = partial(ModelEntry, paper="1409.1556", year=2014, input_shape=(224, 224, 3), num_classes=1000)
_googlenet = partial(ModelEntry, paper="1409.4842", year=2014, input_shape=(224, 224, 3), num_classes=1000)
_inception = partial(ModelEntry, paper="1602.07261", year=2016, input_shape=(299, 299, 3), num_classes=1000)
_squeezenet = partial(ModelEntry, paper="1602.07360", year=2016, input_shape=(224, 224, 3), num_classes=1000)
_cifar = partial(ModelEntry, paper="1512.03385", year=2015, input_shape=(32, 32, 3), num_classes=10)
_imagenet = partial(ModelEntry, paper="1512.03385", year=2015, input_shape=(224, 224, 3), num_classes=1000)
_cifar_v2 = partial(_cifar, paper="1603.05027", year=2016)
_imagenet_v2 = partial(_imagenet, paper="1603.05027", year=2016)
_mobilenet = partial(ModelEntry, input_shape=(224, 224, 3), num_classes=1000)
_mobilenet_v3 = partial(_mobilenet, paper="1905.02244", year=2019)
_shufflenet_v2 = partial(_mobilenet, paper="1807.11164", year=2018)
_mnasnet = partial(_mobilenet, paper="1807.11626", year=2018)
_efficientnet = partial(ModelEntry, paper="1905.11946", year=2019, num_classes=1000)
_convnext = partial(ModelEntry, paper="2201.03545", year=2022, input_shape=(224, 224, 3), num_classes=1000)
_wide = partial(ModelEntry, paper="1605.07146", year=2016)
_wrn = partial(_wide, input_shape=(32, 32, 3), num_classes=10)
_resnext = partial(ModelEntry, paper="1611.05431", year=2016, input_shape=(224, 224, 3), num_classes=1000)
_senet = partial(ModelEntry, paper="1709.01507", year=2017, input_shape=(224, 224, 3), num_classes=1000)
_densenet = partial(ModelEntry, paper="1608.06993", year=2016, input_shape=(224, 224, 3), num_classes=1000)
_densenet_cifar = partial(_densenet, input_shape=(32, 32, 3), num_classes=10)
_regnet = partial(ModelEntry, paper="2003.13678", year=2020, input_shape=(224, 224, 3), num_classes=1000)
_fcn = partial(ModelEntry, paper="1411.4038", year=2014, num_classes=21)
_deeplabv3 = partial(ModelEntry, paper="1706.05587", year=2017, input_shape=(520, 520, 3), num_classes=21)
_unet = partial(ModelEntry, paper="1505.04597", year=2015, num_classes=2)

MODELS: dict[str, ModelEntry] = {
    "lenet5": _lenet(lenet.lenet5, input_shape=(28, 28, 1)),
    "lenet5_valid": _lenet(lenet.lenet5_valid, input_shape=(28, 28, 1)),
    "lenet5_1998": _lenet(lenet.lenet5_1998, input_shape=(32, 32, 1)),
    "alexnet_2012": _alexnet(alexnet.alexnet_2012, paper="NIPS 2012", year=2012, input_shape=(227, 227, 3)),
    "alexnet": _alexnet(alexnet.alexnet, paper="1404.5997", year=2014, input_shape=(224, 224, 3)),
    "zfnet": _zfnet(zfnet.zfnet),
    "zfnet_512_1024_512": _zfnet(zfnet.zfnet_512_1024_512),
    "vgg11": _vgg(vgg.vgg11),
    "vgg11_lrn": _vgg(vgg.vgg11_lrn),
    "vgg13": _vgg(vgg.vgg13),
    "vgg16_c": _vgg(vgg.vgg16_c),
    "vgg16": _vgg(vgg.vgg16),
    "vgg19": _vgg(vgg.vgg19),
    "vgg11_bn": _vgg(vgg.vgg11_bn),
    "vgg13_bn": _vgg(vgg.vgg13_bn),
    "vgg16_bn": _vgg(vgg.vgg16_bn),
    "vgg19_bn": _vgg(vgg.vgg19_bn),
    "googlenet": _googlenet(googlenet.googlenet),
    "googlenet_bn": _googlenet(googlenet.googlenet_bn),
    "inception_v3": _inception(inception_v3.inception_v3, paper="1512.00567", year=2015),
    "inception_v4": _inception(inception_v4.inception_v4),
    "inception_resnet_v2": _inception(inception_resnet.inception_resnet_v2),
    "squeezenet1_0": _squeezenet(squeezenet.squeezenet1_0),
    "squeezenet1_1": _squeezenet(squeezenet.squeezenet1_1),
    "resnet20": _cifar(resnet.resnet20),
    "resnet32": _cifar(resnet.resnet32),
    "resnet44": _cifar(resnet.resnet44),
    "resnet56": _cifar(resnet.resnet56),
    "resnet110": _cifar(resnet.resnet110),
    "resnet1202": _cifar(resnet.resnet1202),
    "plain20": _cifar(resnet.plain20),
    "plain32": _cifar(resnet.plain32),
    "plain44": _cifar(resnet.plain44),
    "plain56": _cifar(resnet.plain56),
    "plain110": _cifar(resnet.plain110),
    "resnet18": _imagenet(resnet.resnet18),
    "resnet34": _imagenet(resnet.resnet34),
    "resnet50": _imagenet(resnet.resnet50),
    "resnet101": _imagenet(resnet.resnet101),
    "resnet152": _imagenet(resnet.resnet152),
    "plain18": _imagenet(resnet.plain18),
    "plain34": _imagenet(resnet.plain34),
    "resnet164v2": _cifar_v2(resnet_v2.resnet164v2),
    "resnet1001v2": _cifar_v2(resnet_v2.resnet1001v2),
    "resnet18v2": _imagenet_v2(resnet_v2.resnet18v2),
    "resnet34v2": _imagenet_v2(resnet_v2.resnet34v2),
    "resnet50v2": _imagenet_v2(resnet_v2.resnet50v2),
    "resnet101v2": _imagenet_v2(resnet_v2.resnet101v2),
    "resnet152v2": _imagenet_v2(resnet_v2.resnet152v2),
    "resnet200v2": _imagenet_v2(resnet_v2.resnet200v2),
    "wrn_16_4": _wrn(wide_resnet.wrn_16_4),
    "wrn_16_8": _wrn(wide_resnet.wrn_16_8),
    "wrn_16_10": _wrn(wide_resnet.wrn_16_10),
    "wrn_22_8": _wrn(wide_resnet.wrn_22_8),
    "wrn_22_10": _wrn(wide_resnet.wrn_22_10),
    "wrn_28_10": _wrn(wide_resnet.wrn_28_10),
    "wrn_28_12": _wrn(wide_resnet.wrn_28_12),
    "wrn_40_1": _wrn(wide_resnet.wrn_40_1),
    "wrn_40_2": _wrn(wide_resnet.wrn_40_2),
    "wrn_40_4": _wrn(wide_resnet.wrn_40_4),
    "wrn_40_8": _wrn(wide_resnet.wrn_40_8),
    "wrn_40_10": _wrn(wide_resnet.wrn_40_10),
    "wide_resnet50_2": _wide(wide_resnet.wide_resnet50_2, input_shape=(224, 224, 3), num_classes=1000),
    "wide_resnet101_2": _wide(wide_resnet.wide_resnet101_2, input_shape=(224, 224, 3), num_classes=1000),
    "resnext50_32x4d": _resnext(resnext.resnext50_32x4d),
    "resnext101_32x4d": _resnext(resnext.resnext101_32x4d),
    "resnext101_32x8d": _resnext(resnext.resnext101_32x8d),
    "resnext101_64x4d": _resnext(resnext.resnext101_64x4d),
    "se_resnet18": _senet(senet.se_resnet18),
    "se_resnet34": _senet(senet.se_resnet34),
    "se_resnet50": _senet(senet.se_resnet50),
    "se_resnet101": _senet(senet.se_resnet101),
    "se_resnet152": _senet(senet.se_resnet152),
    "se_resnext50_32x4d": _senet(senet.se_resnext50_32x4d),
    "se_resnext101_32x4d": _senet(senet.se_resnext101_32x4d),
    "densenet40_k12": _densenet_cifar(densenet.densenet40_k12),
    "densenet100_k12": _densenet_cifar(densenet.densenet100_k12),
    "densenet100_k24": _densenet_cifar(densenet.densenet100_k24),
    "densenet_bc100_k12": _densenet_cifar(densenet.densenet_bc100_k12),
    "densenet_bc250_k24": _densenet_cifar(densenet.densenet_bc250_k24),
    "densenet_bc190_k40": _densenet_cifar(densenet.densenet_bc190_k40),
    "densenet121": _densenet(densenet.densenet121),
    "densenet161": _densenet(densenet.densenet161),
    "densenet169": _densenet(densenet.densenet169),
    "densenet201": _densenet(densenet.densenet201),
    "regnet_x_200mf": _regnet(regnet.regnet_x_200mf),
    "regnet_x_400mf": _regnet(regnet.regnet_x_400mf),
    "regnet_x_600mf": _regnet(regnet.regnet_x_600mf),
    "regnet_x_800mf": _regnet(regnet.regnet_x_800mf),
    "regnet_x_1_6gf": _regnet(regnet.regnet_x_1_6gf),
    "regnet_x_3_2gf": _regnet(regnet.regnet_x_3_2gf),
    "regnet_x_4gf": _regnet(regnet.regnet_x_4gf),
    "regnet_x_6_4gf": _regnet(regnet.regnet_x_6_4gf),
    "regnet_x_8gf": _regnet(regnet.regnet_x_8gf),
    "regnet_x_12gf": _regnet(regnet.regnet_x_12gf),
    "regnet_x_16gf": _regnet(regnet.regnet_x_16gf),
    "regnet_x_32gf": _regnet(regnet.regnet_x_32gf),
    "regnet_y_200mf": _regnet(regnet.regnet_y_200mf),
    "regnet_y_400mf": _regnet(regnet.regnet_y_400mf),
    "regnet_y_600mf": _regnet(regnet.regnet_y_600mf),
    "regnet_y_800mf": _regnet(regnet.regnet_y_800mf),
    "regnet_y_1_6gf": _regnet(regnet.regnet_y_1_6gf),
    "regnet_y_3_2gf": _regnet(regnet.regnet_y_3_2gf),
    "regnet_y_4gf": _regnet(regnet.regnet_y_4gf),
    "regnet_y_6_4gf": _regnet(regnet.regnet_y_6_4gf),
    "regnet_y_8gf": _regnet(regnet.regnet_y_8gf),
    "regnet_y_12gf": _regnet(regnet.regnet_y_12gf),
    "regnet_y_16gf": _regnet(regnet.regnet_y_16gf),
    "regnet_y_32gf": _regnet(regnet.regnet_y_32gf),
    "mobilenet_v1": _mobilenet(mobilenet_v1.mobilenet_v1, paper="1704.04861", year=2017),
    "mobilenet_v2": _mobilenet(mobilenet_v2.mobilenet_v2, paper="1801.04381", year=2018),
    "mobilenet_v3_large": _mobilenet_v3(mobilenet_v3.mobilenet_v3_large),
    "mobilenet_v3_small": _mobilenet_v3(mobilenet_v3.mobilenet_v3_small),
    "shufflenet_v2_x0_5": _shufflenet_v2(shufflenet_v2.shufflenet_v2_x0_5),
    "shufflenet_v2_x1_0": _shufflenet_v2(shufflenet_v2.shufflenet_v2_x1_0),
    "shufflenet_v2_x1_5": _shufflenet_v2(shufflenet_v2.shufflenet_v2_x1_5),
    "shufflenet_v2_x2_0": _shufflenet_v2(shufflenet_v2.shufflenet_v2_x2_0),
    "mnasnet0_5": _mnasnet(mnasnet.mnasnet0_5),
    "mnasnet0_75": _mnasnet(mnasnet.mnasnet0_75),
    "mnasnet1_0": _mnasnet(mnasnet.mnasnet1_0),
    "mnasnet1_3": _mnasnet(mnasnet.mnasnet1_3),
    "mnasnet_a1": _mnasnet(mnasnet.mnasnet_a1),
    "efficientnet_b0": _efficientnet(efficientnet.efficientnet_b0, input_shape=(224, 224, 3)),
    "efficientnet_b1": _efficientnet(efficientnet.efficientnet_b1, input_shape=(240, 240, 3)),
    "efficientnet_b2": _efficientnet(efficientnet.efficientnet_b2, input_shape=(260, 260, 3)),
    "efficientnet_b3": _efficientnet(efficientnet.efficientnet_b3, input_shape=(300, 300, 3)),
    "efficientnet_b4": _efficientnet(efficientnet.efficientnet_b4, input_shape=(380, 380, 3)),
    "efficientnet_b5": _efficientnet(efficientnet.efficientnet_b5, input_shape=(456, 456, 3)),
    "efficientnet_b6": _efficientnet(efficientnet.efficientnet_b6, input_shape=(528, 528, 3)),
    "efficientnet_b7": _efficientnet(efficientnet.efficientnet_b7, input_shape=(600, 600, 3)),
    "convnext_tiny": _convnext(convnext.convnext_tiny),
    "convnext_small": _convnext(convnext.convnext_small),
    "convnext_base": _convnext(convnext.convnext_base),
    "convnext_large": _convnext(convnext.convnext_large),
    "fcn32s_vgg16": _fcn(fcn.fcn32s_vgg16, input_shape=(500, 500, 3)),
    "fcn16s_vgg16": _fcn(fcn.fcn16s_vgg16, input_shape=(500, 500, 3)),
    "fcn8s_vgg16": _fcn(fcn.fcn8s_vgg16, input_shape=(500, 500, 3)),
    "fcn_resnet50": _fcn(fcn_resnet.fcn_resnet50, input_shape=(520, 520, 3)),
    "fcn_resnet101": _fcn(fcn_resnet.fcn_resnet101, input_shape=(520, 520, 3)),
    "deeplabv3_resnet50": _deeplabv3(deeplabv3.deeplabv3_resnet50),
    "deeplabv3_resnet101": _deeplabv3(deeplabv3.deeplabv3_resnet101),
    "unet": _unet(unet.unet, input_shape=(572, 572, 1)),
    "unet_same": _unet(unet.unet_same, input_shape=(512, 512, 3)),
}


def create(
    name: str,
    num_classes: int | EllipsisType | None = ...,
    dtype: Any = jnp.float32,
    **variant: Any,
) -> Model:
    """Return the model called `name` in `MODELS`.

    Args:
      name: see `MODELS`, or `jaxcnn models`.
      num_classes: outputs; None returns pooled features; left out, the number the model was published with.
      dtype: of the computation, a floating type or its name; parameters, statistics and logits stay float32.
      **variant: the model's own options (see `options`), such as `shortcut="B"` or `zero_gamma=True`.

    Raises:
      UsageError: for an unknown name or option, or a value that is none of its choices.
    """
    hints = options(name)
    entry = MODELS[name]
    if num_classes is ...:
        num_classes = entry.num_classes
    if isinstance(num_classes, np.integer):
        num_classes = int(num_classes)
    if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
        raise UsageError(f"num_classes={num_classes!r}: expected an integer of at least 1, or None for features")
    for option, value in variant.items():
        if option not in hints:
            raise unknown(f"option of {name}", option, hints)
        variant[option] = _checked(f"{option} of {name}", value, hints[option])
    return entry.factory(num_classes=num_classes, dtype=_float_type(dtype), **variant)


def options(name: str) -> dict[str, Any]:
    """Return the options of the model called `name` that `create` takes by keyword, with their types.

    Raises:
      UsageError: for an unknown name.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    factory = MODELS[name].factory
    model: Any = factory.func if isinstance(factory, partial) else factory
    hints = typing.get_type_hints(model)
    common = {"num_classes", "dtype", "parent", "name"}
    return {field.name: hints[field.name] for field in dataclasses.fields(model) if field.name not in common}


def _checked(what: str, value: Any, hint: Any) -> Any:
    """Return `value` where it is of type `hint`: a Literal of strings, bool, int, float, or tuple of ints."""
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise unknown(what, str(value), map(str, typing.get_args(hint)))
        return value
    if hint == tuple[int, ...]:
        if isinstance(value, list | tuple) and value and all(type(v) is int and v >= 1 for v in value):
            return tuple(value)  # JSON has lists only.
        raise UsageError(f"{what} is {value!r}: expected integers of at least 1")
    if hint is float:
        if type(value) not in (int, float) or not 0 <= value < float("inf"):  # Neither NaN.
            raise UsageError(f"{what} is {value!r}: expected a finite number of at least 0")
        return float(value)
    if type(value) is not hint or (hint is int and value < 1):
        raise UsageError(f"{what} is {value!r}: expected {'True or False' if hint is bool else 'an integer >= 1'}")
    return value


def _float_type(dtype: Any) -> Any:
    """Return `dtype` as a numpy dtype of floating kind."""
    try:
        found = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise unknown("compute dtype", str(dtype), ("float32", "bfloat16", "float16", "float64"))
    return found
