"""Scores over several views of each image, as papers report them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data import DataConfig
from jaxcnn.data.decode import decoded
from jaxcnn.data.views import Views, several_scales, ten_crops
from jaxcnn.errors import RunError, UsageError
from jaxcnn.tasks.base import kept_dtype
from jaxcnn.train.evaluate import metrics_of

if TYPE_CHECKING:
    from jaxcnn.runs.trainer import Trainer


def score_views(
    trainer: "Trainer", variables: Any, split: Any, config: DataConfig, views: str, scales: Sequence[int]
) -> dict[str, float]:
    """Return the metrics of what a task predicts, averaged over all views of each image; each image counts once.

    Args:
        trainer: whose model.
        variables: the model's.
        split: to score, streamed.
        config: of the data.
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
    passes = ten_crops(split, config) if views == "ten_crop" else several_scales(split, scales)
    predictions: Any = None
    targets: dict[str, np.ndarray] = {}
    usable = np.ones(len(split), bool)
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

    def draw(image: bytes | np.ndarray, out: np.ndarray) -> None:
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
        others.append({name: batch[name] for name in batch if name not in ("image", "index")})
    return np.concatenate(means), jax.tree.map(lambda *arrays: np.concatenate(arrays), *others)
