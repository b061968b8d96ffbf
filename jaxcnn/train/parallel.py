"""How a step is compiled: `jit` over a mesh or `pmap`.

Nothing outside this file knows which one is in use. Both take batches made in the global view, so shuffling and
augmentation are the same bits for every number of devices; both train in the per-device view, in which the step says
what crosses devices; both return states that `view` turns into the global, replicated form that evaluation and
checkpoints read.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxcnn import backend
from jaxcnn.errors import RunError, UsageError
from jaxcnn.stop import Stopped
from jaxcnn.train.state import TrainState, Tree
from jaxcnn.train.step import Batch, TrainStep

Window = dict[str, jax.Array]
MakeBatch = Callable[..., Batch]
CompiledStep = Callable[[Any, Any, Any], tuple[Any, Any, jax.Array]]
NEVER = np.iinfo(np.int32).max


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
        _gather(error.signum if isinstance(error, Stopped) else -1)
        raise
    codes = _gather(0)
    if (codes < 0).any():
        raise RunError("another process failed: see its message")
    if codes.any():
        raise Stopped(int(codes.max()))


def agree(choice: bool) -> bool:
    """Return what the first process chose."""
    return bool(_gather(choice)[0])


def _gather(code: int) -> np.ndarray:
    """Return what each process gives."""
    from jax.experimental import multihost_utils

    return (
        multihost_utils.process_allgather(np.array([code], np.int32)) if jax.process_count() > 1 else np.array([code])
    )


def windowed_step(step: TrainStep) -> Callable[[TrainState, Window, Batch], tuple[TrainState, Window, jax.Array]]:
    """Return the step that also adds its sums to a window, and answers its mean loss."""

    def run(state: TrainState, window: Window, batch: Batch) -> tuple[TrainState, Window, jax.Array]:
        state, sums = step(state, batch)
        bad_step = jnp.where(jnp.isfinite(sums["loss"]), NEVER, state.step)
        added = {name: window[name] + sums[name] for name in sums}
        window = added | {"bad_step": jnp.minimum(window["bad_step"], bad_step)}
        return state, window, sums["loss"] / sums["count"].astype(jnp.float32)

    return run


class Jit:
    """One program over a mesh of all devices: BatchNorm sees the global batch.

    Attributes:
      step_axis: the mapped axis that `make_train_step` is to reduce over; None: there is none, with one device.
      sync_batch_norm: whether BatchNorm is to average its statistics over that axis.
    """

    sync_batch_norm = True

    def __init__(self, devices: list[jax.Device]) -> None:
        """Lay the devices out on one axis, `data`."""
        self.step_axis: str | None = "data" if len(devices) > 1 else None
        self.mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.sharded = NamedSharding(self.mesh, PartitionSpec("data"))

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

    def view(self, tree: Any) -> Any:
        """Return the state or window of a compiled step as `place` gave it: global and replicated."""
        return tree

    def window(self, sums: Mapping[str, float]) -> Window:
        """Return the sums that training steps add to between two rows of the log, from their values; {}: no step."""
        # bad_step: the first step whose loss was not finite.
        empty = {"loss": 0.0, "correct": 0, "correct_top5": 0, "count": 0, "bad_step": NEVER}
        values = empty | dict(sums)
        return self.place({k: np.array(values[k], np.float32 if k == "loss" else np.int32) for k in empty})

    def round_up(self, batch_size: int) -> int:
        """Return the nearest batch size from `batch_size` upwards that divides over the devices."""
        return -(-batch_size // self.mesh.size) * self.mesh.size

    def compile_train(self, step: TrainStep, make_batch: MakeBatch) -> CompiledStep:
        """Return `run(state, window, arguments) -> (state, window, loss)`.

        State and window are donated. The loss is the step's mean.

        Args:
          step: of `make_train_step` with our `step_axis` and `sync_batch_norm`.
          make_batch: `make_batch(*arguments)` is part of the program.
        """
        windowed = windowed_step(step)
        if self.step_axis is not None:
            # In the global view XLA would reduce each gradient by itself. With check_vma, jax would: it makes the
            # gradient of what is the same on all devices a sum over them, parameter by parameter. The step reduces
            # gradients itself, and asks the same of BatchNorm as under pmap, which knows no such rule.
            parts = PartitionSpec(), PartitionSpec(), PartitionSpec("data")
            windowed = jax.shard_map(
                windowed, mesh=self.mesh, in_specs=parts, out_specs=PartitionSpec(), check_vma=False
            )

        def run(state: TrainState, window: Window, arguments: tuple) -> tuple[TrainState, Window, jax.Array]:
            return windowed(state, window, jax.lax.with_sharding_constraint(make_batch(*arguments), self.sharded))

        return self._jit(run, donate_argnums=(0, 1))

    def compile_eval(self, step: Callable, make_batch: MakeBatch) -> Callable:
        """Return `run(variables, arguments)`: what `step` answers to a batch in the global view, sharded."""

        def run(variables: Tree, arguments: tuple):
            batch = jax.lax.with_sharding_constraint(make_batch(*arguments), self.sharded)
            return step(variables, batch)

        return self._jit(run)

    def compile_meanwhile(self, run: Any, *like: Any) -> Callable[[], Any]:
        """Trace what `compile_train` returned, let a thread compile it, and return what waits for that.

        The first call then finds the program, if its arguments have the types and shardings of `like`. For the CPU
        alone: for an accelerator the compiler times kernels to choose between them, which nothing is to disturb.

        Args:
          run: the step.
          like: its arguments, or `jax.ShapeDtypeStruct`s that stand for them.
        """
        if self.mesh.devices.flat[0].platform != "cpu":
            return lambda: None
        lowered = run.lower(*like)
        thread = ThreadPoolExecutor(max_workers=1)
        compiled = thread.submit(lowered.compile)
        thread.shutdown(wait=False)
        return compiled.result

    def _jit(self, run: Callable, **kwargs: Any) -> Callable:
        platform = self.mesh.devices.flat[0].platform
        return backend.jit(run, platform=platform, out_shardings=self.replicated, **kwargs)


class Pmap(Jit):
    """One program per device (`jax.pmap`): BatchNorm sees the device's own part of the batch, unless synchronised.

    Running BatchNorm statistics are then averaged over the devices after each step, so that there is one state.
    """

    def __init__(self, devices: list[jax.Device], sync_batch_norm: bool) -> None:
        """Note whether BatchNorm's batch statistics are averaged over the devices (then equal to `jit`'s)."""
        super().__init__(devices)
        self.step_axis = "devices"
        self.sync_batch_norm = sync_batch_norm
        local = [device for device in devices if device.process_index == jax.process_index()]
        self.local_devices = local
        self.per_device = NamedSharding(
            Mesh(np.asarray(local), ("devices",), axis_types=(AxisType.Auto,)), PartitionSpec("devices")
        )

    def view(self, tree: Any) -> Any:
        """Return the state or window in its global, replicated form (through the host; all devices hold the same)."""
        if jax.tree.leaves(tree)[0].sharding == self.replicated:
            return tree
        return self.place(jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree))

    def _spread(self, tree: Tree) -> Tree:
        count = len(self.local_devices)
        return jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (count, *x.shape)), tree)

    def _local_part(self, x: jax.Array) -> jax.Array:
        """Return this process's part of a batch sharded over the mesh, with a leading axis over its devices."""
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        parts = [shard.data[None] for shard in shards]
        return jax.make_array_from_single_device_arrays((len(parts), *parts[0].shape[1:]), self.per_device, parts)

    def compile_meanwhile(self, run: Any, *like: Any) -> Callable[[], Any]:
        """Do nothing: the step is several programs, which its first call compiles."""
        return lambda: None

    def compile_train(self, step: TrainStep, make_batch: MakeBatch) -> CompiledStep:
        """Return `run(state, window, arguments) -> (state, window, loss)`, as `Jit.compile_train`."""
        devices = list(self.mesh.devices.flat)
        train = jax.pmap(windowed_step(step), axis_name="devices", devices=devices, donate_argnums=(0, 1))
        batch_of = jax.jit(lambda arguments: make_batch(*arguments), out_shardings=self.sharded)

        def run(state: Any, window: Any, arguments: tuple):
            if state.step.ndim == 0:  # as `place` gave it
                state = self._spread(state)
            if window["count"].ndim == 0:
                window = self._spread(window)
            state, window, loss = train(state, window, jax.tree.map(self._local_part, batch_of(arguments)))
            return state, window, loss.addressable_shards[0].data

        return run


def choose_devices(count: int | None) -> list[jax.Device]:
    """Return so many of `jax.devices()`, the same number from every process, in their order; None: all.

    Raises:
      UsageError: there are fewer, or the processes cannot have the same number.
    """
    available = jax.devices()
    count = len(available) if count is None else count
    if not 1 <= count <= len(available):
        raise UsageError(f"train.devices is {count}: expected 1 to {len(available)}, the devices found")
    if count % jax.process_count():
        raise UsageError(f"train.devices is {count}: expected a multiple of the {jax.process_count()} processes")
    share = count // jax.process_count()
    return [d for p in range(jax.process_count()) for d in [d for d in available if d.process_index == p][:share]]


def make_parallel(
    mode: Literal["jit", "pmap"], batch_size: int, *, devices: int | None = None, sync_batch_norm: bool = True
) -> Jit:
    """Return the chosen way to compile.

    Args:
      mode: "jit" or "pmap".
      batch_size: global batch; it must divide evenly over the devices.
      devices: how many of `jax.devices()` to use; None: all.
      sync_batch_norm: under pmap, whether BatchNorm averages its statistics over the devices.

    Raises:
      UsageError: for more devices than there are, or a batch that does not divide over them.
    """
    chosen = choose_devices(devices)
    count = len(chosen)
    if batch_size % count:
        below, above = batch_size // count * count, (batch_size // count + 1) * count
        raise UsageError(
            f"batch size {batch_size} does not divide over {count} devices: "
            f"the nearest that does is {below if below > 0 and batch_size - below <= above - batch_size else above}"
        )
    return Jit(chosen) if mode == "jit" else Pmap(chosen, sync_batch_norm)
