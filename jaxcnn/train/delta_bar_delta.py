"""Delta-bar-delta (Jacobs 1988) as an Optax transformation: a learning rate for every parameter."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcnn.typed import Fraction, NotNegative, Positive, check


class DeltaBarDeltaState(NamedTuple):
    """Trees shaped like the parameters, in float32 whatever the parameters' type."""

    rate: Any
    delta_bar: Any


def delta_bar_delta(
    learning_rate: float, kappa: float = 0.01, phi: float = 0.1, theta: float = 0.7
) -> optax.GradientTransformation:
    """Descend with one rate per parameter, raised while its gradient keeps its sign and cut when it flips.

    With delta the gradient, `delta_bar(t) = (1 - theta) delta(t) + theta delta_bar(t-1)`, and before each
    update

        rate += kappa          where delta_bar(t-1) * delta(t) > 0
        rate *= 1 - phi        where delta_bar(t-1) * delta(t) < 0

    so rates grow linearly but shrink geometrically, and never reach 0. The rule was made for whole-batch
    gradients: on minibatches the signs are noisy, so keep kappa small.

    Args:
        learning_rate: the rate every parameter starts from, above 0.
        kappa: what is added to a rate, 0 or more.
        phi: the fraction of a rate that is cut, in [0, 1).
        theta: how much of the average's past is kept, in [0, 1).

    Returns:
        A transformation whose updates are `-rate * gradient`, to be added to the parameters.

    Raises:
        UsageError: for a value out of range.

    Source: R. A. Jacobs, "Increased rates of convergence through learning rate adaptation", Neural Networks
    1 (1988).
    """
    check(Positive, learning_rate, "learning_rate")
    check(NotNegative, kappa, "kappa")
    check(Fraction, phi, "phi")
    check(Fraction, theta, "theta")

    def init(params: optax.Params) -> DeltaBarDeltaState:
        def full(value: float) -> Any:
            return jax.tree.map(lambda p: jnp.full(p.shape, value, jnp.float32), params)

        return DeltaBarDeltaState(rate=full(learning_rate), delta_bar=full(0.0))

    def update(
        grads: optax.Updates, state: DeltaBarDeltaState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, DeltaBarDeltaState]:
        del params
        delta = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
        # The signs, not the product, which underflows to 0 for small gradients.
        agree = jax.tree.map(lambda bar, d: jnp.sign(bar) * jnp.sign(d), state.delta_bar, delta)
        rate = jax.tree.map(
            lambda r, a: jnp.where(a > 0, r + kappa, jnp.where(a < 0, r * (1 - phi), r)), state.rate, agree
        )
        bar = jax.tree.map(lambda b, d: (1 - theta) * d + theta * b, state.delta_bar, delta)
        updates = jax.tree.map(lambda r, d, g: (-r * d).astype(g.dtype), rate, delta, grads)
        return updates, DeltaBarDeltaState(rate=rate, delta_bar=bar)

    return optax.GradientTransformation(init, update)
