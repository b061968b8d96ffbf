"""Made the files of weights in this folder, at the version that each is called after; none is ever made again.

python tests/compatibility/make_weights.py
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxcnn
from jaxcnn.weights import Preprocessing, save

FOLDER = Path(__file__).parent
OPTIONS = {"depths": (1, 1), "width": 4, "shortcut": "B"}
PREPARED = Preprocessing(size=(8, 8), resize=10, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
NAMES = ("cat", "größer", "3")


def image() -> np.ndarray:
    """Return pixels of 12x9, made without random numbers."""
    return (np.arange(12 * 9 * 3).reshape(12, 9, 3) * 37 % 256).astype(np.uint8)


def main() -> None:
    model = jaxcnn.create("resnet20", num_classes=3, **OPTIONS)
    variables = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    path = FOLDER / f"resnet_{jaxcnn.__version__}.safetensors"
    save(path, variables, model="resnet20", options=OPTIONS, preprocessing=PREPARED, class_names=NAMES)
    logits = model.apply(variables, PREPARED(image())[None])
    path.with_suffix(".json").write_text(json.dumps({"logits": np.asarray(logits[0], np.float64).tolist()}) + "\n")


if __name__ == "__main__":
    main()
