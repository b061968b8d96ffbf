"""Whether a network, a task and data go together: told by their shapes, before anything is computed."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxcnn.data.fields import Fields
from jaxcnn.errors import UsageError, unknown
from jaxcnn.parts import told
from jaxcnn.tasks.base import Task, Tree, kept_dtype

# Two numbers of examples that are no other size, so that what depends on them can be told.
_ROWS, _OTHER_ROWS = 1009, 1013


def check_kinds(model: Any, tx: Any, task: Any) -> None:
    """Raise UsageError where one of these is something else, such as a class in place of what is made of it."""
    expected = {
        "model is": (model, isinstance(model, nn.Module), "a Linen module that is made, such as Net(width=16)"),
        "tx is": (tx, hasattr(tx, "update") or callable(tx), "an Optax transformation, such as optax.adam(1e-3)"),
        "task is": (task, isinstance(task, Task), "a jaxcnn.Task that is made, such as Classification()"),
    }
    for name, (part, fits, words) in expected.items():
        if not fits:
            raise UsageError(f"{name} {part!r:.80}: expected {words}")


def check_fields(task: Task, fields: Fields) -> None:
    """Raise UsageError where the data lack a field that the task needs, or have it of another kind."""
    found = {name: type(field).__name__ for name, field in fields.items()}
    shown = ", ".join(f"{name} ({kind})" for name, kind in found.items())
    for name, kind in task.example.items():
        if found.get(name) != kind.__name__:
            raise UsageError(f"{_name(task)} needs {name} ({kind.__name__}) in each example: these data have {shown}")


def check_init(task: Task, model: nn.Module, batch: Tree) -> Tree:
    """Return the shapes of a model's variables, from those of a batch.

    Raises:
      UsageError: it cannot be initialised with such a batch, or a variable holds nothing.
    """
    what = f"{type(model).__name__} cannot be initialised with {_shapes(batch)}"
    found = _shape_of(what, lambda key: task.init(model, key, batch), jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        if not leaf.size:  # which no checkpoint can hold
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UsageError(f"{type(model).__name__}: {name} has shape {list(leaf.shape)}, which holds nothing")
    return found


def check_model(task: Task, model: nn.Module, variables: Tree, batch_of: Callable[[int], Tree], fields: Fields) -> None:
    """Trace a model and its task on shapes.

    Args:
      task: the task.
      model: the network.
      variables: shapes of its variables.
      batch_of: returns the shapes of a batch of so many rows, as the model is given it.
      fields: of the data.

    Raises:
      UsageError: the model cannot be called on such a batch, its outputs do not fit the task, or the task's own
        methods do not fit each other: one line, with the shapes.
    """
    batch, others = batch_of(_ROWS), batch_of(_OTHER_ROWS)
    what = f"{type(model).__name__} cannot be called on {_shapes(batch)}"
    answer = _shape_of(what, lambda v, b: task.forward(model, v, b, None, False), variables, batch)
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], Mapping):
        raise UsageError(f"{_name(task)}.forward returns {_shapes(answer)}: expected (outputs, changed collections)")
    outputs, _ = answer
    task.check(outputs, fields)
    more = jax.tree.map(lambda x: _with_rows(x, _OTHER_ROWS), outputs)
    what = f"the model's output {_shapes(outputs)} does not fit {_name(task)} on {_shapes(batch)}"
    calls = {"losses": task.losses, "sums": task.sums, "collect": task.collect, "predict": lambda o, b: task.predict(o)}
    for method, call in calls.items():
        found, larger = (_shape_of(what, call, o, b) for o, b in ((outputs, batch), (more, others)))
        _check_rows(f"{_name(task)}.{method}", method, found, larger, what)
        if method == "sums":
            _check_metrics(task, found, bool(_shape_of(what, task.collect, outputs, batch)))
    count = _shape_of(what, lambda b: task.count(b), batch)
    if getattr(count, "shape", None) != ():
        raise UsageError(f"{_name(task)}.count returns {_shapes(count)}: expected one number")


def _check_rows(where: str, method: str, found: Tree, larger: Tree, what: str) -> None:
    """Raise where losses are not one row for each example and nothing else of that size, or sums are not summed."""
    leaves = jax.tree_util.tree_leaves_with_path(found)
    if str(jax.tree.structure(found)) != str(jax.tree.structure(larger)):
        raise UsageError(
            f"{where} returns another structure for each number of examples: {_shapes(found)} of {_ROWS}, "
            f"{_shapes(larger)} of {_OTHER_ROWS}"
        )
    if method == "losses" and (len(leaves) != 1 or not jnp.issubdtype(leaves[0][1].dtype, jnp.floating)):
        raise UsageError(f"{where} returns {_shapes(found)}: expected one array of floats [examples, ...]")
    for (path, leaf), (_, other) in zip(leaves, jax.tree_util.tree_leaves_with_path(larger), strict=True):
        if method == "sums" and leaf.shape != other.shape:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UsageError(f"{where}: {name} is {_shapes(leaf)}: expected a sum over the examples")
        rows_first = leaf.shape[:1] == (_ROWS,) and other.shape == (_OTHER_ROWS, *leaf.shape[1:])
        if method in ("losses", "collect") and not rows_first:
            raise UsageError(f"{where} returns {_shapes(leaf)}, expected [examples, ...]: {what}")


def _check_metrics(task: Task, sums: Tree, collects: bool) -> None:
    """Try the metrics on sums of ones: whether they read what there is, whatever they make of such numbers."""
    ones = jax.tree.map(lambda x: kept_dtype(np.ones(x.shape, x.dtype)), sums)
    try:
        with warnings.catch_warnings(action="ignore"):
            metrics = {"loss": 1.0, **task.metrics(ones)}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f"{_name(task)}.metrics does not fit its sums {_shapes(sums)}: {told(error)}") from error
    except Exception:  # ones are no sums that can come about
        return
    for name, value in metrics.items():
        if np.ndim(value):
            raise UsageError(f"{_name(task)}.metrics: {name} has shape {list(np.shape(value))}, expected a number")
    if task.best[0] not in metrics and not collects:
        raise unknown(f"metric of {_name(task)}.best", task.best[0], metrics)


def _shape_of(what: str, function: Callable, *like: Any) -> Any:
    try:
        return jax.eval_shape(function, *like)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what}: {told(error)}") from error


def _with_rows(x: jax.ShapeDtypeStruct, rows: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) if x.shape[:1] == (_ROWS,) else x


def _name(task: Task) -> str:
    return type(task).__name__


def _shapes(tree: Tree) -> str:
    """Return a tree's shapes in words, the number of examples as "batch"."""
    words = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        sizes = ", ".join("batch" if size == _ROWS else str(size) for size in np.shape(leaf))
        words.append(f"{name} {leaf.dtype}[{sizes}]".strip())
    return "; ".join(words) or "nothing"
