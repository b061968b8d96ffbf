"""What a data set is like, without its examples: all that a network, its programs and a run read back need of it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.data import fields as kinds
from jaxcnn.data.fields import Fields, class_names_of
from jaxcnn.data.norms import Norms
from jaxcnn.data.order import LastBatch
from jaxcnn.errors import UsageError
from jaxcnn.typed import check, to_json


@dataclass(frozen=True)
class Description:
    """A data set without its examples."""

    fields: Fields
    shapes: Mapping[str, Any]
    """Of each field: `jax.ShapeDtypeStruct`s, without the examples' axis."""
    sizes: Mapping[str, int]
    """Examples of each split."""
    norms: Norms | None
    streamed: bool
    augment: tuple = ()
    """Ready transforms."""
    last_batch: LastBatch = "continue"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the first field that has some."""
        return class_names_of(self.fields)

    def describe(self) -> "Description":
        """Return itself."""
        return self

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        norms = None if self.norms is None else {name: value.tolist() for name, value in self.norms._asdict().items()}
        return {
            "fields": {name: {"kind": type(one).__name__, **to_json(one)} for name, one in self.fields.items()},
            "shapes": jax.tree.map(lambda x: [x.dtype.name, *x.shape], dict(self.shapes)),
            "examples": dict(self.sizes),
            "norms": norms,
            "streamed": self.streamed,
            "last_batch": self.last_batch,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Description":
        """Return what `to_json` gave; transforms are not among it.

        Raises:
          UsageError: the values are something else.
        """
        try:
            found = {name: _field(one) for name, one in values["fields"].items()}
            leaf = lambda x: isinstance(x, list)  # noqa: E731
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(tuple(x[1:]), np.dtype(x[0])), values["shapes"], is_leaf=leaf
            )
            given = values["norms"]
            norms = None if given is None else Norms(*(np.asarray(given[name], np.float32) for name in Norms._fields))
            if norms is not None and not (np.isfinite(norms.mean).all() and (norms.std > 0).all()):
                raise ValueError(f"norms {str(given)[:100]}")
            sizes, streamed = dict(values["examples"]), bool(values["streamed"])
            return cls(found, shapes, sizes, norms, streamed, (), values["last_batch"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UsageError(f"data.json is not what a run writes ({type(error).__name__}: {error})") from error


def _field(values: Mapping[str, Any]) -> kinds.Field:
    kind = getattr(kinds, str(values["kind"]))
    if not dataclasses.is_dataclass(kind):
        raise ValueError(values["kind"])
    return check(kind, {name: value for name, value in values.items() if name != "kind"}, "data.json")
