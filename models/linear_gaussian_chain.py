"""Linear-Gaussian chains (the Kalman model): a latent vector moves linearly in time, seen through a linear map.

With m = model(latent):

    fit       optim.fit(optim.em_step(m), init(key, ys, latent), ys).params
    score     elbo.evidence(m)(params, ys), nats, [N]
    smooth    linear_gaussian_inference.smooth(m, params, ys); filter and predict_one_step are beside it
    sample    sample(key, params.theta, frames, count)
"""

from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

import elbo
from elbo.extend import anywhere, value

from ._scales import scales, valid_weights
from .criteria import free_parameters, one_of_each
from .families import LinearGaussian, MultivariateNormal

Missing = Literal["frames", "entries", "none"]


class Theta(NamedTuple):
    """Parameters of z_1 ~ initial, z_{t+1} = A z_t + b + noise, y_t = C z_t + d + noise; noise of any family diagonal.

    A full covariance of the latent noise would add nothing: a linear map of z makes it diagonal.

    Attributes:
      initial: `MultivariateNormal` in D dimensions.
      transition: `LinearGaussian`, weights [D, D].
      observation: `LinearGaussian`, weights [E, D]; or E of them, one for each entry of y_t, weights [E, 1, D]: then
        entries may be missing one by one, and EM keeps second moments of z for each.
    """

    initial: MultivariateNormal
    transition: LinearGaussian
    observation: LinearGaussian

    def free_parameters(self) -> int:
        """The dimension of the processes that the model can be: its numbers, less those that a change of z takes up.

        z → M z + c changes nothing of P(y) if it is undone in all three parts. c is free, [D]; M is a rotation and D
        scales, as the noise must stay diagonal (one scale, as spherical noise must stay spherical). With more latents
        than entries of y, variance S with C S = 0 can be moved between z_1 and the steps: noise + S − A S Aᵀ.
        """
        one_of_each(initial=(self.initial, 0), transition=(self.transition, 0))
        if any(part.known for part in self):
            # z has a meaning: it cannot be turned or scaled
            return free_parameters(tuple(self))
        size = self.transition.event_size
        unseen = max(size - self.observation.bias.size, 0)
        turns, hidden = size * (size - 1) // 2, unseen * (unseen + 1) // 2
        change = {  # whether z_1 and the noise of the steps have spherical covariances; one of them all can have
            (False, False): turns + size + hidden,
            (False, True): turns + 1 + hidden,
            (True, False): 1 + hidden,
            (True, True): turns + 1,
        }
        kind = self.initial.covariance_type == "spherical", self.transition.spherical
        return free_parameters(tuple(self)) - size - change[kind]


def log_joint(theta: Theta, z: jax.Array, y: Any, missing: Missing = "frames") -> tuple[jax.Array, ...]:
    """ln P(z_1), Σ_t ln P(z_{t+1} | z_t) and Σ_t ln P(y_t | z_t) of one sequence, in nats; y with holes marginalised.

    Args:
      theta: the parameters.
      z: [T, D].
      y: [T, E], or `elbo.Padded` of that; NaN is a missing observation.
      missing: "frames" if whole frames may be missing, "entries" if each entry may (needs observation weights
        [E, 1, D]), "none" if nothing is. A NaN in any other place makes the result NaN.
    """
    y = elbo.as_padded(y)
    check_shapes(theta, z, y.values, missing)
    mask, values = y.mask(), y.clean().values
    absent = jnp.isnan(values) if missing == "entries" else jnp.all(jnp.isnan(values), -1, keepdims=True)
    if missing == "none":
        absent = jnp.zeros((y.frames, 1), bool)
    emissions = jax.vmap(partial(_emission, theta.observation))(jnp.where(absent, 0, values), z)
    steps = jax.vmap(theta.transition.log_prob)(z[1:], z[:-1])
    return (
        theta.initial.log_prob(z[0]),
        jnp.sum(jnp.where(mask[1:], steps, 0)),
        jnp.sum(jnp.where(mask[:, None] & ~absent, emissions, 0)),
    )


@value
class Joint:
    """`log_joint` of one kind of missing data."""

    missing: Missing

    def __call__(self, theta: Theta, z: jax.Array, y: Any) -> tuple[jax.Array, ...]:
        """See `log_joint`."""
        return log_joint(theta, z, y, self.missing)


@value
class Usable:
    """Which data can be used, with one kind of missing data."""

    missing: Missing

    def __call__(self, y: Any) -> jax.Array:
        """Whether NaN stands only where this kind of missing data has it, and every length can be one; bool scalar."""
        y = elbo.as_padded(y)
        values = y.clean().values
        absent = jnp.isnan(values)
        if self.missing == "none":
            wrong = jnp.any(absent)
        elif self.missing == "frames":
            wrong = jnp.any(jnp.any(absent, -1) & ~jnp.all(absent, -1))
        else:
            wrong = jnp.zeros((), bool)
        return ~wrong & ~jnp.any(jnp.isinf(values)) & y.is_sound()


def model(latent: int, *, missing: Missing = "frames") -> elbo.Model:
    """The chain with its exact posterior over z [T, latent], a `GaussianChainPosterior`. A datum is one sequence.

    Args:
      latent: D.
      missing: what NaN may stand for, see `log_joint`; a NaN elsewhere makes a sequence unusable (`info.dropped`). With
        "none", sequences of full length (arrays [N, T, E]) share one factorisation, since the precision of the
        posterior does not depend on y.
    """
    joint = Joint(missing)
    return elbo.Model(joint, elbo.exact(joint, elbo.gaussian_chain(latent)), Usable(missing))


@anywhere
def init(
    key: jax.Array, ys: Any, latent: int, *, missing: Missing = "frames", weights: jax.Array | None = None
) -> elbo.Params:
    """Small random loadings around the data's median, on latents that forget at different rates.

    Follows a shift and a scale of each entry of y by itself (not their order: the loadings are drawn by place); less
    than half of the data, however far away, move nothing. Sequences that `model` cannot use are left out.

    Args:
      key: PRNG key.
      ys: sequences, [N, T, E] or `elbo.Padded` with values of that shape; NaN is missing.
      latent: D.
      missing: as in `model`.
      weights: [N], how often each sequence counts; 1 by default.

    >>> ys = jax.random.normal(jax.random.key(0), (2, 9, 3)).at[0, 4].set(jnp.nan)
    >>> params = init(jax.random.key(1), ys, 2)
    >>> elbo.evidence(model(2))(params, ys).shape
    (2,)
    """
    values, counts = _observed(ys, weights, missing)
    found = scales(values.reshape(-1, values.shape[-1]), counts)
    dtype, spread = values.dtype, found.spread
    loadings = 0.3 * spread[:, None] * jax.random.normal(key, (values.shape[-1], latent), dtype)
    bias, scale, floor = found.location, spread, found.floor()
    if missing == "entries":
        loadings, bias, scale, floor = loadings[:, None], bias[:, None], scale[:, None], floor[:, None]
    rates = jnp.linspace(0.95, 0.5, latent, dtype=dtype)
    centre = jnp.zeros(latent, dtype)
    theta = Theta(
        MultivariateNormal.create(centre, jnp.eye(latent, dtype=dtype), floor=1e-3),
        LinearGaussian.create(jnp.diag(rates), centre, jnp.sqrt(1 - rates**2), floor=1e-3),
        LinearGaussian.create(loadings, bias, scale, floor=floor),
    )
    return elbo.Params(theta, jax.tree.map(jnp.copy, theta))


def _observed(ys: Any, weights: jax.Array | None, missing: Missing = "frames") -> tuple[jax.Array, jax.Array]:
    """Values [N, T, E], NaN where nothing is observed, and how often each frame counts, [N T]."""
    ys = ys if isinstance(ys, elbo.Padded) else elbo.Padded(jnp.asarray(ys), jnp.full(len(ys), jnp.shape(ys)[1]))
    values = ys.values
    if values.ndim != 3 or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"ys: got {values.dtype}{list(values.shape)}, expected floating-point sequences [N, T, E]")
    if weights is not None and jnp.shape(weights) != values.shape[:1]:
        raise ValueError(f"weights: got {list(jnp.shape(weights))}, expected {[len(values)]}, one for each sequence")
    each = jnp.ones(len(values), values.dtype) if weights is None else jnp.asarray(weights, values.dtype)
    each = valid_weights(each)
    usable = jax.vmap(Usable(missing))(ys) & (each > 0)
    seen = jax.vmap(elbo.Padded.mask)(ys) & usable[:, None]
    return jnp.where(seen[..., None], values, jnp.nan), jnp.where(seen, each[:, None], 0).reshape(-1)


def local_level(ys: Any) -> elbo.Params:
    """A start for the local level model: a level that walks at random, seen with noise, y_t = z_t + noise.

    What is known of it is held (`known` of the families): A = C = 1, b = d = 0, and a start N(median, (1000 spread)²)
    of which nothing is known. Free are the two standard deviations. Any structure is written like this: of a local
    linear trend, say, A = [[1, 1], [0, 1]] and C = [[1, 0]]. A part of z that follows without noise gets a small one.

    Args:
      ys: sequences of scalars, [N, T, 1] or `elbo.Padded` with values of that shape; NaN is missing.

    >>> params = local_level(jnp.array([[[1.0], [2.0], [jnp.nan], [3.0]]]))
    >>> params.theta.free_parameters(), params.theta.transition.known
    (2, ('weights', 'bias'))
    """
    values, weights = _observed(ys, None)
    if values.shape[-1] != 1:
        raise ValueError(f"ys: got sequences {list(values.shape)}, expected scalars [N, T, 1]")
    found = scales(values.reshape(-1, 1), weights)
    one, none = jnp.ones((1, 1), values.dtype), jnp.zeros(1, values.dtype)

    def walk(scale):
        return LinearGaussian.create(one, none, scale, floor=found.floor(1e-6), known=("weights", "bias"))

    start = MultivariateNormal.of_scale(found.location, 1000 * found.spread)
    start = replace(start, known=("mean", "covariance"))
    theta = Theta(start, walk(found.spread / 3), walk(found.spread))
    return elbo.Params(theta, jax.tree.map(jnp.copy, theta))


def sample(key: jax.Array, theta: Theta, frames: int, count: int) -> tuple[jax.Array, jax.Array]:
    """Draws of sequences: z [count, T, D], y [count, T, E].

    >>> ys = jax.random.normal(jax.random.key(0), (2, 9, 3))
    >>> z, y = sample(jax.random.key(2), init(jax.random.key(1), ys, 2).theta, 5, 4)
    >>> z.shape, y.shape
    ((4, 5, 2), (4, 5, 3))
    """

    def one(key):
        first, *keys = jax.random.split(key, 3)
        z = theta.initial.sample(first)

        def step(z, key):
            after = theta.transition.sample(key, z)
            return after, after

        rest = jax.lax.scan(step, z, jax.random.split(keys[0], frames)[1:])[1]
        z = jnp.concatenate([z[None], rest])
        y = jax.vmap(theta.observation.sample)(jax.random.split(keys[1], frames), z)
        return z, y.reshape(frames, -1)

    return jax.vmap(one)(jax.random.split(key, count))


def _emission(observation: LinearGaussian, y: jax.Array, z: jax.Array) -> jax.Array:
    """ln P(y_t | z_t) of one frame, [1], or of each of its entries, [E]."""
    if not observation.batch_shape:
        return observation.log_prob(y, z)[None]
    # what vmap runs over; each entry may have a floor of its own
    floor = 0 if jnp.ndim(observation.floor) > 1 else None
    axes: Any = LinearGaussian(0, 0, 0, None, floor, 0, observation.known)  # type: ignore[arg-type]
    return jax.vmap(lambda entry, y: entry.log_prob(y[None], z), (axes, 0))(observation, y)


def check_shapes(theta: Theta, z: jax.Array, values: jax.Array, missing: Missing) -> None:
    """Raises where shapes do not match."""
    if missing not in ("frames", "entries", "none"):
        raise ValueError(f'missing: got {missing!r}, expected "frames", "entries" or "none"')
    size, entries = theta.transition.event_size, theta.observation.batch_shape
    if missing == "entries" and not entries:
        raise ValueError(
            f"theta.observation: got weights {list(theta.observation.weights.shape)}, expected [E, 1, D] where single "
            'entries may be missing; use init(..., missing="entries")'
        )
    width = entries[0] if entries else theta.observation.event_size
    if z.ndim != 2 or z.shape[1] != size or theta.observation.input_size != size:
        raise ValueError(
            f"z: got {list(z.shape)}, expected [T, {size}] for a transition of {size} latents and an observation of "
            f"{theta.observation.input_size}"
        )
    if values.shape != (z.shape[0], width) or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"y: got {values.dtype}{list(values.shape)}, expected floating point {[z.shape[0], width]}: one sequence. "
            "Use jax.vmap over a batch of sequences, and y[..., None] for scalar frames"
        )
