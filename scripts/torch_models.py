"""The benchmarks' networks in plain torch, from their papers; `torch_peer.py` measures them, nothing else uses them.

They have the parameters and multiply-adds of jaxcnn's models of the same name, which the benchmark checks.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn


class LeNet5(nn.Sequential):
    """LeNet-5 (LeCun et al. 1998) as built today: ReLU, max pooling, 28x28 images padded to 32x32."""

    def __init__(self, num_classes: int) -> None:
        """Make the layers."""
        super().__init__(
            nn.ZeroPad2d(2),
            *(nn.Conv2d(1, 6, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            nn.Flatten(),
            *(nn.Linear(400, 120), nn.ReLU(inplace=True)),
            *(nn.Linear(120, 84), nn.ReLU(inplace=True)),
            nn.Linear(84, num_classes),
        )


class AlexNet(nn.Sequential):
    """AlexNet on one device (Krizhevsky 2014), for images of 224x224."""

    def __init__(self, num_classes: int) -> None:
        """Make the layers."""
        super().__init__(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Flatten(), nn.Dropout(0.5)),
            *(nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)),
            *(nn.Linear(4096, 4096), nn.ReLU(inplace=True)),
            nn.Linear(4096, num_classes),
        )


class VGG(nn.Sequential):
    """VGG (Simonyan and Zisserman 2014), by the depths of its stages, for images of 224x224."""

    def __init__(self, num_classes: int, depths: Sequence[int]) -> None:
        """Make the layers."""
        layers: list[nn.Module] = []
        channels = 3
        for width, depth in zip((64, 128, 256, 512, 512), depths, strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        super().__init__(
            *layers,
            nn.Flatten(),
            *(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)),
            *(nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)),
            nn.Linear(4096, num_classes),
        )


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    """Return convolution without bias, BatchNorm and, where there is one, the activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs)
    return nn.Sequential(conv, norm) if act is None else nn.Sequential(conv, norm, act(inplace=True))


class Pad(nn.Module):
    """Shortcut A of the CIFAR ResNets (He et al. 2015): subsample, and append channels of zeros."""

    def __init__(self, more: int, stride: int) -> None:
        """Append `more` channels."""
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the shortcut of `x`."""
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


class Residual(nn.Module):
    """A branch added to its shortcut, and ReLU."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        """Add the two."""
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        return nn.functional.relu(self.branch(x) + self.shortcut(x), inplace=True)


class ResNet20(nn.Sequential):
    """ResNet-20 for CIFAR-10 (He et al. 2015, section 4.2) with shortcuts A."""

    def __init__(self, num_classes: int) -> None:
        """Make the layers."""
        layers: list[nn.Module] = [conv_norm(3, 16, 3)]
        channels = 16
        for width in (16, 32, 64):
            for _ in range(3):
                stride = width // channels
                branch = nn.Sequential(conv_norm(channels, width, 3, stride), conv_norm(width, width, 3, act=None))
                layers.append(Residual(branch, nn.Identity() if stride == 1 else Pad(width - channels, stride)))
                channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))


class ResNet50(nn.Sequential):
    """ResNet-50 with shortcuts B and the stride in the 3x3 (v1.5); with groups, ResNeXt-50 (Xie et al. 2017)."""

    def __init__(self, num_classes: int, groups: int = 1, width_per_group: int = 64) -> None:
        """Make the layers."""
        layers: list[nn.Module] = [conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
        channels = 64
        for stage, depth in enumerate((3, 4, 6, 3)):
            inner, outputs = groups * width_per_group * 2**stage, 256 * 2**stage
            for block in range(depth):
                stride = 2 if stage and not block else 1
                branch = nn.Sequential(
                    conv_norm(channels, inner, 1),
                    conv_norm(inner, inner, 3, stride, groups),
                    conv_norm(inner, outputs, 1, act=None),
                )
                shortcut = nn.Identity() if block else conv_norm(channels, outputs, 1, stride, act=None)
                layers.append(Residual(branch, shortcut))
                channels = outputs
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class InvertedResidual(nn.Module):
    """The block of MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        """Expand, filter each channel, project; an identity around where the shapes allow it."""
        super().__init__()
        inner = inputs * expansion
        self.branch = nn.Sequential(
            *([conv_norm(inputs, inner, 1, act=nn.ReLU6)] if expansion > 1 else []),
            conv_norm(inner, inner, 3, stride, inner, nn.ReLU6),
            conv_norm(inner, outputs, 1, act=None),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        return x + self.branch(x) if self.adds else self.branch(x)


class MobileNetV2(nn.Sequential):
    """MobileNetV2 (Sandler et al. 2018, table 2)."""

    def __init__(self, num_classes: int) -> None:
        """Make the layers."""
        layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, act=nn.ReLU6)]
        channels = 32
        table = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        for expansion, width, depth, stride in table:
            for block in range(depth):
                layers.append(InvertedResidual(channels, width, 1 if block else stride, expansion))
                channels = width
        super().__init__(
            *layers,
            conv_norm(channels, 1280, 1, act=nn.ReLU6),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, num_classes)),
        )


class DenseLayer(nn.Module):
    """The layer of DenseNet-B: BN, ReLU and convolution, twice; its maps are appended to its input."""

    def __init__(self, channels: int, growth_rate: int) -> None:
        """Make a 1x1 and a 3x3."""
        super().__init__()
        inner = 4 * growth_rate
        self.branch = nn.Sequential(
            *(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Conv2d(channels, inner, 1, bias=False)),
            *(nn.BatchNorm2d(inner), nn.ReLU(inplace=True), nn.Conv2d(inner, growth_rate, 3, padding=1, bias=False)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` with the new maps behind it."""
        return torch.cat([x, self.branch(x)], 1)


class DenseNet121(nn.Sequential):
    """DenseNet-BC of 121 layers, k = 32 (Huang et al. 2017, table 1)."""

    def __init__(self, num_classes: int) -> None:
        """Make the layers."""
        layers: list[nn.Module] = [conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
        channels = 64
        for stage, depth in enumerate((6, 12, 24, 16)):
            if stage:
                layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
                layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
            for _ in range(depth):
                layers.append(DenseLayer(channels, 32))
                channels += 32
        layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class ChannelsLast(nn.Sequential):
    """Layers that take and give [batch, height, width, channels], in a network of [batch, channels, height, width].

    With channels_last tensors neither permutation moves anything.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layers make of `x`."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """The block of ConvNeXt (Liu et al. 2022, figure 4), with layer scale and stochastic depth."""

    def __init__(self, channels: int, drop_rate: float) -> None:
        """Filter each channel, then widen and narrow each position."""
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.positions = ChannelsLast(
            *(nn.LayerNorm(channels, 1e-6), nn.Linear(channels, 4 * channels)),
            *(nn.GELU(), nn.Linear(4 * channels, channels)),
        )
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))
        self.keep = 1 - drop_rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        y = self.scale * self.positions(self.depthwise(x))
        if self.training and self.keep < 1:
            y = y * torch.empty(len(y), 1, 1, 1).bernoulli_(self.keep).div_(self.keep)
        return x + y


class ConvNeXtT(nn.Sequential):
    """ConvNeXt-T (Liu et al. 2022, section 3.1)."""

    def __init__(self, num_classes: int) -> None:
        """Make the layers."""
        layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), ChannelsLast(nn.LayerNorm(96, 1e-6))]
        channels, blocks = 96, 0
        for stage, depth in enumerate((3, 3, 9, 3)):
            if stage:
                layers += [ChannelsLast(nn.LayerNorm(channels, 1e-6)), nn.Conv2d(channels, 2 * channels, 2, 2)]
                channels *= 2
            for _ in range(depth):
                layers.append(ConvNeXtBlock(channels, 0.1 * blocks / 17))
                blocks += 1
        norm = nn.LayerNorm(channels, 1e-6)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm, nn.Linear(channels, num_classes))


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means (Hu et al. 2018)."""

    def __init__(self, channels: int, hidden: int) -> None:
        """Make the two layers between the means and the gates."""
        super().__init__()
        self.gates = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            *(nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(hidden, channels, 1), nn.Sigmoid()),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` with its channels scaled."""
        return x * self.gates(x)


class RegNetY400MF(nn.Sequential):
    """RegNetY-400MF (Radosavovic et al. 2020, table 6): groups of 8 channels."""

    def __init__(self, num_classes: int) -> None:
        """Make the layers."""
        layers: list[nn.Module] = [conv_norm(3, 32, 3, 2)]
        channels = 32
        for width, depth in ((48, 1), (104, 3), (208, 6), (440, 6)):
            for block in range(depth):
                stride = 1 if block else 2
                branch = nn.Sequential(
                    conv_norm(channels, width, 1),
                    conv_norm(width, width, 3, stride, width // 8),
                    SqueezeExcite(width, round(channels / 4)),
                    conv_norm(width, width, 1, act=None),
                )
                shortcut = nn.Identity() if block else conv_norm(channels, width, 1, stride, act=None)
                layers.append(Residual(branch, shortcut))
                channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "lenet5": LeNet5,
    "resnet20": ResNet20,
    "resnet50": ResNet50,
    "vgg11": partial(VGG, depths=(1, 1, 2, 2, 2)),
    "mobilenet_v2": MobileNetV2,
    "resnext50_32x4d": partial(ResNet50, groups=32, width_per_group=4),
    "densenet121": DenseNet121,
    "convnext_tiny": ConvNeXtT,
    "regnet_y_400mf": RegNetY400MF,
    "alexnet": AlexNet,
    "vgg16": partial(VGG, depths=(2, 2, 3, 3, 3)),
    "wide_resnet50_2": partial(ResNet50, width_per_group=128),
}
