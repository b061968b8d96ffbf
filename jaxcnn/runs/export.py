"""A trained network as two files for other programs: its weights, and all of it as one StableHLO module."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxcnn import weights
from jaxcnn.data.prepared import eval_batch
from jaxcnn.errors import UsageError
from jaxcnn.files import write_atomically
from jaxcnn.parts import is_reference
from jaxcnn.runs.loaded import Run, load_run

PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    run: str | Path, folder: str | Path, *, checkpoint: str = "last", code: Sequence[str | Path] = ()
) -> tuple[Path, Path]:
    """Write `model.safetensors` and `model.stablehlo` into `folder`, and return their paths.

    The first is read by `jaxcnn.weights.load("jaxcnn", path)`, the second, whatever the platform, by
    `jax.export.deserialize(bytearray(path.read_bytes())).call(images)`: images [n, height, width, channels] as the run
    was given them (uint8), of the size it was trained on, any n, to the model's outputs, such as float32 logits
    [n, classes]. Normalisation and parameters are inside. Where images are no files, such as those of two or four
    channels, the first does not say how they are prepared.

    Args:
      run: a run folder, finished or not; what is exported are the parameters that evaluation uses.
      folder: made if need be.
      checkpoint: "last", or "best" on the validation split.
      code: see `load_run`.

    Raises:
      UsageError: no such run or checkpoint, or no folder can be made there.
      RunError: the checkpoint is damaged and there is no other.
    """
    found, folder = load_run(run, code=code), Path(folder)
    variables, config = found.restore(checkpoint).variables, found.experiment.model
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be a folder for the files: {error.strerror}") from error
    classes = getattr(found.model, "num_classes", None)
    own = {"num_classes": classes} if is_reference(config.name) and classes is not None else {}
    paths = folder / "model.safetensors", folder / "model.stablehlo"
    weights.save(
        paths[0],
        variables,
        model=config.name,
        options=own | config.options,
        preprocessing=found.preprocessing,
        class_names=found.description.class_names or None,
    )
    write_atomically(paths[1], bytes(_module(found, variables).serialize()))
    return paths


def _module(run: Run, variables: object) -> jax.export.Exported:
    # Constants of the module, not a computation of this process.
    constants, norms = jax.tree.map(np.asarray, variables), run.description.norms
    task, model = run.trainer.task, run.model

    def outputs(images: jax.Array) -> jax.Array:
        batch = eval_batch({"image": images, "mask": jnp.ones(images.shape[:1], bool)}, norms)
        return task.forward(model, constants, batch, None, False)[0]

    like = run.description.shapes["image"]
    batch, *_ = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *like.shape), like.dtype)
    try:
        return jax.export.export(jax.jit(outputs), platforms=PLATFORMS)(images)
    except TypeError as error:
        if "_DimExpr" not in str(error):
            raise
        raise UsageError(
            f"{type(model).__name__} cannot be exported for any number of images: it takes theirs for a whole number; "
            "write x.shape[0] for len(x)"
        ) from error
