"""What every fuzzer shares: damage done to real files, and the check that a door stays polite, quick and small.

A door is whatever reads what comes from outside. Its fuzzer, test_fuzz_DOOR.py in this folder, makes a case from a
random generator and hands it over:

    def case(rng):
        path.write_bytes(mutate(rng, GOOD, HEADERS))
        return lambda: open_tar(path)

    @lengths
    def test_tar(seconds):
        fuzz(case, cases=300, seconds=seconds)

Case n of a seed is always the same, so what a message names can be repeated: `replay(case, n)`. By default so many
cases run; with `-m slow` as many as fit into JAXCNN_FUZZ_SECONDS (600).
"""

import contextlib
import copy
import faulthandler
import itertools
import json
import os
import re
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxcnn
from jaxcnn.errors import RunError, UsageError

Case = Callable[[np.random.Generator], Callable[[], object]]
"""Makes something hostile, and returns what opens it."""

SECONDS = 5.0
"""That one case may take."""
MEMORY = 256 << 20
"""Bytes of resident memory that one case may add."""
_LINES, _LENGTH = 3, 2000
# The time and the memory of a case are looked at so often while it runs, in seconds.
_TICK = 0.05
_FINDINGS = 20
_PACKAGE = Path(jaxcnn.__file__).parent

lengths = pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(None, id="short"),
        pytest.param(float(os.environ.get("JAXCNN_FUZZ_SECONDS", "600")), id="long", marks=pytest.mark.slow),
    ],
)


def mutate(rng: np.random.Generator, content: bytes, places: Sequence[tuple[int, int]] = ()) -> bytes:
    """Return a file with one to four mutations.

    Args:
        rng: decides.
        content: of a good file.
        places: where its structure lies, as (offset, bytes): lengths, counts, tags, names. Half of the mutations go
            there; without any, half go to the first and the last 64 bytes, where most kinds of files have theirs.
    """
    found = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if found:
            at, size = _place(rng, len(found), places)
            _MUTATIONS[rng.integers(len(_MUTATIONS))](rng, found, at, size)
    return bytes(found)


def mutate_json(rng: np.random.Generator, value: Any) -> Any:
    """Return a JSON value with one to three mutations: a node replaced, dropped, doubled, renamed or wrapped.

    Numbers may be NaN or infinite, and nesting is up to 100,000 deep: `dumps` writes all of it.
    """
    found = [copy.deepcopy(value)]  # a list, so that the top has a parent too
    for _ in range(rng.integers(1, 4)):
        parent, key = _node(rng, found)
        match rng.integers(8):
            case 0 if isinstance(parent, dict):
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[f"{key}x"] = parent.pop(key)
            case 2 if isinstance(parent, list) and parent is not found:
                parent.insert(key, copy.deepcopy(parent[key]))
            case 3:
                parent[key] = [parent[key]] if rng.integers(2) else {"x": parent[key]}
            case 4 if isinstance(parent[key], str) and parent[key]:
                raw = mutate(rng, parent[key].encode("utf-8", "surrogatepass"))
                parent[key] = raw.decode("latin-1")
            case 5 if type(parent[key]) in (int, float) and abs(parent[key]) < 1e300:
                parent[key] = [-parent[key], parent[key] + 1, float(parent[key]), str(parent[key])][rng.integers(4)]
            case _:
                parent[key] = copy.deepcopy(ODD[rng.integers(len(ODD))])
    return found[0]


class Deep:
    """JSON nested so deep that Python's own reader gives up."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __deepcopy__(self, memo: Any) -> "Deep":
        return self


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, 2**31, -(2**31), 2**63, -(2**63), 2**70, 10**400, 1e308),
    *(
        float("nan"),
        float("inf"),
        -float("inf"),
        "",
        "x",
        "../../x",
        "/etc/passwd",
        "a" * 5000,
        "\x00",
        "\ud800",
        "é\n",
    ),
    *([], {}, [[]], [None], {"": {}}, [0] * 1000, Deep(100_000)),
)
"""Values that take the place of others."""


def dumps(value: Any) -> bytes:
    """Return a value of `mutate_json` as text."""
    text = json.dumps(value, default=lambda deep: f"deep {deep.depth}")
    return re.sub(r'"deep (\d+)"', lambda found: "[" * int(found[1]) + "]" * int(found[1]), text).encode()


def fuzz(
    case: Case,
    *,
    cases: int,
    seconds: float | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    allowed: tuple[type[BaseException], ...] = (),
) -> Counter[str]:
    """Run cases, and return how many ended in what: "fine", or the name of the error.

    Args:
        case: see above.
        cases: how many, where `seconds` is None.
        seconds: for how long.
        seed: of all cases.
        memory: see `MEMORY`.
        allowed: errors beside UsageError and RunError, where the door is an inner one.

    Raises:
        AssertionError: naming each distinct finding, with its first case.
    """
    ended: Counter[str] = Counter()
    findings: dict[str, str] = {}
    until = None if seconds is None else time.monotonic() + seconds
    for number in itertools.count() if until else range(cases):
        if until and time.monotonic() > until:
            break
        try:
            ended[replay(case, number, seed=seed, memory=memory, allowed=allowed)] += 1
        except Finding as finding:
            ended["finding"] += 1
            findings.setdefault(finding.kind, f"case {number} of seed {seed}: {finding}")
            if len(findings) >= _FINDINGS:
                break
    print(f"{sum(ended.values())} cases: {dict(ended)}")
    assert not findings, "\n".join([f"{len(findings)} kinds of findings in {dict(ended)}", *findings.values()])
    return ended


class Finding(AssertionError):
    """Something that must not come out of a door."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def replay(
    case: Case, number: int, *, seed: int = 0, memory: int = MEMORY, allowed: tuple[type[BaseException], ...] = ()
) -> str:
    """Run one case, and return "fine" or the name of the error that it was refused with.

    Raises:
        Finding: another error came out, its message is too long, or time or memory ran out.
    """
    door = case(np.random.default_rng([seed, number]))
    try:
        with _watched(memory):
            door()
    except (UsageError, RunError, *allowed) as error:
        text = str(error)
        if not text.strip() or text.count("\n") >= _LINES or len(text) > _LENGTH:
            raise Finding(_where(error, "message"), f"a message of {len(text)} characters: {text[:300]!r}") from error
        return type(error).__name__
    except Exhausted as error:
        raise Finding(_where(error, error.kind), f"{error}, {_where(error, 'at')}") from error
    except Exception as error:
        kind = _where(error, type(error).__name__)
        raise Finding(kind, f"{kind}: {str(error)[:200]}") from error
    return "fine"


class Exhausted(BaseException):
    """A case took too long or too much; no `except Exception` on its way holds it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@contextlib.contextmanager
def _watched(memory: int) -> Iterator[None]:
    """Raise Exhausted where the block takes longer than SECONDS, or adds more than `memory` to what is resident.

    The clock interrupts Python's code; where a library hangs in its own, the process ends with a traceback of all
    threads. A limit on the address space would count what JAX only reserves, so what counts is the peak of resident
    memory, which Linux sets back on request.
    """
    start, before = time.monotonic(), _resident()

    def look(*_: object) -> None:
        if time.monotonic() - start > SECONDS:
            raise Exhausted("time", f"it takes longer than {SECONDS:g} s")
        if _resident() - before > memory:
            raise Exhausted("memory", f"it takes more than {memory >> 20} MiB")

    previous = signal.signal(signal.SIGALRM, look)
    faulthandler.dump_traceback_later(20 * SECONDS, exit=True)
    signal.setitimer(signal.ITIMER_REAL, _TICK, _TICK)
    _reset_peak()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)
        taken = _resident("VmHWM") - before
    if taken > memory:
        raise Exhausted("memory", f"it takes {taken >> 20} MiB, more than {memory >> 20}")


def _resident(what: str = "VmRSS") -> int:
    """Return this process's resident memory in bytes, or the peak of it (VmHWM)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10  # no Linux: a peak that only grows


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _where(error: BaseException, kind: str) -> str:
    """Return the kind of a finding: what it is, and the innermost line of ours that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if frame.filename != __file__]
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    frame = (ours or frames)[-1]
    return f"{kind} {Path(frame.filename).name}:{frame.lineno} in {frame.name}"


def _node(rng: np.random.Generator, value: Any) -> tuple[Any, Any]:
    """Return a node of a JSON value by what holds it and its key or index there."""
    nodes: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        parent = waiting.pop()
        keys: list[Any] = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        nodes += [(parent, key) for key in keys]
        waiting += [parent[key] for key in keys if isinstance(parent[key], dict | list)]
    return nodes[rng.integers(len(nodes))]


def _place(rng: np.random.Generator, size: int, places: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return where to mutate, as (offset, bytes)."""
    if rng.integers(2):
        return int(rng.integers(size)), int(rng.choice([1, 2, 4, 8, 64, 512]))
    inside = [place for place in places if place[0] < size]
    if inside:
        return inside[rng.integers(len(inside))]
    at = int(rng.integers(min(64, size)))
    return (at if rng.integers(2) else size - 1 - at), int(rng.choice([1, 2, 4, 8]))


def _flip(rng: np.random.Generator, found: bytearray, at: int, size: int) -> None:
    for _ in range(rng.integers(1, 9)):
        found[min(at + int(rng.integers(size)), len(found) - 1)] ^= 1 << int(rng.integers(8))


def _integer(rng: np.random.Generator, found: bytearray, at: int, size: int) -> None:
    """Write an extreme integer, or one beside the present."""
    size = min(size if size in (1, 2, 4, 8) else int(rng.choice([1, 2, 4, 8])), len(found) - at)
    order: Any = "little" if rng.integers(2) else "big"
    present, most = int.from_bytes(found[at : at + size], order), 256**size
    choices = (0, 1, most - 1, most // 2, most // 2 - 1, most - int(rng.integers(1, 1025)), present + 1, present - 1)
    choices += (
        2 * present,
        len(found),
        len(found) - at,
        int(rng.integers(most, dtype=np.uint64)) if size < 8 else 1 << 40,
    )
    found[at : at + size] = (choices[rng.integers(len(choices))] % most).to_bytes(size, order)


def _text(rng: np.random.Generator, found: bytearray, at: int, size: int) -> None:
    """Write characters that mean something to some reader, over what is there or in between."""
    word = _WORDS[rng.integers(len(_WORDS))]
    found[at : at + (len(word) if rng.integers(2) else min(size, len(word)))] = word


_WORDS = (
    b"\0",
    b"\xff\xfe",
    b"-1",
    b"-",
    b"99999999999",
    b"nan",
    b"../",
    b"/",
    b"\n",
    b"\x1b[2J",
    b"%s%n",
    b"{}",
    b"\x80",
)


def _fill(rng: np.random.Generator, found: bytearray, at: int, size: int) -> None:
    end = min(at + size, len(found))
    found[at:end] = bytes([rng.choice([0, 0, 0xFF, 0x80, 0x7F])]) * (end - at)


def _noise(rng: np.random.Generator, found: bytearray, at: int, size: int) -> None:
    end = min(at + size, len(found))
    found[at:end] = rng.bytes(end - at)


def _truncate(rng: np.random.Generator, found: bytearray, at: int, size: int) -> None:
    del found[at + (size if rng.integers(2) else 0) :]


def _delete(rng: np.random.Generator, found: bytearray, at: int, size: int) -> None:
    del found[at : at + size]


def _double(rng: np.random.Generator, found: bytearray, at: int, size: int) -> None:
    """Repeat a part right behind itself."""
    part = found[at : at + size]
    found[at:at] = part * int(rng.choice([1, 1, 2, 16]))


def _move(rng: np.random.Generator, found: bytearray, at: int, size: int) -> None:
    """Copy a part of the file over another one."""
    start = int(rng.integers(len(found)))
    part = found[start : start + size]
    found[at : at + len(part)] = part


_MUTATIONS = (_flip, _flip, _integer, _integer, _integer, _text, _fill, _noise, _truncate, _delete, _double, _move)
