"""Scores over several views of each image, as papers report them: ten crops, or several scales."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from jaxcnn.data import DataConfig
from jaxcnn.data.crops import mirrored, ten_crop
from jaxcnn.data.decode import decoded
from jaxcnn.data.prepared import eval_batch
from jaxcnn.data.streaming import Reader
from jaxcnn.errors import RunError, UsageError
from jaxcnn.preprocessing import Preprocessing

if TYPE_CHECKING:
    from jaxcnn.runs.session import Session

# Sides of rectangles are multiples of it, so that there are tens of shapes to compile for and not hundreds.
_STEP = 32


class Views(NamedTuple):
    """Several parts of one shape, cut from each of some images."""

    indices: Int[np.ndarray, " images"]
    parts: int
    height: int
    width: int
    cut: Callable[[UInt8[np.ndarray, "h w c"]], UInt8[np.ndarray, "parts height width c"]]


def ten_crops(split: Reader, config: DataConfig) -> list[list[Views]]:
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

    return [[Views(np.arange(len(split)), 10, size, size, cut)]]


def several_scales(split: Reader, scales: Sequence[int]) -> list[list[Views]]:
    """Return for each scale the whole rectangles of which it is the short side, and their mirror images.

    Simonyan & Zisserman 2015, section 3.2, and He et al. 2016, section 3.4. (Deviation: the long side is cut, around
    the centre, to a multiple of 32, since every shape of input is compiled anew.)

    Raises:
        UsageError: there is no scale, or one that is none.
    """
    if not scales or min(scales) < 1:
        raise UsageError(f"scales are {list(scales)}: expected sizes in pixels, such as 224 256 384")
    sizes = [split.size(index) for index in range(len(split))]
    return [_rectangles(sizes, scale) for scale in scales]


def _rectangles(sizes: Sequence[tuple[int, int]], scale: int) -> list[Views]:
    """Return the images of these heights and widths at one scale, those of one shape together."""
    found = defaultdict(list)
    for index, sides in enumerate(sizes):
        height, width = (max(scale, scale * side // min(sides) // _STEP * _STEP) for side in sides)
        found[height, width].append(index)
    return [
        Views(np.array(indices), 2, *shape, partial(mirrored, scale=scale, size=shape))
        for shape, indices in found.items()
    ]


def score_views(
    session: "Session", variables: Any, split: Reader, passes: Sequence[Sequence[Views]]
) -> dict[str, float]:
    """Return the metrics of the probabilities averaged over all views, each image counted once.

    Args:
        session: whose model.
        variables: the model's.
        split: to score.
        passes: each goes over all images.

    Raises:
        UsageError: the network takes images of one size only, which a view has not.
        RunError: no image can be used.
        Stopped: on a signal, between two batches.
    """
    probabilities = np.zeros((len(split), session.num_classes), np.float32)
    labels, usable = np.zeros(len(split), np.int32), np.ones(len(split), bool)
    for views in passes:
        for some in views:
            means, labels[some.indices], read = _probabilities(session, variables, split, some)
            probabilities[some.indices] += means / len(passes)
            usable[some.indices] &= read
    if not usable.any():
        raise RunError(f"none of the {len(split)} examples to score can be used, such as {split.bad[0].name}")
    batch = {"label": jnp.asarray(labels), "mask": jnp.asarray(usable)}
    logits = jnp.log(jnp.maximum(probabilities, np.finfo(np.float32).tiny))
    totals = {name: np.asarray(value).item() for name, value in session.task.sums(logits, batch).items()}
    return session.task.metrics(totals, session.num_classes)


def _probabilities(
    session: "Session", variables: Any, split: Reader, views: Views
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean over the views of each image, its label, and whether it can be used."""
    indices, parts, height, width, cut = views
    shape = (height, width, split.image_shape[-1])

    def draw(image: bytes | np.ndarray, position: int, out: np.ndarray) -> None:
        out[...] = cut(decoded(image, shape[-1]))

    def step(variables: Any, batch: dict[str, jax.Array]) -> jax.Array:
        logits: Any = session.model.apply(variables, batch["image"], train=False)
        return jax.nn.softmax(logits)

    compiled = session.parallel.compile_eval(step, eval_batch)
    rows = max(1, min(session.experiment.eval.batch_size // parts, len(indices)))
    chunks = [indices[start : start + rows] for start in range(0, len(indices), rows)]
    images = session.parallel.round_up(rows * parts)
    means, labels, usable = [], [], []
    for number, batch in enumerate(split.drawn(chunks, (parts, *shape), draw)):
        session.poll(number)
        flat = batch["image"].reshape(-1, *shape)
        padded = np.pad(flat, ((0, images - len(flat)), (0, 0), (0, 0), (0, 0)))
        unused = np.zeros(images, np.int32), np.ones(images, bool)
        try:
            answers = np.asarray(compiled(variables, (padded, *unused, session.norms)))
        except (flax.errors.ScopeParamShapeError, TypeError) as error:
            raise UsageError(f"{session.experiment.model.name} does not take images of {height}x{width}") from error
        means.append(answers[: len(flat)].reshape(-1, parts, answers.shape[-1]).mean(1))
        labels.append(batch["label"])
        usable.append(batch["mask"])
    return np.concatenate(means), np.concatenate(labels), np.concatenate(usable)
