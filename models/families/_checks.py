"""Shape checks, divisions and bounds that all families share."""

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from elbo import LOG_ZERO, safe_log

UNSEEN = 0.5 * LOG_ZERO
"""ln of what was estimated as 0: as impossible as `LOG_ZERO`, which stands for what the model forbids, but free."""

NONE = 0.01
"""Fewer data than this behind a probability or a rate are none: it stands at 0, or is on its way there."""


def check_event(name: str, x: jax.Array, shape: tuple[int, ...]) -> None:
    """Raises unless x is one floating-point datum of the given shape."""
    if jnp.shape(x) != shape:
        raise ValueError(
            f"{name}: got shape {list(jnp.shape(x))}, expected {list(shape)}: one datum. Use jax.vmap over a batch of "
            "data, and x[..., None] for scalar data"
        )
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise ValueError(
            f"{name}: got {jnp.result_type(x)}, expected floating point; convert with jnp.asarray(x, float)"
        )


def weighted(contract: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The contract of a Gaussian for a datum of covariance Σ / weight: `f(tap, weight, *residuals)`.

    All its statistics are multiplied by the weight but the count for the scale, which stays 1.
    """

    def contract_weighted(tap, weight, *residuals):
        return weight * contract(tap, *residuals) + (1 - weight) * tap.scale_count

    return contract_weighted


def floating(name: str, a: jax.Array, axes: int) -> jax.Array:
    """The array a; raises unless it is floating point with at least `axes` axes."""
    a = jnp.asarray(a)
    if a.ndim < axes or not jnp.issubdtype(a.dtype, jnp.floating):
        raise ValueError(f"{name}: got {a.dtype}{list(a.shape)}, expected floating point with at least {axes} axes")
    return a


def check_shape(name: str, a: jax.Array, *shapes: tuple[int, ...]) -> jax.Array:
    """The array a; raises unless it is floating point of one of the shapes."""
    a = floating(name, a, 0)
    if a.shape not in shapes:
        raise ValueError(f"{name}: got shape {list(a.shape)}, expected {' or '.join(str(list(s)) for s in shapes)}")
    return a


def check_names(name: str, given: Sequence[str], choices: Iterable[str]) -> tuple[str, ...]:
    """The names, in the order of the choices; raises on any other."""
    if isinstance(given, str) or set(given) - set(choices):
        raise ValueError(f"{name}: got {given!r}, expected a tuple of some of {list(choices)}")
    return tuple(choice for choice in choices if choice in given)


def require_positive(name: str, a: jax.Array, advice: str, *, log: bool = False) -> None:
    """Raises unless all numbers are positive (or, of logarithms, none is NaN), where they are known: not under jit."""
    if isinstance(a, jax.core.Tracer):
        return
    known = np.asarray(a)  # under a trace, jax.numpy traces what is asked of an array that is known
    if not np.all(~np.isnan(known) if log else known > 0):
        got = "one that is not positive definite" if log else f"{a}"
        raise ValueError(f"{name}: got {got}, expected {'positive definite' if log else 'positive'}; {advice}")


def divide(a: jax.Array, b: jax.Array) -> jax.Array:
    """a / b, and 0 where b <= 0 (an empty component)."""
    positive = b > 0
    return jnp.where(positive, a / jnp.where(positive, b, 1), 0)


def expand(a: jax.Array, axes: int) -> jax.Array:
    """a with `axes` axes of length 1 appended."""
    return a.reshape(*a.shape, *(1,) * axes)


def at_least(log_scale: jax.Array, floor: jax.Array) -> jax.Array:
    """ln of standard deviations no smaller than the floor; at the floor itself, a gradient step sees the likelihood."""
    least = jnp.log(jax.lax.stop_gradient(floor))
    return jnp.where(log_scale < least, least, log_scale)  # NaN stays NaN


def at_floor(log_scale: jax.Array, floor: jax.Array) -> jax.Array:
    """Which standard deviations stand at the floor, to a thousandth; bool, shaped like log_scale."""
    return log_scale <= jnp.log(floor) + 1e-3


def rounding_of(mean: jax.Array) -> jax.Array:
    """`terms` of `bound_variance` for residuals x − mean; mean: in units of the current standard deviation."""
    return (mean / 16) ** 2  # 4 ε |mean|: that of the mean itself and of the data around it


def bound_variance(
    variance: jax.Array, floor: jax.Array, moment: jax.Array, terms: jax.Array | float = 0.0
) -> jax.Array:
    """A variance taken from second moments about another mean, no less than floor² and the rounding of the moments.

    All in units of the current standard deviation. Where the variance is zero to rounding and there is no floor, the
    likelihood has no maximum: the variance stays what it is, 1.

    Args:
      variance: to bound.
      floor: standard deviation.
      moment: the second moment of the residuals that variance was taken from.
      terms: mean squares of the terms that the residuals are differences of. A variance that is no more than the
        rounding of these is zero, however large it is beside `moment`.

    >>> bound_variance(jnp.array([4.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 0.5]), jnp.array([5.0, 1.0, 1.0])).tolist()
    [4.0, 1.0, 0.25]
    """
    eps = jnp.finfo(variance.dtype).eps
    rounding = 8 * eps * moment
    unknown = (variance <= rounding + (64 * eps) ** 2 * terms) & (floor <= 0)
    return jnp.maximum(jnp.where(unknown, 1, variance), jnp.maximum(floor**2, rounding))


def update_log_scale(
    log_scale: jax.Array,
    residual: jax.Array,
    second: jax.Array,
    count: jax.Array,
    floor: jax.Array,
    terms: jax.Array | float = 0.0,
) -> jax.Array:
    """ln of the standard deviations that maximise the likelihood; where count <= 0, log_scale itself.

    Args:
      log_scale: ln of the current standard deviations, in data units.
      residual: Σ (x − new mean)², in units of the current variances; shaped like log_scale.
      second: Σ (x − current mean)², likewise, whose rounding the residual carries.
      count: Σ 1.
      floor: smallest standard deviation, in data units.
      terms: see `bound_variance`.
    """
    variance = bound_variance(divide(residual, count), floor * jnp.exp(-log_scale), divide(second, count), terms)
    return jnp.where(count > 0, log_scale + 0.5 * jnp.log(variance), log_scale)


def is_forbidden(log_p: jax.Array) -> jax.Array:
    """Where a log probability (or log rate) is 0 because the model says so, and not because no datum was seen there.

    The two are the same for every likelihood, but not for a count of free parameters, which may not fall because EM ran
    for longer. So `create` writes 0 as `LOG_ZERO`, and `maximize` a 0 that was free as `UNSEEN`.
    """
    return log_p <= 0.75 * LOG_ZERO


def log_estimate(p: jax.Array, old: jax.Array) -> jax.Array:
    """ln of an estimate p >= 0 in place of the log value `old`; what was forbidden, and is 0, stays forbidden.

    >>> (log_estimate(jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, -1.0, LOG_ZERO])) / LOG_ZERO).tolist()
    [0.0, 0.5, 1.0]
    """
    return jnp.where(p > 0, safe_log(p), jnp.where(is_forbidden(old), LOG_ZERO, UNSEEN))
