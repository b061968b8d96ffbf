"""How a step is compiled, and where arrays lie: on one device, or mapped over several by shard_map or pmap.

Batches are made in the global view, so that shuffling and augmentation are the same bits for every number of devices;
the training step sees one device's part, and says itself what crosses devices. State and sums are the same on all
devices and have one shape whatever their number. Nothing outside this file knows how many there are.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxcnn import backend
from jaxcnn.errors import RunError, UsageError
from jaxcnn.stop import Stopped
from jaxcnn.train.state import TrainState, Tree
from jaxcnn.train.step import Batch, Sums, TrainStep

_AXIS = "data"
CompiledStep = Callable[[TrainState, Any], tuple[TrainState, Sums]]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Wait, after the block, for all processes; where it raised in one, raise in all, and none waits for another.

    Only for a block without communication between the processes, which they all come to.

    Raises:
      Stopped: a signal came to another process.
      RunError: another process failed.
    """
    try:
        yield
    except Exception as error:
        gathered(error.signum if isinstance(error, Stopped) else -1)
        raise
    codes = gathered(0)
    if (codes < 0).any():
        raise RunError("another process failed: see its message")
    if codes.any():
        raise Stopped(int(codes.max()))


def gathered(code: int) -> np.ndarray:
    """Return what each process gives."""
    from jax.experimental import multihost_utils

    return (
        multihost_utils.process_allgather(np.array([code], np.int32)) if jax.process_count() > 1 else np.array([code])
    )


class Parallel:
    """The devices of a run.

    Attributes:
      axis_name: the mapped axis that `make_train_step` is to add up over; None: there is none.
    """

    def __init__(
        self,
        batch_size: int,
        mode: Literal["jit", "pmap"] = "jit",
        devices: int | Sequence[jax.Device] | None = None,
        deterministic: bool = True,
    ) -> None:
        """Lay the devices out on one axis.

        Args:
          batch_size: of all devices together.
          mode: how the program of each device is mapped over several.
          devices: them, or how many of `jax.devices()`; None: all.
          deterministic: see `backend.jit`.

        Raises:
          UsageError: there are fewer, or the batch does not divide over them.
        """
        chosen = list(devices) if isinstance(devices, Sequence) else choose_devices(devices)
        _check_batch(batch_size, len(chosen))
        self.mode, self.devices, self._deterministic = mode, chosen, deterministic
        self.axis_name = _AXIS if len(chosen) > 1 or mode == "pmap" else None
        self.mesh = Mesh(np.asarray(chosen), (_AXIS,), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.sharded = NamedSharding(self.mesh, PartitionSpec(_AXIS))

    def place(self, tree: Tree) -> Tree:
        """Return the tree of arrays (the same on every process) replicated over all devices."""
        return jax.device_put(tree, self.replicated)

    def rows(self, batch_size: int) -> slice:
        """Return which rows of a global batch this process's devices hold."""
        held = self.sharded.addressable_devices_indices_map((batch_size,)).values()
        parts = [rows.indices(batch_size) for (rows,) in filter(None, held)]
        return slice(min(start for start, _, _ in parts), max(stop for _, stop, _ in parts))

    def shard(self, rows: Tree) -> Tree:
        """Return a batch over the devices, of whose rows each process gives those that `rows` names."""
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.sharded, x), rows)

    def like(self, tree: Tree, sharding: NamedSharding | None = None) -> Tree:
        """Return what stands for arrays of such shapes on these devices, replicated where nothing else is said."""
        sharding = sharding or self.replicated
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    def round_up(self, batch_size: int) -> int:
        """Return the nearest batch size from `batch_size` upwards that divides over the devices."""
        return -(-batch_size // len(self.devices)) * len(self.devices)

    def compile_train(self, step: TrainStep, make_batch: Callable[[Any], Batch]) -> CompiledStep:
        """Return `run(state, inputs) -> (state, sums)`; the state is donated.

        Args:
          step: of `make_train_step` with our `axis_name`.
          make_batch: makes the batch of the inputs, in the global view; part of the program.
        """

        def run(state: TrainState, inputs: Any) -> tuple[TrainState, Sums]:
            return self._mapped(step)(state, jax.lax.with_sharding_constraint(make_batch(inputs), self.sharded))

        return self.jit(run, donate_argnums=0, out_shardings=self.replicated)

    def _mapped(self, step: TrainStep) -> TrainStep:
        if self.axis_name is None:
            return step
        # pmap, which is a shard_map itself, maps over the devices of one process where it is part of a program.
        if self.mode == "jit" or jax.process_count() > 1:
            # In the global view XLA would reduce each gradient by itself. With check_vma, jax would: it makes the
            # gradient of what is the same on all devices a sum over them, parameter by parameter.
            parts = PartitionSpec(), PartitionSpec(_AXIS)
            return jax.shard_map(step, mesh=self.mesh, in_specs=parts, out_specs=PartitionSpec(), check_vma=False)
        mapped = jax.pmap(step, axis_name=_AXIS, in_axes=(None, 0), out_axes=None, devices=self.devices)
        count = len(self.devices)
        return lambda state, batch: mapped(
            state, jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)
        )

    def compile_eval(self, step: Callable, make_batch: Callable[[Any], Batch]) -> Callable:
        """Return `run(variables, inputs)`: what `step` answers to a batch in the global view, sharded."""

        def run(variables: Tree, inputs: Any):
            return step(variables, jax.lax.with_sharding_constraint(make_batch(inputs), self.sharded))

        return self.jit(run, out_shardings=self.replicated)

    def compile_meanwhile(self, run: Any, *like: Any) -> Callable[[], Any]:
        """Trace what `compile_train` returned, let a thread compile it, and return what waits for that.

        The first call then finds the program, if its arguments have the types and shardings of `like`. For the CPU
        alone: for an accelerator the compiler times kernels to choose between them, which nothing is to disturb.

        Args:
          run: the step.
          like: its arguments, or `jax.ShapeDtypeStruct`s that stand for them.
        """
        if self.devices[0].platform != "cpu":
            return lambda: None
        lowered = run.lower(*like)
        thread = ThreadPoolExecutor(max_workers=1)
        compiled = thread.submit(lowered.compile)
        thread.shutdown(wait=False)
        return compiled.result

    def jit(self, run: Callable, **kwargs: Any) -> Callable:
        """Return `backend.jit(run, **kwargs)` for these devices."""
        return backend.jit(run, platform=self.devices[0].platform, deterministic=self._deterministic, **kwargs)


def choose_devices(count: int | None) -> list[jax.Device]:
    """Return so many of `jax.devices()`, the same number from every process, in their order; None: all.

    Raises:
      UsageError: there are fewer, or the processes cannot have the same number.
    """
    available = jax.devices()
    count = len(available) if count is None else count
    if not 1 <= count <= len(available):
        found = "1, the one device found" if len(available) == 1 else f"1 to {len(available)}, the devices found"
        raise UsageError(f"train.devices is {count}: expected {found}")
    if count % jax.process_count():
        raise UsageError(f"train.devices is {count}: expected a multiple of the {jax.process_count()} processes")
    share = count // jax.process_count()
    return [d for p in range(jax.process_count()) for d in [d for d in available if d.process_index == p][:share]]


def _check_batch(batch_size: int, devices: int) -> None:
    if batch_size % devices:
        below, above = batch_size // devices * devices, (batch_size // devices + 1) * devices
        raise UsageError(
            f"batch size {batch_size} does not divide over {devices} devices: "
            f"the nearest that does is {below if below > 0 and batch_size - below <= above - batch_size else above}"
        )


def check_parts(batch_size: int, parts: int, devices: int) -> None:
    """Raise UsageError where each device's share of a batch does not divide into so many parts."""
    share = batch_size // devices
    if share % parts:
        nearest = min((n for n in range(1, share + 1) if share % n == 0), key=lambda n: abs(n - parts))
        raise UsageError(
            f"train.accumulation_steps is {parts}: each of {devices} devices has {share} examples of a batch, which do "
            f"not divide into as many parts; the nearest number that does is {nearest}"
        )
