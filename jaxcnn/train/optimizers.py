"""The optimisers of the field, each a value with its own settings and no others.

Experiment(..., optim=Momentum(momentum=0.9, nesterov=True))
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from jaxcnn.errors import UsageError
from jaxcnn.parts import Finder, Part, arguments_of, call, made
from jaxcnn.train.delta_bar_delta import delta_bar_delta
from jaxcnn.typed import Config, Fraction, NotNegative, Open, Positive, check


@dataclass(frozen=True, kw_only=True)
class Optimizer(Config, at="optim"):
    """What all have in common. A user's own may be a frozen dataclass of this kind, with a `rule`."""

    learning_rate: Positive = 0.1
    """Full learning rate, which the schedule then moves."""
    weight_decay: NotNegative = 0.0
    """Added to the gradient times the parameter (L2, before momentum, as in Caffe and torch) by all but AdamW, LAMB and
    Muon, which add it after the gradient is rescaled, so decoupled from it, and LARS, which adds it before its trust
    ratio. Always times the learning rate."""
    decay: tuple[str, ...] = ("*kernel",)
    """Which parameters decay: patterns over paths such as stage1/block1/conv1/kernel, where * also crosses slashes.
    He et al. 2015, like most torch recipes, decay everything: ("*",). LARS and LAMB apply their trust ratio to the
    same parameters only, as their authors do."""
    clip_norm: Positive | None = None
    """Greatest norm of the whole gradient, before weight decay is added (Pascanu et al. 2013). None: no clipping."""
    places_decay: ClassVar[bool] = False
    """Whether `rule` decays weights itself, in place of a term that is added to the gradient."""
    trusts: ClassVar[bool] = False
    """Whether `rule` reads which parameters decay even where none does."""

    def rule(self, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:
        """Return the optimiser's own rule.

        Args:
            rate: the learning rate by the step.
            mask: tree of bools, the parameters that decay; False: none.
            params_like: tree of the parameters or of their shapes.
        """
        raise NotImplementedError

    def decayed(self, mask: Any) -> optax.GradientTransformation:
        """Return what adds the weight decay to a gradient or update."""
        return optax.add_decayed_weights(self.weight_decay, mask)


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer, at="optim"):
    """Stochastic gradient descent, plain."""

    kind: Literal["sgd"] = "sgd"

    def rule(self, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:
        return optax.sgd(rate)


@dataclass(frozen=True, kw_only=True)
class Momentum(Optimizer, at="optim"):
    """Heavy ball (Polyak 1964), or Nesterov's look ahead (Sutskever et al. 2013).

    As torch: v = m v + g, then w -= rate v. Caffe, and so He et al., keep the rate inside, v = m v + rate g, w -= v:
    the same at a constant rate, a larger update for some 1 / (1 - m) steps after each cut.
    """

    kind: Literal["momentum"] = "momentum"
    momentum: Fraction = 0.9
    """Part of the velocity kept per step."""
    nesterov: bool = False
    """Take the gradient where the velocity leads to."""

    def rule(self, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:
        return optax.sgd(rate, self.momentum, nesterov=self.nesterov)


@dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer, at="optim"):
    """Steps over the root of the sum of squared gradients (Duchi et al. 2011)."""

    kind: Literal["adagrad"] = "adagrad"
    eps: Positive = 1e-7
    """Keeps divisions finite."""

    def rule(self, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:
        return optax.adagrad(rate, initial_accumulator_value=0.0, eps=self.eps)


@dataclass(frozen=True, kw_only=True)
class RMSProp(Optimizer, at="optim"):
    """Tieleman and Hinton 2012, as TensorFlow: the rate is in the velocity, v = m v + rate g / sqrt(mean square)."""

    kind: Literal["rmsprop"] = "rmsprop"
    momentum: Fraction = 0.0
    """Part of the velocity kept per step."""
    rms_decay: Fraction = 0.9
    """Part of the mean squared gradient kept per step."""
    rms_initial: NotNegative = 0.0
    """Mean squared gradient before the first step; TensorFlow's own recipes (Inception, EfficientNet) start at 1."""
    eps: Positive = 1e-8
    """Keeps divisions finite; the Inception recipe has 1."""
    eps_in_sqrt: bool = True
    """Divide by sqrt(mean square + eps), as TensorFlow and so the Inception recipe do, or by sqrt(mean square) + eps,
    as torch does."""

    def rule(self, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:
        own = {"eps_in_sqrt": self.eps_in_sqrt, "momentum": self.momentum or None}
        return optax.rmsprop(rate, self.rms_decay, self.eps, self.rms_initial, **own)


@dataclass(frozen=True, kw_only=True)
class Adaptive(Optimizer, at="optim"):
    """What Adam and those made of it have in common."""

    beta1: Fraction = 0.9
    """Part of the mean gradient kept per step."""
    beta2: Fraction = 0.999
    """Part of the mean squared gradient kept per step."""
    eps: Positive = 1e-8
    """Keeps divisions finite."""

    def direction(self) -> optax.GradientTransformation:
        """Return Adam's rule without a learning rate."""
        return optax.scale_by_adam(self.beta1, self.beta2, self.eps)


@dataclass(frozen=True, kw_only=True)
class Adam(Adaptive, at="optim"):
    """Steps by running means of the gradient and of its square (Kingma and Ba 2015)."""

    kind: Literal["adam"] = "adam"

    def rule(self, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:
        return optax.chain(self.direction(), optax.scale_by_learning_rate(rate))


@dataclass(frozen=True, kw_only=True)
class AdamW(Adaptive, at="optim"):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    places_decay: ClassVar[bool] = True

    def rule(self, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:
        return optax.chain(self.direction(), self.decayed(mask), optax.scale_by_learning_rate(rate))


@dataclass(frozen=True, kw_only=True)
class LARS(Optimizer, at="optim"):
    """Momentum, each layer's step in proportion to the norm of its weights (You et al. 2017).

    The rate is inside the velocity, as in the paper; the trust ratio divides by |g + wd w|, where the paper has
    |g| + wd |w|.
    """

    kind: Literal["lars"] = "lars"
    places_decay: ClassVar[bool] = True
    trusts: ClassVar[bool] = True
    momentum: Fraction = 0.9
    """Part of the velocity kept per step."""
    trust_coefficient: Positive = 0.001
    """Size of an update relative to its parameters at learning rate 1."""

    def rule(self, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:
        return optax.lars(rate, self.weight_decay, mask, self.trust_coefficient, 0.0, mask, self.momentum)


@dataclass(frozen=True, kw_only=True)
class LAMB(Adaptive, at="optim"):
    """Adam, each layer's step in proportion to the norm of its weights (You et al. 2020)."""

    kind: Literal["lamb"] = "lamb"
    places_decay: ClassVar[bool] = True
    trusts: ClassVar[bool] = True
    eps: Positive = 1e-6

    def rule(self, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:
        trust_ratio = optax.masked(optax.scale_by_trust_ratio(), mask)
        return optax.chain(self.direction(), self.decayed(mask), trust_ratio, optax.scale_by_learning_rate(rate))


@dataclass(frozen=True, kw_only=True)
class Muon(Adaptive, at="optim"):
    """Jordan et al. 2024: orthogonal updates of parameters of two or more axes, Adam's of the others.

    A kernel counts as the matrix that multiplies patches: HWIO as (h * w * in, out). Orthogonal updates are scaled by
    0.2 sqrt(max(rows, columns)), which gives them the size of Adam's (Liu et al. 2025, section 2.2), so that one
    learning rate serves both.
    """

    kind: Literal["muon"] = "muon"
    places_decay: ClassVar[bool] = True
    momentum: Fraction = 0.95
    """Part of the velocity kept per step."""

    def rule(self, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:

        def like_adam(update: jax.Array) -> jax.Array:
            return 0.2 * math.sqrt(max(math.prod(update.shape[:-1]), update.shape[-1])) * update

        def matrices(tree: Any) -> Any:
            return jax.tree.map(lambda x: MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1), tree)

        orthogonal = optax.chain(
            scale_by_muon(beta=self.momentum, eps=self.eps, weight_dimension_numbers=matrices),
            optax.stateless(lambda updates, _: jax.tree.map(like_adam, updates)),
        )
        labels = jax.tree.map(lambda p: "muon" if len(p.shape) >= 2 else "adam", params_like)
        direction = optax.partition({"muon": orthogonal, "adam": self.direction()}, labels)
        return optax.chain(direction, self.decayed(mask), optax.scale_by_learning_rate(rate))


@dataclass(frozen=True, kw_only=True)
class DeltaBarDelta(Optimizer, at="optim"):
    """A learning rate for every parameter (Jacobs 1988): all start from the full one, and the schedule scales all."""

    kind: Literal["delta_bar_delta"] = "delta_bar_delta"
    kappa: NotNegative = 0.01
    """Added to a parameter's rate while its gradient keeps its sign."""
    phi: Fraction = 0.1
    """Fraction of a parameter's rate cut where its gradient flips."""
    theta: Fraction = 0.7
    """Part of the average gradient kept per step."""

    def rule(self, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:
        return optax.chain(
            delta_bar_delta(self.learning_rate, self.kappa, self.phi, self.theta),
            optax.scale_by_schedule(lambda step: rate(step) / self.learning_rate),
        )


AnyOptimizer = Annotated[
    SGD | Momentum | Adagrad | RMSProp | Adam | AdamW | LARS | LAMB | Muon | DeltaBarDelta | Any,
    Open("an optimiser", "rule"),
]
"""One of ours; or by name an `optax.GradientTransformation`, or a function that returns one: it is given its options
and, where it has such an argument, `learning_rate`, the schedule."""


@dataclass(frozen=True, kw_only=True)
class _Own(Optimizer, at="optim"):
    """A user's transformation, or function that returns one, as an optimiser."""

    name: str
    found: Any
    learning_rate: Any

    def rule(self, rate: optax.Schedule, mask: Any, params_like: Any) -> optax.GradientTransformation:
        tx = self.found
        if not hasattr(tx, "update"):
            tx = call(self.name, tx, {} if self.learning_rate is None else {"learning_rate": rate})
        if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
            raise UsageError(f"{self.name} gives {tx!r:.80}: expected an optax.GradientTransformation")
        takes_loss = isinstance(tx, optax.GradientTransformationExtraArgs)
        kind = optax.GradientTransformationExtraArgs if takes_loss else optax.GradientTransformation
        return kind(tx.init, tx.update)


def find_optimizer(optim: Any, finder: Finder) -> Optimizer:
    """Return one of `AnyOptimizer` as a value; what a part names is found.

    Raises:
        UsageError: there is no such part, or it is none.
    """
    found, rate = made(optim, finder), None
    if isinstance(found, Optimizer):
        return found
    if not isinstance(optim, Part):
        raise UsageError(f"optim is a {type(found).__name__}: expected a jaxcnn.Optimizer")
    if not hasattr(found, "update") and "learning_rate" in (takes := arguments_of(optim.name, found)):
        rate = takes["learning_rate"].default
        if not isinstance(rate, int | float):
            raise UsageError(f"{optim.name} takes a learning_rate: give it among its options, such as 0.1")
        rate = check(Positive, rate, f"learning_rate of {optim.name}")
    return _Own(name=optim.name, found=found, learning_rate=rate)
