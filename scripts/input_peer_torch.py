"""What `bench_input.py` compares with: torch's DataLoader over JPEG files, decoded and cropped by Pillow.

Started under an interpreter that has torch and Pillow. The transform is torchvision's RandomResizedCrop on PIL images,
written out here: torchvision need not be there. Commands, as `peer_protocol` reads them:

    {"do": "hello"}                     -> {"torch": "2.13.0", "pillow": ...}
    {"do": "load", "folder": "...", "size": 224, "threads": 2, "batch": 64, "images": 3000, "warm_up": 600}
                                        -> {"files": 250, "ways": ["torch"]}
    {"do": "run", "way": "torch"}       -> {"images_per_second": 572.0}
"""

import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peer_protocol import Unfit, images_per_second, serve

try:
    import numpy as np
    import PIL
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
except ImportError as error:
    missing: str | None = str(error)
    Dataset = object
else:
    missing = None


def resized_crop(image: Any, size: int) -> Any:
    """Return a crop of 8 to 100 % of the area and aspect ratio 3/4 to 4/3, resized; ten draws, then the centre."""
    width, height = image.size
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            break
    else:
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
    return image.crop((left, top, left + w, top + h)).resize((size, size), Image.Resampling.BILINEAR)


class Files(Dataset):
    """The files again and again, `length` images in all: uint8 [3, size, size]."""

    def __init__(self, paths: list[Path], size: int, length: int) -> None:
        """Read nothing yet."""
        self.paths, self.size, self.length = paths, size, length

    def __len__(self) -> int:
        """Return the number of images."""
        return self.length

    def __getitem__(self, index: int) -> Any:
        """Return one image."""
        with Image.open(self.paths[index % len(self.paths)]) as image:
            pixels = np.array(resized_crop(image.convert("RGB"), self.size))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


class Server:
    """The files, and the commands."""

    def answer(self, do: str, **command: Any) -> dict[str, Any]:
        """Carry out one command."""
        if do == "hello":
            return {"torch": torch.__version__, "pillow": PIL.__version__, "python": sys.version.split()[0]}
        if do == "load":
            self.setting = command
            self.paths = sorted(Path(command["folder"]).iterdir())
            return {"files": len(self.paths), "ways": ["torch"]}
        if do == "run":
            rate = images_per_second(self.batches(), self.setting["images"], self.setting["warm_up"])
            return {"images_per_second": rate}
        raise ValueError(f"unknown command {do!r}")

    def batches(self) -> Iterator[Any]:
        """Yield batches uint8 [batch, 3, size, size]: enough for a run in which no worker idles at the end."""
        workers, batch = self.setting["threads"], self.setting["batch"]
        ahead = 2 + 2 * workers  # both counts are rounded up to whole batches, and each worker is 2 ahead
        length = self.setting["images"] + self.setting["warm_up"] + ahead * batch
        yield from DataLoader(Files(self.paths, self.setting["size"], length), batch, num_workers=workers)


def start() -> Any:
    if missing is not None:
        raise Unfit(f"it has no torch, or no Pillow ({missing})")
    return Server().answer


if __name__ == "__main__":
    serve(start)
