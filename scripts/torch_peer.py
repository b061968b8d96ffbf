"""What the benchmarks compare with: convolutions and training steps in torch, timed on request.

Started by `bench_peer.Peer` under an interpreter that has torch and needs nothing else; it lives as long as the
benchmark, so that the two sides take turns in one run. Commands, as `peer_protocol` reads them; times are in seconds:

    {"do": "hello"}                     -> {"torch": "2.13.0", "device": "cpu", "threads": 2, ...}
    {"do": "conv", ...}                 -> {"id": 0, "shape": [...]}        see `convolution`
    {"do": "step", ...}                 -> {"id": 1, "parameters": 61706}   see `step`
    {"do": "time", "id": 0, "calls": 3} -> {"seconds": 0.001}              mean of the calls
    {"do": "drop", "id": 0}             -> {}
"""

import argparse
import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from peer_protocol import Unfit, serve

try:
    import torch
    import torch_models
except ImportError as error:
    torch, missing = None, str(error)  # type: ignore[assignment]

Call = Callable[[], Any]


def keep_freed_memory() -> bool:
    """Do what `jaxcnn.backend.keep_freed_memory` does, which see: the two sides have the same allocator."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    trim_threshold, mmap_max, arena_max = -1, -4, -8
    return all([mallopt(trim_threshold, -1), mallopt(mmap_max, 0), mallopt(arena_max, 1)])


def convolution(
    device: str,
    *,
    direction: str,
    batch: int,
    image: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    groups: int,
    transposed: bool,
    output_padding: Sequence[int],
    dtype: str,
) -> tuple[Call, list[int]]:
    """Return a call that makes the output of a convolution, or one of its gradients, and the output's shape.

    Shapes come and go channels last, as jaxcnn has them: `image` is [height, width, channels], `kernel` [*window,
    channels / groups, features]. Torch has its own order of the kernel's axes, and one padding for both ends.
    """
    if any(lo != hi for lo, hi in padding):
        raise ValueError(f"torch pads both ends alike, not by {padding}")
    *sizes, channels = image
    *window, per_group, features = kernel
    kind = getattr(torch, dtype)

    def random(*shape: int) -> Any:
        return torch.randn(*shape, device=device).to(kind).to(memory_format=torch.channels_last)

    x = random(batch, channels, *sizes)
    weight = random(channels, features // groups, *window) if transposed else random(features, per_group, *window)
    settings = (strides, [lo for lo, _ in padding], dilation, transposed, output_padding, groups)

    def forward() -> Any:
        return torch.ops.aten.convolution(x, weight, None, *settings)

    y = forward()
    mask = [direction == "by_input", direction == "by_kernel", False]
    cotangent = random(*y.shape)

    def gradient() -> Any:
        return torch.ops.aten.convolution_backward(cotangent, x, weight, None, *settings, mask)

    return forward if direction == "forward" else gradient, [batch, *y.shape[2:], y.shape[1]]


def step(
    device: str,
    *,
    model: str,
    mode: str,
    batch: int,
    image: Sequence[int],
    num_classes: int,
    dtype: str,
    compiled: bool,
) -> tuple[Call, int]:
    """Return a call of one step on a batch that stays the same, and the number of parameters.

    Args:
      device: "cpu" or "cuda".
      model: a name in `torch_models.MODELS`.
      mode: "train" (forward, loss, backward, SGD with momentum) or "inference".
      batch: images in a step.
      image: [height, width, channels] of each.
      num_classes: logits.
      dtype: "float32", or "bfloat16" through autocast.
      compiled: through `torch.compile`, in place of op by op.
    """
    torch.manual_seed(0)
    network = torch_models.MODELS[model](num_classes).to(device).to(memory_format=torch.channels_last)
    network.train(mode == "train")
    images = torch.randn(batch, image[-1], *image[:-1], device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(num_classes, (batch,), device=device)
    autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")
    parameters = sum(p.numel() for p in network.parameters())

    def infer() -> Any:
        return network(images)

    def loss() -> Any:
        return torch.nn.functional.cross_entropy(network(images), labels)

    run = torch.compile(infer if mode == "inference" else loss, dynamic=False) if compiled else None
    if mode == "inference":

        def inference() -> Any:
            with torch.inference_mode(), autocast:
                return (run or infer)()

        return inference, parameters
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            value = (run or loss)()
        value.backward()
        optimizer.step()

    return train, parameters


class Server:
    """The workloads made so far, and the commands."""

    def __init__(self, device: str, keeps_memory: bool) -> None:
        """Serve on "cpu" or "cuda"."""
        self.device, self.keeps_memory = device, keeps_memory
        self.calls: dict[int, Call] = {}
        self.compiled: set[int] = set()
        self.made = 0

    def _add(self, call: Call, compiled: bool = False) -> int:
        self._run(call, 1)  # compiles, or tries algorithms
        self.calls[self.made] = call
        if compiled:
            self.compiled.add(self.made)
        self.made += 1
        return self.made - 1

    def _run(self, call: Call, calls: int) -> float:
        self._wait()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        self._wait()
        return (time.perf_counter() - start) / calls

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def answer(self, do: str, **command: Any) -> dict[str, Any]:
        """Carry out one command."""
        if do == "hello":
            return {
                "torch": torch.__version__,
                "python": sys.version.split()[0],
                "device": torch.cuda.get_device_name() if self.device == "cuda" else "cpu",
                "threads": torch.get_num_threads(),
                "keeps_freed_memory": self.keeps_memory,
            }
        if do == "conv":
            with torch.no_grad():
                call, shape = convolution(self.device, **command)
                return {"id": self._add(_without_gradients(call)), "shape": shape}
        if do == "step":
            call, parameters = step(self.device, **command)
            return {"id": self._add(call, command["compiled"]), "parameters": parameters}
        if do == "time":
            return {"seconds": self._run(self.calls[command["id"]], command["calls"])}
        if do == "drop":
            del self.calls[command["id"]]
            if command["id"] in self.compiled:
                torch.compiler.reset()  # It holds the network; and the next one would be a recompilation of it.
            if self.device == "cuda":
                torch.cuda.empty_cache()
            return {}
        raise ValueError(f"unknown command {do!r}")


def _without_gradients(call: Call) -> Call:
    def run() -> Any:
        with torch.no_grad():
            return call()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer the benchmarks' commands; started by them.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-allocator", action="store_true", help="leave malloc as it is")
    options = parser.parse_args()

    def start() -> Callable[..., dict[str, Any]]:
        if torch is None:
            raise Unfit(f"it has no torch ({missing})")
        if options.device == "cuda":
            if not torch.cuda.is_available():
                raise Unfit("its torch finds no GPU")
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")  # TF32, which XLA takes for float32 products, too
        return Server(options.device, not options.no_allocator and keep_freed_memory()).answer

    serve(start)


if __name__ == "__main__":
    main()
