"""What a data set is like, without its examples: all that a network, its programs and a run read back need of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.data import fields as kinds
from jaxcnn.data.fields import ClassMap, Fields, Image, class_names_of
from jaxcnn.data.norms import Norms, given_norms
from jaxcnn.data.order import LastBatch
from jaxcnn.data.prepared import has_norms
from jaxcnn.errors import UsageError
from jaxcnn.typed import Count, check, to_json


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
            fields = kinds.check_fields({name: _field(one) for name, one in values["fields"].items()})
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(check(tuple[Count, ...], x[1:], "a shape"), np.dtype(x[0])),
                check(dict[str, Any], values["shapes"], "shapes"),
                is_leaf=lambda x: isinstance(x, list),
            )
            frames = {name: shapes[name].shape[:2] for name, one in fields.items() if isinstance(one, Image | ClassMap)}
            if shapes != kinds.shapes_of(fields, frames):
                raise ValueError("shapes are not those of the fields")
            norms = None
            if (given := values["norms"]) is not None:
                norms = given_norms(given["mean"], given["std"], shapes["image"].shape)
                if not (np.isfinite(norms.mean).all() and np.isfinite(norms.std).all() and (norms.std > 0).all()):
                    raise ValueError(f"norms: std is {norms.std.tolist()}: expected finite numbers above 0"[:200])
            elif has_norms(fields):
                raise ValueError("norms of the images are missing")
            sizes = check(dict[str, Count], values["examples"], "examples")
            if not {"train", "test"} <= sizes.keys():
                raise ValueError("examples: train or test is missing")
            streamed, last_batch = (
                check(kind, values[name], name) for name, kind in (("streamed", bool), ("last_batch", LastBatch))
            )
            return cls(fields, shapes, sizes, norms, streamed, (), last_batch)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            told = error if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
            raise UsageError(f"not what a run writes ({told})") from error


def _field(values: Any) -> kinds.Field:
    known = {kind.__name__: kind for kind in kinds.KINDS}
    values = check(dict[str, Any], values, "a field")
    rest = {name: value for name, value in values.items() if name != "kind"}
    return check(known[values["kind"]], rest, values["kind"])
