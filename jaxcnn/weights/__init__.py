"""Weights of other libraries, and files of our own: `load`, `save`."""

from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any

import jax
import numpy as np

from jaxcnn.errors import unknown
from jaxcnn.models import Model
from jaxcnn.weights.load import variables_of
from jaxcnn.weights.peer import Names, Peer
from jaxcnn.weights.peers import PEERS
from jaxcnn.weights.preprocessing import Preprocessing

__all__ = ["PEERS", "Names", "Peer", "Preprocessing", "load"]


def load(
    peer: str,
    source: str | Path | Mapping[str, np.ndarray],
    *,
    num_classes: int | EllipsisType | None = ...,
    key: jax.Array | None = None,
    **options: Any,
) -> tuple[Model, dict[str, Any]]:
    """Return (model, variables) with a peer's published weights in them."""
    if peer not in PEERS:
        raise unknown("peer", peer, PEERS)
    key = jax.random.key(0) if key is None else key
    return variables_of(PEERS[peer], source, num_classes, key, **options)
