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
from jaxcnn.data.streaming import Reader
from jaxcnn.errors import RunError, UsageError, unknown
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.tasks.base import kept_dtype
from jaxcnn.train.evaluate import metrics_of

if TYPE_CHECKING:
    from jaxcnn.experiment import Experiment
    from jaxcnn.runs.trainer import Trainer

VIEWS = ("center", "ten_crop", "multi_scale")

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


def check_views(views: str, scales: Sequence[int], experiment: "Experiment") -> None:
    """Raise UsageError for views that there are none of, or that do not go with the experiment."""
    if views not in VIEWS:
        raise unknown("views", views, VIEWS)
    if scales and views != "multi_scale":
        raise UsageError(f"scales are of views multi_scale, not of {views}")
    if views != "center" and experiment.data.per_pixel_mean:
        raise UsageError(f"views {views} need one mean for each channel: data.per_pixel_mean has one for each pixel")


def score_views(trainer: "Trainer", variables: Any, split: Any, views: str, scales: Sequence[int]) -> dict[str, float]:
    """Return the metrics of what a task predicts, averaged over all views of each image; each image counts once.

    Args:
        trainer: whose model.
        variables: the model's.
        split: to score, streamed.
        views: "ten_crop" or "multi_scale".
        scales: short sides of the latter.

    Raises:
        UsageError: the task's predictions have no mean, or the network takes images of one size only.
        RunError: no image can be used.
        Stopped: on a signal, between two batches.
    """
    task = trainer.task
    if not hasattr(task, "averaged"):
        raise UsageError(f"views {views}: what {type(task).__name__} predicts has no mean over views of an image")
    passes = ten_crops(split, trainer.data.config) if views == "ten_crop" else several_scales(split, scales)
    predictions: Any = None
    targets, usable = {}, np.ones(len(split), bool)
    for parts in passes:
        for some in parts:
            means, batch = _predictions(trainer, variables, split, some)
            if predictions is None:
                predictions = np.zeros((len(split), *means.shape[1:]), np.float32)
            predictions[some.indices] += means / len(passes)
            usable[some.indices] &= batch.pop("mask")
            for name, values in batch.items():
                targets.setdefault(name, np.zeros((len(split), *values.shape[1:]), values.dtype))[some.indices] = values
    if not usable.any():
        raise RunError(f"none of the {len(split)} examples to score can be used, such as {split.bad[0].name}")
    batch = {name: jnp.asarray(values) for name, values in targets.items()} | {"mask": jnp.asarray(usable)}
    outputs = task.averaged(predictions)
    sums = {"loss": task.losses(outputs, batch).sum(), "count": task.count(batch), "task": task.sums(outputs, batch)}
    collected = jax.tree.map(lambda x: np.asarray(x)[usable], task.collect(outputs, batch))
    return metrics_of(task, jax.tree.map(kept_dtype, sums), collected)


def _predictions(trainer: "Trainer", variables: Any, split: Any, views: Views) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the mean over the views of each image, and all else of the examples."""
    indices, parts, height, width, cut = views
    shape = (height, width, trainer.data.shapes["image"].shape[-1])

    def draw(image: bytes | np.ndarray, position: int, out: np.ndarray) -> None:
        out[...] = cut(decoded(image, shape[-1]))

    def step(variables: Any, batch: dict[str, jax.Array]) -> jax.Array:
        return trainer.task.predict(trainer.task.forward(trainer.model, variables, batch, None, False)[0])

    compiled = trainer.compiled(step)
    rows = max(1, min(trainer.eval.batch_size // parts, len(indices)))
    chunks = [indices[start : start + rows] for start in range(0, len(indices), rows)]
    images = trainer.parallel.round_up(rows * parts)
    means, others = [], []
    for number, batch in enumerate(split.drawn(chunks, (parts, *shape), draw)):
        trainer.poll(number)
        flat = batch["image"].reshape(-1, *shape)
        padded = np.pad(flat, ((0, images - len(flat)), (0, 0), (0, 0), (0, 0)))
        try:
            answers = np.asarray(compiled(variables, {"image": padded, "mask": np.ones(images, bool)}))
        except (flax.errors.ScopeParamShapeError, TypeError) as error:
            raise UsageError(f"{type(trainer.model).__name__} does not take images of {height}x{width}") from error
        means.append(answers[: len(flat)].reshape(-1, parts, *answers.shape[1:]).mean(1))
        others.append({name: batch[name] for name in (*trainer.data.fields, "mask") if name != "image"})
    return np.concatenate(means), jax.tree.map(lambda *arrays: np.concatenate(arrays), *others)
