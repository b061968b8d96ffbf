"""Images per second of the input pipeline, beside the bare decoder, tf.data and torch's DataLoader.

    python scripts/bench_input.py --source FOLDER_OR_TAR ... --tf-python PYTHON --torch-python PYTHON
    python scripts/bench_input.py --source FOLDER --images 500 --repeats 1 --memory

A source is a folder of images, at any depth, a tar of them or a folder of tars. All sides read the same files, laid
out in a temporary folder; the peers only the JPEG files. Measured in turns, each from a fresh start and warm:

    bare               random resized crop: the decoder alone in plain threads, bytes in memory and boxes drawn before
    by_hand            the same with what no pipeline can leave out: files are read, boxes drawn, batches written
    ours               random resized crop: the streaming pipeline, from the files to uint8 batches on the host
    raw, jpeg          the same from the two kinds of cache, whose images have a short side of `--resize`
    *_crop             short side to `--resize`, then a random crop: on a cache, a crop alone
    tf                 random resized crop: tf.data, bytes in memory; the better of `tf_fixed`, as many parallel calls
                       as `--threads`, and `tf_autotune`
    torch              random resized crop: DataLoader over files with Pillow, as many workers as `--threads`

Prints one JSON document; a ratio is the median of those of the repeats. `all` is over all sources, the same number of
images of each. Memory is what the process holds (resident) while the pipeline goes on.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import bench_tools
from bench_peer import Process
from bench_tools import Counter
from input_files import Files, lay_out
from input_ours import Setting, Stored, by_hand_rate, decode_rate, pipeline, pipeline_rate

from jaxcnn import backend
from jaxcnn.data.crops import RandomResizedCrop, ScaleJitter, TrainCrop
from jaxcnn.environment import environment
from jaxcnn.errors import RunError, UsageError
from jaxcnn.files import write_atomically

Rate = Callable[[], float]
"""Measures images per second once."""

_RATIOS = (
    ("ours", "tf"),
    ("ours", "torch"),
    ("ours", "bare"),
    ("ours", "by_hand"),
    ("by_hand", "bare"),
    ("raw", "ours"),
    ("raw_crop", "ours_crop"),
    ("jpeg", "ours"),
    ("jpeg_crop", "ours_crop"),
)
# Beside those that every environment lists.
_PACKAGES = ("simplejpeg", "opencv-python-headless", "pillow")
_OUR_WAYS = 8
_TF_WAYS = ("tf_fixed", "tf_autotune")
# Images after which memory is looked at.
_LOOKS = (2_000, 5_000, 10_000, 20_000)
# For the threads of the side that worked before to fall asleep.
_SETTLE_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    source: tuple[Path, ...]
    """Folders of images, tars of them, or folders of tars."""
    images: int = 3000
    """Images of one measurement; a fifth as many go before."""
    repeats: int = 3
    """Measurements of each, in turns."""
    threads: int = 2
    """Threads or workers of each side."""
    size: int = 224
    """Side of the crops."""
    resize: int = 256
    """Short side of the images in the caches."""
    batch_size: int = 64
    """Images of a batch."""
    tf_python: Path | None = None
    """An interpreter that has tensorflow, to compare with."""
    torch_python: Path | None = None
    """An interpreter that has torch and pillow, to compare with."""
    memory: bool = False
    """Look at the memory of this process over 20,000 images, too."""
    output: Path | None = None
    """JSON file to write the document to as well."""


def in_turns(
    rates: Mapping[str, Rate], repeats: int, counter: Counter
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return each one's measurements, and why some could not be measured."""
    found: dict[str, list[float]] = {name: [] for name in rates}
    errors: dict[str, str] = {}
    for _ in range(repeats):
        for name, rate in rates.items():
            counter.doing(name)
            if name not in errors:
                time.sleep(_SETTLE_SECONDS)
                try:
                    found[name].append(rate())
                except RunError as error:
                    errors[name] = str(error)
            counter.step(name)
    return {name: values for name, values in found.items() if name not in errors}, errors


def with_best_tf(rates: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Return the measurements with those of the faster way of tf.data as `tf`."""
    ways = [rates[way] for way in _TF_WAYS if way in rates]
    return {**rates, **({"tf": max(ways, key=statistics.median)} if ways else {})}


def over_sources(rates: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """Return the rates of as many images of each source, for what was measured on all of them."""
    shared = [name for name in rates[0] if all(name in other for other in rates)]
    return {
        name: [statistics.harmonic_mean(values) for values in zip(*(other[name] for other in rates), strict=True)]
        for name in shared
    }


def summary(rates: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return what is printed of some measurements, those of a repeat at the same place in each list."""

    def of(values: Sequence[float], digits: int) -> dict[str, float]:
        found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        return {name: round(value, digits) for name, value in found.items()}

    ratios = {
        f"{ours}/{other}": [a / b for a, b in zip(rates[ours], rates[other], strict=True)]
        for ours, other in _RATIOS
        if ours in rates and other in rates
    }
    return {
        "images_per_second": {name: of(values, 1) for name, values in rates.items()},
        "ratios": {name: of(values, 4) for name, values in ratios.items()},
    }


def our_rates(files: Files, folder: Path, setting: Setting, resize: int) -> tuple[dict[str, Rate], dict[str, Any]]:
    """Return what measures the bare decoder and our pipeline, and what it reads, as plain JSON values."""
    stores = {
        "ours": files.stored,
        "raw": files.stored.cached(folder / "raw", "raw", resize),
        "jpeg": files.stored.cached(folder / "jpeg", "jpeg", resize),
    }
    # Caches hold no image larger than its source: a crop is to be one without resizing.
    short_side = max(setting.size, min(resize, files.about["median_short_side"]))
    crops: dict[str, TrainCrop] = {"": RandomResizedCrop(), "_crop": ScaleJitter(short_side=(short_side, short_side))}
    rates: dict[str, Rate] = {
        "bare": partial(decode_rate, files.encoded, files.sizes, setting),
        "by_hand": partial(by_hand_rate, files.stored, setting),
    }
    for suffix, crop in crops.items():
        rates |= {name + suffix: partial(pipeline_rate, store, setting, crop) for name, store in stores.items()}
    return rates, {
        "bytes": {name: store.bytes() for name, store in stores.items()},
        "crop_from_short_side": short_side,
    }


def peer_rates(peer: Process, files: Files, setting: Setting) -> dict[str, Rate]:
    """Return what measures each way of a peer."""
    ways = peer.ask("load", folder=str(files.jpegs), **asdict(setting))["ways"]

    def rate(way: str) -> float:
        return peer.ask("run", way=way)["images_per_second"]

    return {way: partial(rate, way) for way in ways}


def memory(stored: Stored, setting: Setting, looks: Sequence[int] = _LOOKS) -> dict[str, Any]:
    """Return the process's resident memory after so many images from one iterator, in MiB, and its growth."""
    resident: dict[int, float] = {}
    with closing(pipeline(stored, setting, RandomResizedCrop())) as batches:
        seen = 0
        for look in looks:
            while seen < look:
                seen += len(next(batches))
            resident[look] = round(_resident_bytes() / 2**20, 1)
    first, last = resident[looks[0]], resident[looks[-1]]
    return {"resident_mib": resident, "growth_mib": round(last - first, 1), "growth": round(last / first - 1, 4)}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _check(arguments: Arguments) -> None:
    if not arguments.source:
        raise UsageError("--source names nothing: expected folders of images, or tars of them")
    for option in ("images", "repeats", "threads", "size", "resize", "batch_size"):
        value = getattr(arguments, option)
        if value < 1:
            raise UsageError(f"--{option.replace('_', '-')} is {value}: expected at least 1")
    if arguments.resize < arguments.size:
        raise UsageError(f"--resize is {arguments.resize}: expected at least --size {arguments.size}")
    if arguments.memory and not Path("/proc/self/statm").exists():
        raise UsageError("--memory reads /proc/self/statm, which only Linux has")


def _peers(arguments: Arguments) -> Iterator[tuple[str, Process]]:
    """Start the peers asked for, and give them as they come."""
    if arguments.tf_python is not None:
        yield "tf", Process(arguments.tf_python, "input_peer_tf.py", "--tf-python", "tensorflow")
    if arguments.torch_python is not None:
        yield "torch", Process(arguments.torch_python, "input_peer_torch.py", "--torch-python", "torch pillow")


def benchmark(arguments: Arguments) -> dict[str, Any]:
    """Measure what is asked for and return the document."""
    _check(arguments)
    load = os.getloadavg()  # what else the machine does spoils ratios, too
    backend.keep_freed_memory()  # as the command line does
    setting = Setting(
        size=arguments.size,
        threads=arguments.threads,
        batch=arguments.batch_size,
        images=arguments.images,
        warm_up=-(-arguments.images // 5),
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench_input_")))
        sources = {
            source: lay_out(source, folder / str(number))
            for number, source in enumerate(dict.fromkeys(arguments.source))
        }
        for source, files in sources.items():
            if len(files.encoded) < setting.batch:
                raise UsageError(
                    f"--batch-size is {setting.batch}: expected at most {len(files.encoded)}, as {source} has"
                )
        peers = {name: stack.enter_context(closing(peer)) for name, peer in _peers(arguments)}
        ways = _OUR_WAYS + 2 * ("tf" in peers) + ("torch" in peers)
        counter = stack.enter_context(Counter(len(sources) * arguments.repeats * ways))
        rows, measured = {}, []
        for source, files in sources.items():
            counter.doing(f"{source}: caches")
            row: dict[str, Any] = {"files": files.about}
            if arguments.memory:
                row["memory"] = memory(files.stored, setting)
            rates, stores = our_rates(files, files.jpegs.parent, setting, arguments.resize)
            for peer in peers.values():
                rates |= peer_rates(peer, files, setting)
            found, errors = in_turns(rates, arguments.repeats, counter)
            measured.append(with_best_tf(found))
            rows[str(source)] = row | stores | summary(measured[-1]) | {"errors": errors}
    return {
        "environment": environment() | {name: metadata.version(name) for name in _PACKAGES},
        "load_average": load,
        "settings": {"repeats": arguments.repeats, "resize": arguments.resize} | asdict(setting),
        "peers": {name: peer.about for name, peer in peers.items()},
        "sources": rows,
        "all": summary(over_sources(measured)),
    }


def main() -> None:
    arguments = bench_tools.arguments(Arguments, __doc__)
    document = json.dumps(benchmark(arguments), indent=1)
    print(document)
    if arguments.output is not None:
        try:
            write_atomically(arguments.output, f"{document}\n".encode())
        except OSError as error:
            raise UsageError(f"--output {arguments.output}: {error.strerror or error}") from None


if __name__ == "__main__":
    sys.exit(bench_tools.run_script(main))
