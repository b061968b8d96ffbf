"""What a run is computed by: the sources, and the programs that they come to.

Two runs of one experiment are one run where nothing that was computed differs. Equal sources tell that at once. Where
they differ, by a comment or a new version, the programs are compared: initialisation, the model, the training step with
its device transforms, and evaluation, as they are lowered for one device, without names and places; and the code that
makes batches on the host, without comments.
"""

import ast
import contextlib
import hashlib
import inspect
import json
import os
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn import backend
from jaxcnn import experiment as experiments
from jaxcnn.data import Description
from jaxcnn.data.prepared import eval_batch, training_batch
from jaxcnn.environment import version
from jaxcnn.errors import UsageError
from jaxcnn.experiment import Experiment
from jaxcnn.files import read_json, sha256, write_atomically
from jaxcnn.keys import init_key
from jaxcnn.parts import Finder, Part, is_reference
from jaxcnn.runs.trainer import Trainer
from jaxcnn.train.inputs import batch_like
from jaxcnn.train.state import create_state
from jaxcnn.train.step import make_eval_step
from jaxcnn.typed import check, hints

_ROOM = Path(__file__).parents[1]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
# Modules of the data room that are part of the traced programs, or make no batches.
_NO_BATCHES = {"__init__.py", "augment.py", "fields.py", "samples.py", "survey.py", "views.py"}
# What images are decoded and resized by.
_DECODERS = ("numpy", "pillow", "opencv-python-headless", "simplejpeg")
_SYMBOL = re.compile(r'@"?((?<=")[^"]+|[\w.$-]+)"?')  # a name such as <lambda> is quoted
_NAMES = re.compile(r"\{?[\w.]*result_info = \"[^\"]*\"\}?|\bloc\([^)]*\)|^module @\S+")
_VALUE = re.compile(r"%[\w:#]+")


@dataclass(frozen=True)
class Sources:
    """What a run's code was read from."""

    sha256: str
    """Of all of it, ours and the user's, with the versions of the libraries below."""
    files: Mapping[str, Mapping[str, str]]
    """The user's files: `path` and `sha256`, by name."""


@dataclass(frozen=True)
class Program:
    """A lowered program, without names."""

    sha256: str
    operations: dict[str, int]
    """How often each operation occurs, by a short hash of its kind, types and attributes."""

    def differs(self, other: "Program") -> str:
        """Return by how many operations."""
        ours, theirs = Counter(self.operations), Counter(other.operations)
        count = max((ours - theirs).total(), (theirs - ours).total())
        return f"{count} of {ours.total()} operations differ" if count else "its operations are put together otherwise"


@dataclass(frozen=True)
class Programs:
    """All that a run computes."""

    platform: str
    parts: dict[str, Program]
    """In the order in which a difference is told: the model, ..."""
    batches: str
    """SHA-256 of the code that makes batches and metrics on the host."""

    def differs(self, other: "Programs") -> str | None:
        """Return the first difference, as part of a sentence; None: there is none."""
        for name, program in self.parts.items():
            if name not in other.parts or program.sha256 != other.parts[name].sha256:
                then = other.parts.get(name)
                return f"{name}: {program.differs(then) if then else 'it is new'}"
        return None if self.batches == other.batches else "the code that makes batches and metrics differs"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Programs":
        """Return what `dataclasses.asdict` gave, which may stand among other values.

        Raises:
          UsageError: the values are something else.
        """
        return check(cls, {name: value for name, value in values.items() if name in hints(cls)}, "")


def sources_of(experiment: Experiment, finder: Finder) -> Sources:
    """Return the sources of an experiment: the whole of this package, and what the user's parts were read from.

    Raises:
      UsageError: a part cannot be found.
    """
    found = finder.sources(experiment.references)
    files = {name: {"path": str(path), "sha256": sha256(path)} for name, path in found.items()}
    digest = hashlib.sha256(_own_sources().encode())
    for name, file in sorted(files.items()):
        digest.update(f"{name} {file['sha256']}\n".encode())
    return Sources(digest.hexdigest(), files)


@cache
def _own_sources() -> str:
    paths = sorted(_ROOM.rglob("*.py"))
    lines = [f"{path.relative_to(_ROOM)} {sha256(path)}" for path in paths]
    return "\n".join([*lines, *_versions(_PACKAGES)])


def _versions(packages: Iterable[str]) -> list[str]:
    return [f"{name} {version(name)}" for name in packages]


def programs_of(
    experiment: Experiment, data: Description, sources: Sources, finder: Finder, platform: str | None = None
) -> Programs:
    """Return the programs of an experiment, from the user's cache where these sources were traced before.

    Args:
      experiment: of one seed; what the seed is plays no part.
      data: what its data are.
      sources: of it.
      finder: of its parts.
      platform: that the programs are lowered for; None: this process's.
    """
    platform = platform or {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    alike = {name: value for name, value in experiments.material(experiment).items() if name not in ("seed", "name")}
    key = json.dumps([sources.sha256, platform, alike, data.to_json()], sort_keys=True)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "jaxcnn" / "programs" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    try:
        return Programs.from_json(read_json(path))
    except UsageError:
        found = trace(experiment, data, finder, platform)
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        write_atomically(path, json.dumps(asdict(found)).encode())
    return found


def trace(experiment: Experiment, data: Description, finder: Finder, platform: str) -> Programs:
    """Return the programs of an experiment, lowered for one device of a platform."""
    train = replace(experiment.train, devices=1 if jax.process_count() == 1 else None, parallel="jit")
    trainer = Trainer.from_experiment(replace(experiment, train=train), data=data, finder=finder)
    model, tx, task, data = trainer.model, trainer.tx, trainer.task, trainer.data
    step = trainer.make_step()
    state, stored = trainer.abstract_state(None), batch_like(data, train.batch_size)
    batch, key, norms = trainer.batch_like(train.batch_size), state.key, data.norms

    def initialise(key: jax.Array) -> Any:
        key = jax.random.wrap_key_data(key)
        variables = task.init(model, init_key(key), trainer.batch_like(1))
        return create_state(variables, tx, key, ema=train.ema_decay is not None)

    def train_step(state: Any, stored: Any, key: jax.Array, norms: Any) -> Any:
        made = training_batch(stored, jax.random.wrap_key_data(key), norms, data.augment, data.fields)
        return step(state, made)

    def score(variables: Any, stored: Any, norms: Any) -> Any:
        return make_eval_step(model, task)(variables, eval_batch(stored, norms))

    variables = state.variables
    parts: dict[str, tuple[Callable, tuple]] = {
        "the model": (lambda v, b: task.forward(model, v, b, None, False), (variables, batch)),
        "the initialisation": (initialise, (key,)),
        "the training step": (train_step, (state, stored, key, norms)),
        "the evaluation": (score, (variables, stored, norms)),
    }
    lowered = {name: _program(function, like, platform) for name, (function, like) in parts.items()}
    return Programs(platform, lowered, _host_code(experiment, finder, trainer))


def _program(function: Callable, like: tuple, platform: str) -> Program:
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), like)
    traced = backend.jit(function, platform=platform).trace(*like)
    module = traced.lower(lowering_platforms=(platform,)).compiler_ir()
    functions = {op.attributes["sym_name"].value: _NAMES.sub("", str(op)) for op in module.body.operations}
    digests: dict[str, str] = {}

    def digest(name: str) -> str:
        if name not in digests:
            digests[name] = ""  # in its own head
            # By what it does: how many copies of a function JAX writes out is an accident of its caches.
            text = _SYMBOL.sub(lambda found: f"@{digest(found[1])}" if found[1] in functions else "@", functions[name])
            digests[name] = hashlib.sha256(text.encode()).hexdigest()
        return digests[name]

    whole = digest("main")
    distinct = {digests[name]: functions[name] for name in digests}
    operations = Counter(
        hashlib.sha256(_SYMBOL.sub("@", _VALUE.sub("%", line.strip())).encode()).hexdigest()[:8]
        for text in distinct.values()
        for line in text.splitlines()
        if "stablehlo." in line or "call @" in line or "chlo." in line
    )
    return Program(whole, dict(operations))


def _host_code(experiment: Experiment, finder: Finder, trainer: Trainer) -> str:
    """Return the SHA-256 of the code that makes batches and metrics on the host, without comments."""
    room, given = _ROOM / "data", experiment.data.source
    source = given.name if isinstance(given, Part) else str(given)
    shared = {"records.py", "__init__.py", "arrays.py", "objects.py", "kinds.py"}
    paths = [
        *sorted((_ROOM / "images").glob("*.py")),
        *(path for path in sorted(room.glob("*.py")) if path.name not in _NO_BATCHES),
        *(path for path in sorted((room / "stores").glob("*.py")) if path.name in shared or source in path.name),
    ]
    own = finder.sources([source] if is_reference(source) else [])
    texts = [path.read_text() for path in [*paths, *own.values()]]
    parts = [trainer.task.metrics, trainer.task.score, *trainer.callbacks]
    texts += [textwrap.dedent(inspect.getsource(one)) for part in parts for one in _functions(part)]
    lines = [*_versions(_DECODERS), *map(_without_comments, texts), *map(repr, experiment.train.callbacks)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _functions(part: Any) -> list[Any]:
    """Return a function, or the methods of a class or value: Python finds the source of a class only by its module."""
    part = inspect.unwrap(getattr(part, "func", part))
    if inspect.isroutine(part):
        return [part]
    found = inspect.getmembers(part if isinstance(part, type) else type(part), inspect.isfunction)
    return [one for _, one in found if not one.__code__.co_filename.startswith("<")]


@cache
def _without_comments(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
