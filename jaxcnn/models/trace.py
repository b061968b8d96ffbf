"""One trace of a model over shapes: what each submodule makes, holds, computes and sees. Nothing is computed.

The receptive field is read from the operations themselves: the output of each submodule's call is marked in the
jaxpr, and `receptive_fields.py` carries a field to each mark. What is not known of a layer from elsewhere is None.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, get_opaque_trace_state, jaxprs_in_params

from jaxcnn.layers import BatchNorm, Conv, ConvTranspose, Dense, LocallyConnected, initialisers
from jaxcnn.models.receptive_fields import LAST_MAPS, Field, Shape, follow, mark, marked
from jaxcnn.models.signatures import input_errors, own_errors, takes_train


@dataclass(frozen=True)
class Call:
    """One call of a submodule on one image.

    Attributes:
        path: "stage1/block2/conv1"; "" is the model.
        kind: name of its class.
        output: shape and dtype, batch included (of a tuple, of its first array).
        params: trainable parameters of its own, without those of what it calls and of earlier calls of it; of a
            repeated module that was not traced again, all within.
        macs: multiply-adds, likewise; None where they are not known: of a layer from elsewhere with matrices among
            its own parameters, and of what is called in a loop without a fixed end.
        is_layer: it has parameters of its own.
        times: how often this is done for one image, more than once within `nn.scan` and `nn.vmap`; None where it is
            not known.
        passes_on: it returns what it is given, as dropout in evaluation.
        used: the model's output in evaluation depends on it, unlike on auxiliary heads.
        field: None behind unshared weights, resizing, loops, and of what depends on the whole image alone.
        last_maps: of the model's call, the field of the maps that it pools globally or flattens last.
    """

    path: str
    kind: str
    output: jax.ShapeDtypeStruct
    params: int = 0
    macs: int | None = 0
    is_layer: bool = False
    times: int | None = 1
    passes_on: bool = False
    used: bool = True
    field: Field | None = None
    last_maps: Field | None = None

    @property
    def is_stage(self) -> bool:
        """Whether this is the call of a top-level submodule that makes maps."""
        is_top = bool(self.path) and "/" not in self.path
        return is_top and len(self.output.shape) == 4 and self.used and not self.passes_on


def added(numbers: Iterable[int | None]) -> int | None:
    """Return the sum, None where one of the numbers is not known."""
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


@dataclass(eq=False)
class Repeated:
    """What is known of a module after its first call, for calls of its like."""

    output: jax.ShapeDtypeStruct
    params: int
    macs: int | None
    step: tuple[int | Fraction, int | Fraction] | None = None
    """From the input's field to the output's, as `Field.stepped` takes it."""


Known = dict[Hashable, Repeated]


def trace(model: nn.Module, input_shape: Shape, known: Known | None = None) -> list[Call]:
    """Return the calls that one image makes, each before those that it makes itself.

    They are those of evaluation, and of auxiliary heads where the model is made with them.

    Args:
      model: any module that is called with images.
      input_shape: (height, width, channels) of the image.
      known: of modules with equal fields and inputs, as a stage's blocks, only the first is traced, here and
        wherever the same dict is given: ResNet-1202 takes 0.1 s in place of 3 s. None: all are.
    """
    recorder = _Recorder(known)
    jaxpr = _shapes(model, input_shape, recorder.intercept).jaxpr
    follow(jaxpr, [Field(1, 1)], recorder.see)
    used, times, fields = _used(jaxpr), _times(jaxpr), recorder.fields
    # Flax traces the body of a loop more than once, one of which is in the program.
    made = {place: call for place, call in recorder.calls.items() if place in times}
    own = recorder.own_params(made)
    return [
        dataclasses.replace(
            call,
            params=call.params + own.get(place, 0),
            macs=None if call.macs is None or (often := times[place]) is None else call.macs * often,
            is_layer=place in own,
            times=times[place],
            used=place in used,
            field=fields.get(place),
            last_maps=None if call.path else fields.get(LAST_MAPS),
        )
        for place, call in sorted(made.items())
    ]


class _Recorder:
    """What is noted of one trace. A call goes by its place among all calls."""

    def __init__(self, known: Known | None):
        self.known = known
        self.count = 0
        self.level: Any = None
        self.last_apart = -1
        self.calls: dict[int, Call] = {}
        self.paths: set[str] = set()
        self.sizes: dict[str, int] = {}
        self.fields: dict[Hashable, Field | None] = {}
        self.first: dict[Hashable, Repeated] = {}

    def intercept(self, call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        """Note a submodule's call and make it; where its like is known, only pretend to."""
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        module, place, level = context.module, self.count, get_opaque_trace_state(convention="flax")
        self.count += 1
        if place == 0:
            self.level = level
        elif level != self.level:  # In a loop, or what else Flax traces apart, each call has to make its parameters.
            self.last_apart = place
        is_plain = not kwargs and len(args) == 1 and isinstance(args[0], jax.Array) and level == self.level
        key = _key(module, args[0]) if is_plain else None
        if self.known is None or key is None:
            return self._note(place, module, (args, kwargs), call(*args, **kwargs))
        if key in self.known:
            return self._repeat(place, module, args[0], self.known[key])
        x = marked(("input", place), args[0])
        y = self._note(place, module, x, call(x))
        if isinstance(y, jax.Array) and not self.calls[place].passes_on and self.last_apart < place:
            within = [call for other, call in self.calls.items() if other >= place]
            params = sum(_sizes(module).values()) + sum(call.params for call in within)
            like = Repeated(self.calls[place].output, params, added(call.macs for call in within))
            self.first[place] = self.known[key] = like
        return y

    def _note(self, place: int, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        """Note a call that was made, and return its outputs, marked."""
        if place == 0:
            self.sizes = _sizes(module)
        x, y = (next(filter(_is_array, jax.tree.leaves(arrays)), None) for arrays in (inputs, outputs))
        if y is None:
            return outputs
        path = "/".join(module.path)
        self.paths.add(path)
        own = {name: value for name, value in _params(module).items() if self._owner(_join(path, name)) == path}
        output, macs = jax.ShapeDtypeStruct(y.shape, y.dtype), _macs(module, own, x, y)
        self.calls[place] = Call(path, type(module).__name__, output, macs=macs, passes_on=y is x)
        return jax.tree.map(lambda leaf: marked(place, leaf) if _is_array(leaf) else leaf, outputs)

    def _repeat(self, place: int, module: nn.Module, x: jax.Array, like: Repeated) -> jax.Array:
        """Note a call whose like is known, and return an array that stands for its output."""
        path, output = "/".join(module.path), like.output
        if isinstance(module, BatchNorm):
            output = jax.ShapeDtypeStruct(x.shape, output.dtype)
        params = 0 if path in self.paths else like.params  # A module called twice has its parameters once.
        self.paths.add(path)
        self.calls[place] = Call(path, type(module).__name__, output, params, like.macs)
        return marked(place, x, like, output)

    def _owner(self, parameter: str) -> str:
        """Return the path of the innermost called module that a parameter lies in."""
        while parameter and parameter not in self.paths:
            parameter = parameter.rpartition("/")[0]
        return parameter

    def own_params(self, calls: Mapping[int, Call]) -> dict[int, int]:
        """Return how many parameters a call's module has of its own, 0 after its first call, where it has any."""
        sizes: dict[str, int] = {}
        for path, size in self.sizes.items():
            owner = self._owner(path)
            sizes[owner] = sizes.get(owner, 0) + size
        found = {}
        for place, call in sorted(calls.items()):
            if call.path in sizes:
                found[place], sizes[call.path] = sizes[call.path], 0
        return found

    def see(self, place: Hashable, field: Field | None) -> None:
        """Note the receptive field at a mark."""
        self.fields[place] = field
        start = self.fields.get(("input", place))
        if place in self.first and start is not None and field is not None:
            more, ratio = Fraction(field.size - start.size) / start.jump, Fraction(field.jump) / start.jump
            self.first[place].step = more, ratio


def _shapes(model: nn.Module, input_shape: Shape, interceptor: Callable) -> ClosedJaxpr:
    """Trace the model's call on one image with every submodule's call going through `interceptor`."""
    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    evaluation: dict[str, Any] = {"train": False} if takes_train(model) else {}

    def call(images):
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
        return nn.Module.init_with_output(model, rngs, images, **evaluation)[0]

    errors = own_errors(model, image), input_errors(model, image, **evaluation)
    with errors[0], errors[1], initialisers.recording(), nn.intercept_methods(interceptor):
        return jax.make_jaxpr(call)(image)


def _key(module: nn.Module, x: jax.Array) -> Hashable | None:
    """Return what the shapes and counts within the module depend on, None where that cannot be compared."""
    fields = (getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name"))
    shape = x.shape[-1:] if isinstance(module, BatchNorm) else x.shape  # It keeps whatever sizes it is given.
    key = (type(module), *map(_comparable, fields), shape, x.dtype)
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _comparable(value: Any) -> Any:
    """Return `value` with its partials, which compare as objects, turned into what they hold."""
    if isinstance(value, partial):
        keywords = tuple((name, _comparable(part)) for name, part in sorted(value.keywords.items()))
        return value.func, tuple(map(_comparable, value.args)), keywords
    if isinstance(value, tuple | list):
        return tuple(map(_comparable, value))
    return value


def _params(module: nn.Module) -> dict[str, Any]:
    """Return the parameters of a module and of those within it, by their paths from it."""
    return flatten_dict(module.variables.get("params", {}), sep="/")


def _sizes(module: nn.Module) -> dict[str, int]:
    return {path: sum(leaf.size for leaf in jax.tree.leaves(value)) for path, value in _params(module).items()}


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)


def _macs(module: nn.Module, own: dict[str, Any], x: jax.Array | None, y: jax.Array) -> int | None:
    """Return the multiply-adds of a module's own parameters on one image, None where they are not known."""
    if all(leaf.ndim < 2 for leaf in jax.tree.leaves(own)):
        return 0  # Scales and biases.
    if "kernel" not in own:
        return None
    # Each weight of a kernel is used once per position of the output; of the input, where it is transposed;
    # and only once where each position has its own.
    kernel, ours = own["kernel"], type(module).__module__.startswith("jaxcnn.")
    if isinstance(module, LocallyConnected | nn.ConvLocal):
        return kernel.size
    if isinstance(module, ConvTranspose | nn.ConvTranspose):
        return None if x is None else kernel.size * (x.size // x.shape[-1])
    if ours or isinstance(module, Conv | Dense | nn.Conv | nn.Dense):
        return kernel.size * (y.size // y.shape[-1])
    return None


def _used(jaxpr: Jaxpr) -> set[Hashable]:
    """Return the marked places that the outputs depend on."""
    used: set[Hashable] = set()
    wanted = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    for eqn in reversed(jaxpr.eqns):
        if wanted.isdisjoint(eqn.outvars):
            continue
        wanted.update(atom for atom in eqn.invars if not isinstance(atom, Literal))
        used.update(*map(_used, jaxprs_in_params(eqn.params)))
        if eqn.primitive is mark:
            used.add(eqn.params["place"])
    return used


def _times(jaxpr: Jaxpr, times: int | None = 1) -> dict[Hashable, int | None]:
    """Return how often what leads to each mark is done for one call, None where a program says so only when it runs."""
    found: dict[Hashable, int | None] = {}
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if eqn.primitive is mark:
            found[params["place"]] = None if times is None else times * params["lanes"]
        inner = times
        if name in ("while", "cond"):
            inner = None
        elif name == "scan" and times is not None:
            inner = times * params["length"]
        for program in jaxprs_in_params(params):
            found.update(_times(program, inner))
    return found
