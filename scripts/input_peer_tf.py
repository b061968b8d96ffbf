"""What `bench_input.py` compares with: tf.data with TensorFlow's fused JPEG decoding and cropping.

Started under an interpreter that has TensorFlow. The bytes are in memory, so that reading costs nothing here. A way is
`tf_fixed`, as many parallel calls as there are threads, or `tf_autotune`. Commands, as `peer_protocol` reads them:

    {"do": "hello"}                                         -> {"tensorflow": "2.21.0", ...}
    {"do": "load", "folder": "...", "size": 224, "threads": 2, "batch": 64, "images": 3000, "warm_up": 600}
                                                            -> {"files": 250, "ways": ["tf_fixed", "tf_autotune"]}
    {"do": "run", "way": "tf_fixed"}                        -> {"images_per_second": 1340.0}
"""

import os
import sys
from pathlib import Path
from typing import Any

from peer_protocol import Unfit, images_per_second, serve

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the input is the host's
try:
    import tensorflow as tf
except ImportError as error:
    tf, missing = None, str(error)


def resized_crop(encoded: Any, size: int) -> Any:
    """Return a crop of 8 to 100 % of the area and aspect ratio 3/4 to 4/3, resized: uint8 [size, size, 3]."""
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.image.extract_jpeg_shape(encoded),
        tf.zeros([1, 0, 4]),
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], extent[:2]], 0)
    image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
    return tf.cast(tf.image.resize(image, (size, size)), tf.uint8)


class Server:
    """The data sets, and the commands."""

    def answer(self, do: str, **command: Any) -> dict[str, Any]:
        """Carry out one command."""
        if do == "hello":
            return {"tensorflow": tf.__version__, "python": sys.version.split()[0]}
        if do == "load":
            self.images, self.warm_up = command["images"], command["warm_up"]
            files = [path.read_bytes() for path in sorted(Path(command["folder"]).iterdir())]
            source = tf.data.Dataset.from_tensor_slices(files).repeat()
            parallel = {"tf_fixed": command["threads"], "tf_autotune": tf.data.AUTOTUNE}
            self.datasets = {
                way: source.map(lambda encoded: resized_crop(encoded, command["size"]), num_parallel_calls=calls)
                .batch(command["batch"])
                .prefetch(2)
                for way, calls in parallel.items()
            }
            return {"files": len(files), "ways": list(parallel)}
        if do == "run":
            batches = iter(self.datasets[command["way"]])
            return {"images_per_second": images_per_second(batches, self.images, self.warm_up)}
        raise ValueError(f"unknown command {do!r}")


def start() -> Any:
    if tf is None:
        raise Unfit(f"it has no tensorflow ({missing})")
    return Server().answer


if __name__ == "__main__":
    serve(start)
