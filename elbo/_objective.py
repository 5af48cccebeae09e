"""The objective L(Ψ, Θ, y) = E_q ln P_Θ(z, y) + H(q), q = P_Ψ(z|y), and what it is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._batch import batched
from ._chunks import ChunkSize
from ._dtypes import converted, dtype_of, widened
from ._encoder import ExactEncoder, terms
from ._estimators import Automatic, ClosedForm, Estimator, expect_with_entropy
from ._model import Model, Params
from ._types import PyTree
from ._values import value
from .numerics import IMPOSSIBLE
from .posteriors import BernoulliPosterior, GaussianChainPosterior, Posterior
from .posteriors.protocol import require_posterior


class Decomposition(NamedTuple):
    """L in its two readings, (1) energy + entropy and (2) evidence − kl; each [N], nats.

    Attributes:
      energy: E_q ln P_Θ(z, y); −∞ where the datum is impossible, and its entropy and kl are then 0.
      entropy: H(q).
      elbo: L = energy + entropy.
      evidence: ln P_Θ(y).
      kl: KL(q, P_Θ(z|y)), computed by itself, not as a difference of the others; ∞ where q draws what is impossible.
    """

    energy: jax.Array
    entropy: jax.Array
    elbo: jax.Array
    evidence: jax.Array
    kl: jax.Array


def bound(
    model: Model, params: Params, y: PyTree, key: jax.Array | None, estimator: Estimator | None = None
) -> jax.Array:
    """L(Ψ, Θ, y) of one datum, a scalar in nats; what `elbo` vmaps. An impossible datum gives about `LOG_ZERO`."""
    return sum(_parts(model, params, y, key, estimator or Automatic()))


def _parts(model, params, y, key, estimator):
    params, y = _met(params, y)
    q = model.posterior(params, y)
    energy, entropy = expect_with_entropy(lambda z: terms(model.log_joint, params.theta, z, y), q, estimator, key)
    return sum(energy), entropy


def _met(params, y):
    """Parameters and a datum in the dtypes that the model computes in."""
    return widened(params), converted(y, dtype_of(params))


def elbo(
    model: Model, *, estimator: Estimator | None = None, batch_size: ChunkSize = "auto"
) -> Callable[..., jax.Array]:
    """The objective as a jit-compiled function of a batch.

        L(Ψ, Θ, y) = E_{z ~ P_Ψ(z|y)} ln P_Θ(z, y) + H(P_Ψ(z|y)) <= ln P_Θ(y)

    Args:
      model: the pair (log_joint, encoder).
      estimator: how to take the expectation; by default the best that each term's structure allows (`Automatic`).
      batch_size: data evaluated at a time, to bound the memory. By default as many as keep the largest array below 3 MB
        on a CPU, below 256 MB elsewhere; None for all at once, which leaves data that are spread over devices where
        they are, and is the default where there are several.

    Returns:
      `f(params, ys, key=None)` -> L for each datum, [N], nats; −∞ for a datum that the model calls impossible, NaN for
      one that holds a NaN. ys is a pytree with a leading axis N, converted to the dtype of the parameters (see `Update`
      in `optim.rule`); the key is needed only by estimators that sample.

    Raises:
      StructureError, while tracing: no estimator fits; the message names the choices.

    >>> import elbo
    >>> log_joint = lambda theta, z, y: -0.5 * jnp.sum((y - z) ** 2 + z**2)
    >>> model = elbo.Model(log_joint, lambda psi, y: elbo.NormalPosterior(psi * y, jnp.zeros(2)))
    >>> elbo.elbo(model)(elbo.Params((), jnp.array(0.5)), jnp.ones((1, 2))).tolist()
    [0.3379]
    """
    return batched(_Bound(require_model(model), estimator), batch_size)


@value
class _Bound:
    model: Model
    estimator: Estimator | None

    def __call__(self, params, y, key):
        return _reported(bound(self.model, params, y, key, self.estimator))


def evidence(model: Model, *, batch_size: ChunkSize = "auto") -> Callable[..., jax.Array]:
    """ln P_Θ(y) of a model whose encoder is exact, as a jit-compiled function of a batch: L at Ψ = Θ, where KL = 0.

        ln P_Θ(y) = ln P_Θ(z, y) − ln P_Θ(z|y),  whatever z is

    Args:
      model: the pair (log_joint, encoder).
      batch_size: as in `elbo`.

    Returns:
      `f(params, ys)` -> [N], nats. Only `params.theta` is read. Its gradient in Θ is that of L at the exact posterior
      (Fisher's identity).

    Raises:
      TypeError: the encoder was not made by `exact`.

    >>> import elbo
    >>> log_joint = lambda theta, z, y: z @ (theta + jnp.log(jnp.array([0.5, 0.5])) * y)
    >>> model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    >>> elbo.evidence(model)(elbo.Params(jnp.zeros(2), None), jnp.ones(1)).tolist()
    [0.0]
    """
    encoder = _exact_encoder(require_model(model).encoder, "model.encoder")
    return batched(_Evidence(model.log_joint, encoder), batch_size)


@value
class _Evidence:
    log_joint: Callable[..., Any]
    encoder: ExactEncoder

    def __call__(self, params, y, key):
        del key
        return _reported(_log_evidence(self.log_joint, self.encoder, params, y))


def _log_evidence(log_joint, encoder, params, y):
    params, y = _met(params, y)
    psi = encoder.e_step(params.theta, params.psi)
    q = encoder(psi, y)
    if isinstance(q, GaussianChainPosterior):
        # it knows its steps to more digits than its mode holds
        return bound(Model(log_joint, encoder), Params(params.theta, psi), y, None, ClosedForm())
    if not hasattr(q, "log_partition") or isinstance(q, BernoulliPosterior):
        # at any z; at the mode no large numbers cancel. The log odds of a bit say nothing of ln P(z = 0)
        z = jax.lax.stop_gradient(q.mode())
        return sum(terms(log_joint, params.theta, z, y)) - q.log_prob(z)
    # log_joint is its value at z = 0 plus the potentials' inner product with z: Z sums the rest, and no mean is needed
    nowhere = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(q.mean))
    return sum(terms(log_joint, params.theta, nowhere, y)) + q.log_partition()


def decompose(
    model: Model,
    *,
    estimator: Estimator | None = None,
    posterior: ExactEncoder | None = None,
    batch_size: ChunkSize = "auto",
) -> Callable[..., Decomposition]:
    """Energy, entropy, L, ln P_Θ(y) and KL of each datum, so that (1) = (2) can be checked on any exact model.

    Args:
      model: the pair (log_joint, encoder); the encoder need not be exact.
      estimator: how to take the energy's expectation.
      posterior: the exact encoder of the same log_joint; by default the model's own.
      batch_size: as in `elbo`.

    Returns:
      `f(params, ys, key=None)` -> `Decomposition` of vectors [N], nats.

    >>> import elbo
    >>> log_joint = lambda theta, z, y: z @ (theta * y)
    >>> model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(3)))
    >>> params = elbo.Params(jnp.array([0.0, 1.0, 2.0]), jnp.array([2.0, 1.0, 0.0]))
    >>> d = elbo.decompose(model)(params, jnp.ones(1))
    >>> bool(jnp.allclose(d.elbo, d.evidence - d.kl)), bool(d.kl[0] > 1)
    (True, True)
    """
    truth = _exact_encoder(posterior or require_model(model).encoder, "posterior")
    return batched(_Decompose(require_model(model), estimator, truth), batch_size)


@value
class _Decompose:
    model: Model
    estimator: Estimator | None
    posterior: ExactEncoder

    def __call__(self, params, y, key):
        params, y = _met(params, y)
        energy, entropy = _parts(self.model, params, y, key, self.estimator or Automatic())
        whole = _reported(energy + entropy)
        # the posterior of an impossible datum says so in its entropy; there it is the energy that people look at
        nothing = entropy <= IMPOSSIBLE
        energy, entropy = jnp.where(nothing, -jnp.inf, _reported(energy)), jnp.where(nothing, 0, entropy)
        psi = self.posterior.e_step(params.theta, params.psi)
        log_p = _reported(_log_evidence(self.model.log_joint, self.posterior, params, y))
        gap = -_reported(-kl(self.model.posterior(params, y), self.posterior(psi, y)))
        return Decomposition(energy, entropy, whole, log_p, gap)


def kl(q: Posterior, p: Posterior) -> jax.Array:
    """KL(q, p) = E_q ln q − E_q ln p of two posteriors over the same z, a scalar in nats, in closed form.

    Raises `StructureError` unless ln p is affine in z, or quadratic with q Gaussian. 0 where q is the posterior of an
    impossible datum, about −`LOG_ZERO` where p puts no mass on a z that q draws.

    >>> import elbo
    >>> unit = elbo.NormalPosterior(jnp.zeros(2), jnp.zeros(2))
    >>> kl(elbo.NormalPosterior(jnp.ones(2), jnp.zeros(2)), unit).tolist()
    1.0
    """
    require_posterior(q, "q")
    require_posterior(p, "p")
    entropy = q.entropy()
    return jnp.where(entropy <= IMPOSSIBLE, 0, -entropy - ClosedForm()(p.log_prob, q))


def _reported(value: jax.Array) -> jax.Array:
    """The value of a datum as a person should see it: −∞ where it is impossible, whatever stood in for ln 0."""
    return jnp.where(value <= IMPOSSIBLE, -jnp.inf, value)


def require_model(model: Any) -> Model:
    """The model; raises unless it is a pair of functions with their names."""
    if not (callable(getattr(model, "log_joint", None)) and callable(getattr(model, "encoder", None))):
        raise TypeError(f"model: got {type(model).__name__}, expected elbo.Model(log_joint, encoder)")
    return model


def _exact_encoder(encoder: Any, name: str) -> ExactEncoder:
    if not isinstance(encoder, ExactEncoder):
        raise TypeError(
            f"{name}: got {encoder!r}, expected an encoder made by elbo.exact(log_joint, structure); ln P(y) is known "
            "in closed form only there. For other encoders use elbo.elbo, a lower bound"
        )
    return encoder
