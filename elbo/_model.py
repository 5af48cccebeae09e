"""A model is a pair of pure functions; its parameters are a pair of pytrees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ._encoder import ExactEncoder
from ._sequence import finite_where_it_counts
from ._types import PyTree
from ._values import described
from .posteriors.protocol import Posterior


class Params(NamedTuple):
    """Parameters of a model: `theta` of P_Θ(z, y), `psi` of the encoder P_Ψ(z|y). Any pytrees of arrays.

    An exact encoder needs no psi: where it is None, the posterior is that of theta.
    """

    theta: PyTree
    psi: PyTree = None

    @classmethod
    def tied(cls, theta: PyTree) -> "Params":
        """Ψ = Θ, as an exact encoder has it: the posterior is that of the model.

        >>> Params.tied(1.0)
        Params(theta=1.0, psi=the same)
        """
        return cls(theta, theta)

    def __repr__(self) -> str:
        psi = "the same" if self.psi is not None and _same(self.theta, self.psi) else repr(self.psi)
        return f"Params(theta={self.theta!r}, psi={psi})"


def _same(a: PyTree, b: PyTree) -> bool:
    """Whether two trees hold the same numbers, as far as they are known."""
    structures: Any = jax.tree.structure(a), jax.tree.structure(b)
    if structures[0] != structures[1]:
        return False
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    traced = any(isinstance(leaf, jax.core.Tracer) for pair in pairs for leaf in pair)
    return all(x is y or (not traced and np.array_equal(x, y)) for x, y in pairs)


class Model(NamedTuple):
    """A latent-variable model P_Θ(z, y) and an encoder P_Ψ(z|y), each for one datum.

    Equal models share their programs, so what the functions hold must not be changed afterwards; weights of networks
    belong in theta and psi.

    Attributes:
      log_joint: `log_joint(theta, z, y)`, ln P_Θ(z, y) in nats: a scalar, or a tuple of scalars whose sum it is. Each
        term of a tuple gets the best expectation that its own structure allows.
      encoder: `encoder(psi, y)`, the posterior P_Ψ(z|y) of one datum. `exact(log_joint, structure)` derives it.
      usable: `usable(y)`, whether a datum can be used (a bool scalar). A datum that cannot is left out and counted in
        `info.dropped`. The default refuses NaN and infinities, but not in the padding of a `Padded`. Where NaN stands
        for something that is missing, give a function of your own.

    >>> import elbo, jax.numpy as jnp
    >>> def log_joint(theta, z, y):  # two coins, one is thrown
    ...     return z @ (jnp.log(0.5) + y * jnp.log(theta) + (1 - y) * jnp.log(1 - theta))
    >>> model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    >>> theta = jnp.array([0.5, 0.25])
    >>> elbo.evidence(model)(elbo.Params.tied(theta), jnp.array([1.0])).tolist()  # ln (0.5 + 0.25) / 2
    [-0.9808]
    """

    log_joint: Callable[[PyTree, PyTree, PyTree], Any]
    encoder: Callable[[PyTree, PyTree], Posterior]
    usable: Callable[[PyTree], jax.Array] = finite_where_it_counts

    def posterior(self, params: Params, y: PyTree) -> Posterior:
        """P_Ψ(z|y) of one datum; at Ψ = Θ where `params.psi` is None and the encoder is exact."""
        if params.psi is None and isinstance(self.encoder, ExactEncoder):
            return self.encoder(params.theta, y)
        try:
            return self.encoder(params.psi, y)
        except Exception as error:
            if params.psi is None:
                error.add_note(
                    "params.psi: got None, but the encoder is not exact; give its parameters, Params(theta, psi)"
                )
            raise

    def __repr__(self) -> str:
        return described("Model", *self)
