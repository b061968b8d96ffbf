"""Scores over several views of each image, as papers report them: ten crops, or several scales."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jaxcnn.data import DataConfig
from jaxcnn.data.crops import mirrored, ten_crop
from jaxcnn.data.decode import decode
from jaxcnn.data.prepared import eval_batch
from jaxcnn.data.streaming import Reader
from jaxcnn.errors import RunError, UsageError
from jaxcnn.preprocessing import Preprocessing

if TYPE_CHECKING:
    from jaxcnn.runs.session import Session


class View(NamedTuple):
    """Several squares of one size, cut from an image."""

    squares: int
    side: int
    cut: Callable[[UInt8[np.ndarray, "h w c"]], UInt8[np.ndarray, "squares side side c"]]


def ten_crops(config: DataConfig) -> list[View]:
    """Return four corners, centre and their mirror images (Krizhevsky et al. 2012, section 4.1).

    Raises:
        UsageError: the configuration leaves nothing around the centre.
    """
    size, short_side = config.image_size, config.resize_to
    if size is None or short_side is None or short_side <= size:
        raise UsageError(
            f"ten crops of {size} pixels need more to cut from: give a resize_to, such as {8 * (size or 224) // 7}"
        )
    scaled = Preprocessing(size=None, resize=short_side)

    def cut(pixels: np.ndarray) -> np.ndarray:
        from PIL import Image

        image = scaled.resized(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
        return ten_crop(np.asarray(image).reshape(image.height, image.width, -1), size)

    return [View(10, size, cut)]


def several_scales(scales: Sequence[int]) -> list[View]:
    """Return the central square at each scale, and its mirror image.

    Raises:
        UsageError: there is no scale, or one that is none.
    """
    if not scales or min(scales) < 1:
        raise UsageError(f"scales are {list(scales)}: expected sizes in pixels, such as 224 256 384")
    return [View(2, scale, partial(mirrored, scale=scale)) for scale in scales]


def score_views(session: "Session", variables: Any, split: Reader, views: Sequence[View]) -> dict[str, float]:
    """Return the metrics of the probabilities averaged over all views, each image counted once.

    Raises:
        UsageError: the network takes images of one size only, which a view has not.
        Stopped: on a signal, between two batches.
    """
    sums = [_probabilities(session, variables, split, view) for view in views]
    probabilities, labels = sum(probabilities for probabilities, _ in sums) / len(views), sums[0][1]
    batch = {"label": jnp.asarray(labels), "mask": jnp.ones(len(labels), bool)}
    logits = jnp.log(jnp.maximum(probabilities, np.finfo(np.float32).tiny))
    totals = {name: np.asarray(value).item() for name, value in session.task.sums(logits, batch).items()}
    return session.task.metrics(totals, session.num_classes)


def _probabilities(session: "Session", variables: Any, split: Reader, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the views of one kind, for the images that can be used, and their labels."""
    channels = split.image_shape[-1]

    def draw(image: bytes | np.ndarray, position: int, out: np.ndarray) -> None:
        out[...] = view.cut(decode(image, channels) if isinstance(image, bytes) else image)

    def step(variables: Any, batch: dict[str, jax.Array]) -> jax.Array:
        logits: Any = session.model.apply(variables, batch["image"], train=False)
        return jax.nn.softmax(logits)

    compiled = session.parallel.compile_eval(step, eval_batch)
    rows = max(1, min(session.experiment.eval.batch_size, len(split)) // view.squares)
    indices = [np.arange(start, min(start + rows, len(split))) for start in range(0, len(split), rows)]
    images = session.parallel.round_up(rows * view.squares)
    found, labels = [], []
    for number, batch in enumerate(split.drawn(indices, (view.squares, view.side, view.side, channels), draw)):
        session.poll(number)
        flat = batch["image"].reshape(-1, view.side, view.side, channels)
        fill = images - len(flat)
        padded = np.pad(flat, ((0, fill), (0, 0), (0, 0), (0, 0)))
        unused = np.zeros(images, np.int32), np.ones(images, bool)
        try:
            answers = np.asarray(compiled(variables, (padded, *unused, session.norms)))
        except (flax.errors.ScopeParamShapeError, TypeError) as error:
            raise UsageError(f"{session.experiment.model.name} does not take images of {view.side} pixels") from error
        means = answers[: len(flat)].reshape(-1, view.squares, answers.shape[-1]).mean(1)
        found.append(means[batch["mask"]])
        labels.append(batch["label"][batch["mask"]])
    if not sum(map(len, labels)):
        raise RunError(f"none of the {len(split)} examples to score can be used, such as {split.bad[0].name}")
    return np.concatenate(found), np.concatenate(labels)
