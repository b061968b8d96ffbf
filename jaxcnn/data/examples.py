"""A split: examples that come in batches, whether they are in memory or read when they are needed."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Bool, Int, Shaped

from jaxcnn.data.bad import Bad
from jaxcnn.data.fields import Batch


class Examples(Protocol):
    """A split, whether its examples are in memory (`Split`) or read when they are needed (`streaming.Reader`)."""

    @property
    def shapes(self) -> Mapping[str, Any]:
        """Shape and type of each field of one example in a batch, as jax.ShapeDtypeStruct: see `fields`."""

    @property
    def bad(self) -> Sequence[Bad]:
        """The examples that cannot be used, as far as they are known."""

    def __len__(self) -> int:
        """Return the number of examples, bad ones among them."""

    def batches(self, indices: Sequence[Int[np.ndarray, " rows"]]) -> Iterator[Batch]:
        """Yield the examples of each of some lists of indices, as they are scored: all fields, and `mask`.

        Bad ones are zero (black, of class 0, without boxes) and masked.
        """

    def fingerprint(self) -> str:
        """Return a SHA-256 that tells this split from another."""


@dataclass(frozen=True)
class Split:
    """A number of examples in memory."""

    arrays: Mapping[str, Any]
    """Each field as it is in a batch, with all examples first."""
    unusable: Mapping[int, Bad] = field(default_factory=dict)
    """The examples that could not be read, by their indices: zero."""

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(jax.tree.leaves(self.arrays)[0])

    def __getitem__(self, part: slice) -> "Split":
        """Return consecutive examples."""
        indices = range(len(self))[part]
        unusable = {index - indices.start: bad for index, bad in self.unusable.items() if index in indices}
        return Split(jax.tree.map(lambda values: values[part], dict(self.arrays)), unusable)

    @property
    def shapes(self) -> Mapping[str, Any]:
        """Shape and type of each field of one example."""
        return jax.tree.map(lambda values: jax.ShapeDtypeStruct(values.shape[1:], values.dtype), dict(self.arrays))

    @property
    def bad(self) -> Sequence[Bad]:
        """The examples that cannot be used."""
        return [self.unusable[index] for index in sorted(self.unusable)]

    @property
    def usable(self) -> Bool[np.ndarray, " n"]:
        """Which examples can be used."""
        usable = np.ones(len(self), bool)
        usable[list(self.unusable)] = False
        return usable

    def batches(self, indices: Sequence[Int[np.ndarray, " rows"]]) -> Iterator[Batch]:
        """Yield the examples of each of some lists of indices; see `Examples`."""
        usable = self.usable
        for rows in indices:
            yield {**jax.tree.map(lambda values, rows=rows: values[rows], dict(self.arrays)), "mask": usable[rows]}

    def fingerprint(self) -> str:
        """Return the SHA-256 of all fields."""
        digest = hashlib.sha256()
        for header, array in described(self.arrays):
            digest.update(header.encode())
            digest.update(array)
        return digest.hexdigest()


def described(arrays: Mapping[str, Any]) -> Iterator[tuple[str, Shaped[np.ndarray, "..."]]]:
    """Yield the arrays of some fields, in one order, each contiguous and with what tells it from others.

    Which is nothing for pixels and labels: runs have checksums of these from before there were other fields.
    """
    for path, array in jax.tree_util.tree_leaves_with_path(dict(arrays)):
        name = "/".join(key.key for key in path)
        plain = (name, str(array.dtype)) in (("image", "uint8"), ("label", "int32"))
        yield "" if plain else f"{name} {array.dtype} {array.shape} ", np.ascontiguousarray(array)


def concatenate(parts: Sequence[Split]) -> Split:
    """Return the examples of several splits, one after the other."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    unusable = {
        start + index: bad for start, part in zip(starts, parts, strict=False) for index, bad in part.unusable.items()
    }
    return Split(jax.tree.map(lambda *arrays: np.concatenate(arrays), *(dict(part.arrays) for part in parts)), unusable)


def eval_batches(split: Examples, batch_size: int) -> Iterator[Batch]:
    """Yield the examples of `split` in order, each once, in batches of one size on the host.

    The last batch is filled up with zeros where `mask` is False.
    """
    starts = range(0, len(split), batch_size)
    indices = [np.arange(start, min(start + batch_size, len(split))) for start in starts]
    for batch in split.batches(indices):
        fill = batch_size - len(batch["mask"])
        yield jax.tree.map(lambda array, fill=fill: np.pad(array, ((0, fill), *[(0, 0)] * (array.ndim - 1))), batch)
