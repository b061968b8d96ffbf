"""What a program says of itself: what crosses devices, how much memory it takes, and what has no order."""

import math
import re
from typing import Any, NamedTuple

_KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|collective-broadcast|ragged-all-to-all|all-to-all"
# `%name = f32[2,64]{1,0} all-reduce(...)`, or `(f32[2]{0}, s32[]) all-reduce-start(...)`.
_COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%?\S+ = (?P<result>.+?) (?P<kind>{_KINDS})(?:-start)?\(", re.MULTILINE)
# `"stablehlo.scatter"(%0, %1) <{..., unique_indices = false}> ({`, what adds up, and `}) : (...) -> tensor<4xf32>`.
_SCATTER = re.compile(
    r'"stablehlo\.(?P<kind>scatter|select_and_scatter)"\((?P<attributes>[^\n]*)'
    r"\(\{.*?\n *\}\) : [^\n]* -> (?P<result>[^\n]*)",
    re.DOTALL,
)
_ARRAY = re.compile(r"\b(?P<type>pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<sizes>[\d,]*)\]")


class Collective(NamedTuple):
    """An operation that several devices take part in.

    Attributes:
      kind: "all-reduce", "all-gather", ...
      bytes: of its result on each device; where it runs beside others (`-start`), with what XLA lists along with it.
    """

    kind: str
    bytes: int


class Memory(NamedTuple):
    """Bytes on each device.

    Attributes:
      arguments: what the program is given.
      aliased: of these, what its results take the place of, because it was donated.
      temporary: at most at any time, beside arguments and results.
      peak: arguments, temporary and results, without counting the aliased twice.
    """

    arguments: int
    aliased: int
    temporary: int
    peak: int


def collectives_of(hlo: str) -> list[Collective]:
    """Return the collectives in the text of an HLO module, in its order.

    >>> collectives_of("  %sum = (f32[2,64]{1,0}, s8[3]{0}) all-reduce(%a, %b), channel_id=1")
    [Collective(kind='all-reduce', bytes=515)]
    """
    return [Collective(match["kind"], _bytes(match["result"])) for match in _COLLECTIVE.finditer(hlo)]


def _bytes(result: str) -> int:
    """Return the size of an HLO type, such as `(f32[2,64]{1,0}, pred[])`."""
    total = 0
    for array in _ARRAY.finditer(result):
        count = math.prod(int(size) for size in array["sizes"].split(",") if size)
        total += count * max(8, int(array["bits"] or 8)) // 8
    return total


def unordered_of(text: str) -> list[str]:
    """Return the operations of a StableHLO module that may add up floats in any order, and so to other bits.

    A select-and-scatter may; a scatter where its indices may be equal. Sums of whole numbers are the same in any order.

    >>> unordered_of('%2 = "stablehlo.scatter"(%0, %1) <{unique_indices = false}> ({\\n }) : (x) -> tensor<4xf32>')
    ['scatter tensor<4xf32>']
    """
    return [
        f"{match['kind']} {match['result']}"
        for match in _SCATTER.finditer(text)
        if "unique_indices = true" not in match["attributes"] and re.search(r"f\d+|complex", match["result"])
    ]


def memory(compiled: Any) -> Memory:
    """Return the memory that a compiled program takes, by XLA's own account.

    Args:
      compiled: what `jax.jit(...).lower(...).compile()` returns.
    """
    stats = compiled.memory_analysis()
    given, aliased = stats.argument_size_in_bytes, stats.alias_size_in_bytes
    temporary = stats.temp_size_in_bytes
    peak = given + temporary + stats.output_size_in_bytes - aliased
    return Memory(given, aliased, temporary, peak)
