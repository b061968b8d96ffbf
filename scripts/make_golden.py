"""Write what a third-party model computes from weights that any side can regenerate: golden logits.

    pip install torch torchvision timm          what is compared with; jaxcnn does not need them
    python scripts/make_golden.py FOLDER torchvision/resnet50 timm/seresnet50 torchvision/fcn_resnet50

For each model FOLDER gets NAME.json (`source`, `name`, `input_size`, `tensors`: names and shapes) and NAME.npz
(`logits` in float32, of a forward pass in float64 and eval mode). Each tensor is drawn from its name, see `draw`; the
input is 2 images of standard normal pixels. `tests/models/test_golden.py` reads such a folder.

    python scripts/make_golden.py --names       digests of the names of all peers' tensors, for tests/weights
"""

import argparse
import hashlib
import json
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

NAMES = Path(__file__).parents[1] / "tests/weights/peer_names.json"
SEGMENTATION_SIZE = 96


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the tensor called `name`, a function of its name and shape alone."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        value = rng.uniform(0.5, 1.5, shape)
    elif leaf == "weight" and len(shape) >= 2:
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif leaf == "weight":
        value = rng.uniform(0.5, 1.0, shape)
    else:
        value = 0.1 * rng.standard_normal(shape)
    return np.asarray(value, np.float32)


def images(size: int) -> np.ndarray:
    """Return the two images that the logits are of: [2, size, size, 3]."""
    return np.random.Generator(np.random.PCG64(0)).standard_normal((2, size, size, 3)).astype(np.float32)


def digest(names: Iterable[str]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 over the sorted names of a model's tensors."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


def third_party(peer: str) -> tuple[Any, int]:
    """Return a torch module without trained weights, with its auxiliary heads, and its input size."""
    library, _, name = peer.partition("/")
    if library == "timm":
        import timm

        model = timm.create_model(name)
        return model, model.default_cfg["input_size"][-1]
    import torchvision

    if name in torchvision.models.list_models(torchvision.models.segmentation):
        model = torchvision.models.get_model(name, weights_backbone=None, aux_loss=True, num_classes=21)
        return model, SEGMENTATION_SIZE
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, **options), 299 if name == "inception_v3" else 224


def write(folder: Path, peer: str) -> None:
    """Write the golden logits of one model."""
    import torch

    model, size = third_party(peer)
    tensors = {name: draw(name, tuple(value.shape)) for name, value in model.state_dict().items()}
    # mnasnet, for one, reads a version from the attributes of its state_dict.
    state = model.state_dict()
    for name, value in tensors.items():
        state[name] = torch.from_numpy(value)
    model.load_state_dict(state)
    with torch.no_grad():
        logits = model.eval().double()(torch.from_numpy(images(size)).permute(0, 3, 1, 2).double())
    logits = logits["out"] if isinstance(logits, dict) else logits
    library, _, name = peer.partition("/")
    facts = {"source": library, "name": name, "input_size": size}
    facts["tensors"] = [[name, list(value.shape)] for name, value in tensors.items()]
    file = folder / f"{library}_{name}"
    file.with_name(f"{file.name}.json").write_text(json.dumps(facts))
    np.savez_compressed(file.with_name(f"{file.name}.npz"), logits=logits.numpy().astype(np.float32))


def write_names() -> None:
    """Write the digest of the names of each torchvision and timm model among our peers."""
    from jaxcnn.weights import PEERS

    digests = {}
    for peer in PEERS:
        if peer.startswith(("torchvision/", "timm/")):
            try:
                names = third_party(peer)[0].state_dict()
            except (RuntimeError, ValueError) as error:  # of an older release, say
                print(f"left out: {peer}: {error}", file=sys.stderr)
                continue
            digests[peer] = digest(name for name in names if not name.endswith("num_batches_tracked"))
    NAMES.write_text(json.dumps(digests, indent=1) + "\n")


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--names", action="store_true", help=f"write {NAMES.name}")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("peers", nargs="*", metavar="LIBRARY/NAME")
    arguments = parser.parse_args()
    if arguments.names:
        write_names()
    for peer in arguments.peers:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        write(arguments.folder, peer)
        print(peer, flush=True)


if __name__ == "__main__":
    main()
