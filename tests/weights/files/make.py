"""Made the files of this folder, with torch 2.13, torchvision 0.28, Keras 3.15 (JAX), h5py and Pillow:

KERAS_BACKEND=jax python tests/weights/files/make.py
"""

import argparse
import gzip
import pathlib
from collections import OrderedDict, defaultdict

import h5py
import keras
import numpy as np
import torch
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification, SemanticSegmentation

FOLDER = pathlib.Path(__file__).parent


def state_dict() -> OrderedDict:
    """Every kind of tensor; tests/weights/test_torch_file.py has the same in numpy."""
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    return OrderedDict(
        whole=base,
        view=base[1:, 1:3],
        transposed=base.permute(2, 0, 1),
        strided=base[::2, :, ::3],
        flat=base.view(-1)[7:],
        channels_last=torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        expanded=torch.tensor([[1.0], [2.0]]).expand(2, 3),
        number=torch.tensor(3.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.ones(2, 2)),
        half=torch.arange(4).half(),
        bfloat16=torch.arange(4).bfloat16()[1:],
        double=torch.arange(4).double(),
        bool=torch.tensor([True, False]),
        int8=torch.arange(-2, 2).to(torch.int8),
        uint8=torch.arange(4).to(torch.uint8),
        int16=torch.arange(4).short(),
        int32=torch.arange(4).int(),
        int64=torch.arange(4),
    )


def checkpoint() -> dict:
    """What training scripts save."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    weights = {"module._orig_mod.weight": torch.ones(2, 3), "module._orig_mod.bias": torch.zeros(2)}
    return {
        "epoch": 3,
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("/x"), seen={1, 2}),
        "best": np.float64(0.5),
        "history": np.arange(3.0),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "table": defaultdict(dict),
    }


def model() -> keras.Model:
    """Named and unnamed layers, and a model in the model."""
    for _ in range(3):
        keras.layers.Conv2D(1, 1)  # so that the names of unnamed layers do not start at the first
    inner = keras.Sequential([keras.layers.DepthwiseConv2D(1, name="x_dw"), keras.layers.Conv2D(2, 1)], name="inner")
    image = keras.Input((2, 2, 3))
    x = keras.layers.Conv2D(3, 1, use_bias=False)(image)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    x = keras.layers.Conv2D(3, 1, name="conv2")(x)
    x = keras.layers.BatchNormalization(scale=False)(x)
    found = keras.Model(image, inner(x))
    start = iter(range(0, 1000, 10))
    found.set_weights([next(start) + np.arange(w.size).reshape(w.shape) for w in found.get_weights()])
    return found


def main() -> None:
    for name, made in (("tensors", state_dict()), ("checkpoint", checkpoint())):
        torch.save(made, FOLDER / f"{name}_zip.pth")
        torch.save(made, FOLDER / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
    network = model()
    numbered, legacy = pathlib.Path("/tmp/made.weights.h5"), pathlib.Path("/tmp/made.h5")
    network.save_weights(numbered)
    with h5py.File(legacy, "w") as file:
        save_weights_to_hdf5_group(file.create_group("model_weights"), network)
    for path in (numbered, legacy):
        (FOLDER / (path.name + ".gz")).write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    order = {
        layer.name: [variable.name for variable in layer.weights] for layer in network._flatten_layers(False, True)
    }
    print(order)
    rng = np.random.default_rng(0)
    images = {"wide": rng.integers(0, 256, (13, 22, 3), np.uint8), "tall": rng.integers(0, 256, (31, 10, 3), np.uint8)}
    half = (0.5, 0.5, 0.5)
    transforms = {
        "usual": ImageClassification(crop_size=7, resize_size=9),
        "bicubic": ImageClassification(
            crop_size=6, resize_size=9, interpolation=InterpolationMode.BICUBIC, mean=half, std=half
        ),
        "padded": ImageClassification(crop_size=10, resize_size=9),
        "uncropped": SemanticSegmentation(resize_size=6),
    }
    for name, pixels in list(images.items()):
        for kind, transform in transforms.items():
            images[f"{name}_{kind}"] = transform(Image.fromarray(pixels)).numpy().transpose(1, 2, 0)
    np.savez_compressed(FOLDER / "preprocessed.npz", **images)


if __name__ == "__main__":
    main()
