"""What is known of a peer's weights: our model for them, the names of their tensors, their preprocessing."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxcnn.preprocessing import Preprocessing

# Our path -> the peer's, both as regular expressions would have it: see `Names`.
Rules = tuple[tuple[str, str], ...]

TORCH_LEAVES: Rules = (
    (r".*/kernel", "weight"),
    (r".*/scale", "weight"),
    (r".*/mean", "running_mean"),
    (r".*/var", "running_var"),
    (r".*/(\w+)", "{0}"),
)
KERAS_LEAVES: Rules = (
    (r"(?:.*/)?(?:bn|norm)\d*/bias", "beta"),
    (r".*/scale", "gamma"),
    (r".*/mean", "moving_mean"),
    (r".*/var", "moving_variance"),
    (r".*/depthwise\w*/(?:conv/)?kernel", "depthwise_kernel"),
    (r".*/(\w+)", "{0}"),
)


def torch_kernel(value: np.ndarray) -> np.ndarray:
    """Return a kernel of torch, [out, in, *window], as [*window, in, out]."""
    return value.transpose(*range(2, value.ndim), 1, 0)


def keras_kernel(value: np.ndarray) -> np.ndarray:
    """Return a kernel of Keras as it is, [*window, in, out]."""
    return value


Tensors = Mapping[str, np.ndarray]


class _Group(str):
    """A matched group; the format "{0:-1}" counts it down by one."""

    def __format__(self, spec: str) -> str:
        return str(int(self) + int(spec)) if spec else str(self)


@dataclass(frozen=True)
class Names:
    """How a peer names the tensors of a family, one instance per family and peer.

    Attributes:
        rules: pairs (pattern, template), tried in order; the first pattern that matches the whole of a module's
            path ("stage1/block2/conv1") makes the peer's name of the module from its groups: "{0}" is the
            first, "{0:-1}" the first less one. A pattern that matches the whole path of a tensor, leaf
            included, names it completely.
        leaves: rules for the last part: the whole path -> the peer's name of the leaf, joined to the module's
            name by `separator`.
        separator: see leaves.
        flattened: path of each fully connected layer that reads flattened maps -> the channels of these maps;
            torch flattens them channels first.
        kernel_layout: turns the peer's kernels into [*window, in, out] and [in, out].
        ignore: patterns of the peer's tensors that have no counterpart and are not missed.
        prepare: changes the tensors first, where ours are other ones that compute the same: a bias before a
            norm, say, goes into its mean.
    """

    rules: Rules
    leaves: Rules = TORCH_LEAVES
    separator: str = "."
    flattened: Mapping[str, int] = field(default_factory=dict)
    kernel_layout: Callable[[np.ndarray], np.ndarray] = torch_kernel
    ignore: tuple[str, ...] = (r".*num_batches_tracked",)
    prepare: Callable[[Tensors], Tensors] | None = None

    def peer_name(self, path: str) -> str:
        """Return the peer's name of the tensor at `path`, such as "stage1/block2/conv1/kernel".

        Raises:
            KeyError: where no rule matches: the family's rules are incomplete.
        """
        module = path.rpartition("/")[0]
        for pattern, template in self.rules:
            if match := re.fullmatch(pattern, path):
                return _fill(template, match)
            if match := re.fullmatch(pattern, module):
                return _fill(template, match) + self.separator + self._leaf(path)
        raise KeyError(f"no rule names {path}")

    def _leaf(self, path: str) -> str:
        matches = ((re.fullmatch(pattern, path), template) for pattern, template in self.leaves)
        return next(_fill(template, match) for match, template in matches if match)

    def ignores(self, peer_name: str) -> bool:
        """Return whether the peer's tensor is one of those without a counterpart."""
        return any(re.fullmatch(pattern, peer_name) for pattern in self.ignore)


def _fill(template: str, match: re.Match) -> str:
    return template.format(*(_Group(group or "") for group in match.groups()))


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One row of `PEERS`: a model of another library.

    Attributes:
        model: our name of the model.
        options: its options.
        names: see `Names`.
        aux: what the names of the peer's tensors of auxiliary heads start with; where a file has such tensors,
            the model is made with `aux_heads=True`.
        preprocessing: of the weights most often meant.
        tags: preprocessing of further weights published under the same name, asked for as "NAME.TAG".
    """

    model: str
    names: Names
    preprocessing: Preprocessing
    options: Mapping[str, Any] = field(default_factory=dict)
    aux: tuple[str, ...] = ()
    tags: Mapping[str, Preprocessing] = field(default_factory=dict)
