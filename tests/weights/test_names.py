"""Our names of a peer's tensors are the peer's own, for every torchvision and timm model of the table.

`python scripts/make_golden.py --names` writes the digests, from the real libraries.
"""

import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util

from jaxcnn.models import MODELS, create, family_of, options
from jaxcnn.weights import PEERS

DIGESTS = json.loads(Path(__file__).with_name("peer_names.json").read_text())


def test_the_digests_are_of_the_tables_peers():
    assert DIGESTS.keys() <= PEERS.keys()
    # Models of timm that a release without them cannot make: none.
    assert {peer for peer in PEERS if peer.startswith(("torchvision/", "timm/"))} == DIGESTS.keys()


# One peer for each library and family: the others take minutes.
FIRST = {
    (peer.partition("/")[0], family_of(row.model)): peer for peer, row in reversed(PEERS.items()) if peer in DIGESTS
}.values()


@pytest.mark.parametrize("peer", FIRST)
def test_names(peer):
    compare(peer)


@pytest.mark.slow
@pytest.mark.parametrize("peer", [peer for peer in DIGESTS if peer not in FIRST])
def test_names_of_the_others(peer):
    compare(peer)


def compare(peer):
    # The libraries make some models with their auxiliary heads and some without.
    heads = [{"aux_heads": True}, {"aux_heads": False}] if PEERS[peer].aux else [{}]
    assert DIGESTS[peer] in [digest(PEERS[peer], options) for options in heads]


def digest(row, options):
    model = create(row.model, **{**row.options, **options})
    image = jax.ShapeDtypeStruct((1, *MODELS[row.model].input_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    paths = [path.partition("/")[2] for path in traverse_util.flatten_dict(variables, sep="/")]
    names = sorted(row.names.peer_name(path) for path in paths)
    assert len(set(names)) == len(names)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def test_options_of_the_table_exist():
    for peer, row in PEERS.items():
        assert row.options.keys() <= options(row.model).keys(), peer
        assert "aux_heads" in options(row.model) or not row.aux, peer
