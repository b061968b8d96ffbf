"""Every convolution of the zoo, forward and both gradients, against torch: slowest first.

    python scripts/bench_conv.py --torch-python PYTHON --out conv.json
    python scripts/bench_conv.py --models resnet20 --limit 5 --repeats 3        a look, in seconds

Convolutions are those of `--models`, each shape once, at the size of images that the model was published with. A row
is one of `forward`, `by_input` and `by_kernel` (the gradients; each is a program of its own, on arrays that are on the
device). Columns, measured in turns in one run: `ours` is `jaxcnn.layers.conv` compiled by `jaxcnn.backend.jit`; `xla`
the plain `lax.conv_general_dilated` under plain `jax.jit`; `im2col` ours with that lowering; `torch` channels_last
tensors, under another interpreter. PYTHON is one that has torch, and both sides let malloc keep freed memory.

An interrupted run goes on with the same command, where `--out` was given. The spread is (largest - least) / median.
"""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import bench_tools
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from bench_peer import Peer, PeerError
from bench_tools import Counter, Results

from jaxcnn import backend
from jaxcnn.environment import environment
from jaxcnn.errors import RunError, UsageError, unknown
from jaxcnn.layers import Conv, ConvTranspose, initialisers
from jaxcnn.layers.conv import Lowering, conv, conv_transpose
from jaxcnn.layers.geometry import per_dimension, resolve_padding, window_extent
from jaxcnn.models import MODELS, create

Direction = Literal["forward", "by_input", "by_kernel"]
_NOISE = np.random.default_rng(0).standard_normal(999_983, np.float32)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    models: tuple[str, ...] = ()
    """Whose convolutions; none: those of all models."""
    directions: tuple[Direction, ...] = ("forward", "by_input", "by_kernel")
    """What to compute: the output, the gradient with respect to the input, to the kernel."""
    torch_python: Path | None = None
    """An interpreter that has torch, to compare with; None: only ours is measured."""
    xla: bool = False
    """Measure the plain way, too."""
    im2col: bool = False
    """Measure the lowering "im2col", too."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of images and kernels."""
    batch_size: int | None = None
    """Images; None: 8 on CPU, 128 elsewhere."""
    repeats: int = 7
    """Measurements of each, in turns."""
    min_macs: int = 0
    """Leave out convolutions of fewer multiply-adds for one image."""
    limit: int | None = None
    """Only so many convolutions, the first of the models; None: all."""
    allocator: bool = True
    """Let malloc keep freed memory, on both sides."""
    out: Path | None = None
    """JSON file of all measurements, written as they are made."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a convolution's time depends on, beside the batch size.

    `image` is [height, width, channels], `kernel` [*window, channels / groups, features], as everywhere.
    """

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False
    output_padding: tuple[int, ...]

    @property
    def label(self) -> str:
        """A line such as "56x56x64 k3x3x64 s2 p1 g32", without what is usual."""
        parts = ["x".join(map(str, self.image)), "k" + "x".join(map(str, (*self.kernel[:-2], self.kernel[-1])))]
        parts += [f"s{_short(self.strides)}"] if set(self.strides) != {1} else []
        parts += [f"p{_short(self.padding)}"] if set(self.padding) != {(0, 0)} else []
        parts += [f"d{_short(self.dilation)}"] if set(self.dilation) != {1} else []
        parts += [f"g{self.groups}"] if self.groups != 1 else []
        return " ".join([*parts, *(["transposed"] if self.transposed else [])])

    @cached_property
    def output(self) -> tuple[int, ...]:
        """Sizes and channels of the output."""
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, *self.image), self.kernel)]
        return jax.eval_shape(self.xla, *arguments).shape[1:]

    @property
    def macs(self) -> int:
        """Multiply-adds for one image; the gradients have as many."""
        return math.prod(self.kernel) * math.prod((self.image if self.transposed else self.output)[:-1])

    def ours(self, x: jax.Array, kernel: jax.Array, lowering: Lowering = "fast") -> jax.Array:
        """Return the output as the library computes it; `lowering` is as `conv` takes it."""
        if self.transposed:
            return conv_transpose(
                x, kernel, self.strides, self.padding, self.output_padding, self.dilation, self.groups
            )
        return conv(x, kernel, self.strides, self.padding, self.dilation, self.groups, lowering)

    def xla(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Return the output as one operation of XLA's."""
        strides, up, padding = self.strides, (1, 1), self.padding
        if self.transposed:
            strides, up, kernel = up, strides, jnp.flip(kernel, (0, 1))
            extents = map(window_extent, self.kernel, self.dilation)
            padding = tuple(
                (extent - 1 - lo, extent - 1 - hi + extra)
                for extent, (lo, hi), extra in zip(extents, self.padding, self.output_padding, strict=True)
            )
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, up, self.dilation, ("NHWC", "HWIO", "NHWC"), feature_group_count=self.groups
        )


def _short(values: Sequence[Any]) -> str:
    """Return one value where all are equal (a pair's one where its two are), else all of them."""
    flat = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
    return str(flat[0]) if len(set(flat)) == 1 else ",".join(map(str, flat))


def shape_of(layer: Conv | ConvTranspose, image: tuple[int, ...]) -> Shape:
    """Return the shape of a layer called with images of [*sizes, channels]."""
    dims = len(image) - 1
    window = per_dimension("kernel_size", layer.kernel_size, dims)
    strides = per_dimension("strides", layer.strides, dims)
    dilation = per_dimension("kernel_dilation", layer.kernel_dilation, dims)
    transposed = isinstance(layer, ConvTranspose)
    extra = layer.output_padding if isinstance(layer, ConvTranspose) else 0
    return Shape(
        image=image,
        kernel=(*window, image[-1] // layer.groups, layer.features),
        strides=strides,
        padding=tuple(resolve_padding(layer.padding, image[:-1], window, strides, dilation)),
        dilation=dilation,
        groups=layer.groups,
        transposed=transposed,
        output_padding=per_dimension("output_padding", extra, dims, minimum=0),
    )


def shapes_of(name: str) -> list[Shape]:
    """Return the shapes of a model's convolutions in training, in the order of the calls, each once."""
    found: dict[Shape, None] = {}

    def intercept(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, Conv | ConvTranspose) and context.method_name == "__call__":
            found[shape_of(context.module, args[0].shape[1:])] = None
        return call(*args, **kwargs)

    model = create(name)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    images = jax.ShapeDtypeStruct((1, *MODELS[name].input_shape), jnp.float32)
    with nn.intercept_methods(intercept), initialisers.recording():
        jax.eval_shape(lambda x: nn.Module.init(model, keys, x, train=True), images)
    return list(found)


def collect(models: Sequence[str], say: Callable[[str], None]) -> dict[Shape, list[str]]:
    """Return the shapes of these models, in their order, each with the models that have it."""
    found: dict[Shape, list[str]] = {}
    for name in models:
        for shape in shapes_of(name):
            found.setdefault(shape, []).append(name)
        say(f"traced {name}")
    return found


def one_direction(function: Callable, direction: Direction) -> Callable:
    """Return `run(x, kernel, cotangent)`: the function's output or one gradient, and nothing else in the program."""

    def run(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
        if direction == "forward":
            return function(x, kernel)
        if direction == "by_input":
            return jax.vjp(lambda x: function(x, kernel), x)[1](cotangent)[0]
        return jax.vjp(lambda kernel: function(x, kernel), kernel)[1](cotangent)[0]

    return run


def measure(
    shape: Shape, direction: Direction, arguments: Arguments, batch_size: int, peer: Peer | None
) -> dict[str, Any]:
    """Return a row's `seconds`, by column, and `errors` of the columns that have none."""
    shapes = ((batch_size, *shape.image), shape.kernel, (batch_size, *shape.output))
    # The same numbers again and again: drawing them by JAX would compile a program for each shape.
    arrays = [jax.device_put(np.resize(_NOISE, s).astype(jnp.dtype(arguments.dtype))) for s in shapes]
    columns: dict[str, tuple[Callable, Callable]] = {"ours": (backend.jit, shape.ours)}
    if arguments.xla:
        columns["xla"] = (jax.jit, shape.xla)
    if arguments.im2col and not shape.transposed:
        columns["im2col"] = (backend.jit, partial(shape.ours, lowering="im2col"))
    timers, errors = {}, {}
    for name, (jit, function) in columns.items():
        try:
            compiled = jit(one_direction(function, direction)).lower(*arrays).compile()
            jax.block_until_ready(compiled(*arrays))
            timers[name] = bench_tools.timer(partial(compiled, *arrays))
        except jax.errors.JaxRuntimeError as error:  # out of memory
            errors[name] = str(error).splitlines()[0]
    number = None
    if peer is not None:
        try:
            answer = peer.ask("conv", direction=direction, batch=batch_size, dtype=arguments.dtype, **asdict(shape))
            number = answer["id"]
            if tuple(answer["shape"]) != shapes[2]:
                raise RunError(f"{shape.label}: torch's output is {answer['shape']}, ours {list(shapes[2])}")
            timers["torch"] = peer.timer(number)
        except PeerError as error:
            errors["torch"] = str(error)
    seconds = bench_tools.in_turns(timers, arguments.repeats, least_seconds=0.005)
    if peer is not None and number is not None:
        peer.ask("drop", id=number)
    return {"seconds": seconds, "ratio": bench_tools.ratio(seconds), "errors": errors}


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table: largest ratio first; without a peer, slowest first."""
    names = [name for name in ("ours", "xla", "im2col", "torch") if any(name in row["seconds"] for row in rows)]

    def worst(row: dict[str, Any]) -> tuple[float, float]:
        return -(row["ratio"] or 0.0), -row["seconds"].get("ours", {"median": math.inf})["median"]

    cells = []
    for row in sorted(rows, key=worst):
        times = [bench_tools.milliseconds(row["seconds"].get(name)) for name in names]
        spread = max((s["spread"] for s in row["seconds"].values()), default=math.nan)
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        more = f" +{len(row['models']) - 1}" if len(row["models"]) > 1 else ""
        place = [row["label"], row["direction"], row["models"][0] + more, f"{row['macs'] / 1e6:,.1f}"]
        cells.append([*place, *times, ratio, f"{100 * spread:.0f} %"])
    header = ["convolution", "direction", "models", "MMACs", *(f"{name} ms" for name in names), "ratio", "spread"]
    return bench_tools.table(header, cells, left=3)


def benchmark(arguments: Arguments) -> None:
    """Measure what is asked for and print the table."""
    for name in arguments.models:
        if name not in MODELS:
            raise unknown("model", name, MODELS)
    for option, value in (
        ("repeats", arguments.repeats),
        ("batch-size", arguments.batch_size),
        ("limit", arguments.limit),
    ):
        if value is not None and value < 1:
            raise UsageError(f"--{option} is {value}: expected at least 1")
    platform, keeps = bench_tools.prepare_process(arguments.allocator, shared=arguments.torch_python is not None)
    batch_size = arguments.batch_size or (8 if platform == "cpu" else 128)
    with ExitStack() as stack:
        peer = None
        if arguments.torch_python is not None:
            peer = stack.enter_context(closing(Peer(arguments.torch_python, platform, allocator=arguments.allocator)))
        with Counter(len(arguments.models or MODELS)) as counter:
            shapes = collect(arguments.models or tuple(MODELS), counter.step)
        kept = [(shape, models) for shape, models in shapes.items() if shape.macs >= arguments.min_macs]
        head = {
            "environment": environment(),
            "torch": None if peer is None else peer.about,
            "settings": {
                "batch_size": batch_size,
                "dtype": arguments.dtype,
                "repeats": arguments.repeats,
                "xla": arguments.xla,
                "im2col": arguments.im2col,
                "keeps_freed_memory": keeps,
                "compiler_options": backend.compiler_options(platform),
            },
        }
        results = Results(arguments.out, head, ("shape", "direction"))
        work = [(*item, direction) for item in kept[: arguments.limit] for direction in arguments.directions]
        rows = []
        stack.callback(results.write)
        with Counter(len(work)) as counter:
            for shape, models, direction in work:
                counter.doing(f"{shape.label} {direction}")
                row: dict[str, Any] = {"shape": asdict(shape), "direction": direction}
                found = results.get(row)
                if found is None:
                    row |= {"label": shape.label, "models": models, "macs": shape.macs}
                    found = results.add(row | measure(shape, direction, arguments, batch_size, peer))
                rows.append(found | {"models": models})
                counter.step(f"{shape.label} {direction}")
    print(render(rows))
    for name, error in dict(item for row in rows for item in row["errors"].items()).items():
        count = sum(name in row["errors"] for row in rows)
        print(f"{name}: {count} of {len(rows)} could not be measured, such as: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(bench_tools.run_script(lambda: benchmark(bench_tools.arguments(Arguments, __doc__))))
