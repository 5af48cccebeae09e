"""Hidden Markov models under hmmlearn's names."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import elbo
from elbo.extend import value
from elbo.models import hmm
from elbo.models.families import Categorical, Poisson

from ._gaussian import matrices
from ._hmm_base import HMM, chain_attributes
from ._programs import Start, dtype
from ._sequences import Sequences


@value
class GaussianStart:
    """`hmm.init` with Gaussian emissions, as a value."""

    states: int
    covariance_type: str

    def __call__(self, key, ys, weights):
        """Starting parameters."""
        kind: Any = self.covariance_type
        return hmm.init(key, ys, self.states, weights=weights, covariance_type=kind)


@value
class FamilyStart:
    """`hmm.init` with emissions of a family whose field [states, size] is all zeros, as a value."""

    family: Any
    states: int
    size: int

    def __call__(self, key, ys, weights):
        """Starting parameters."""
        family = self.family(jnp.zeros((self.states, self.size), weights.dtype))
        return hmm.init(key, ys, self.states, family=family, weights=weights)


class GaussianHMM(HMM):
    """`elbo.models.hmm` with Gaussian emissions, as hmmlearn's estimator of that name.

    A frame that holds a NaN is missing, and is summed out. There are no priors.

    Args:
      n_components: K states.
      covariance_type: "diag", "full", "tied" or "spherical".
      tol: stop when the mean ln P of a sequence changes by no more than tol · max(1, |mean ln P|), in nats; 0 takes all
        steps. In float32 what is below 4e-6 counts as that.
      max_iter: at most how many EM steps; a program is compiled for each.
      n_init: k-means++ starts, which are run at once; the best is kept.
      init: `elbo.Params` to start from, in place of the starts; such as `params_` of another fit.
      random_state: an int, a `numpy.random.RandomState`, or None.

    Attributes:
      startprob_: [K].
      transmat_: [K, K], from row to column.
      means_: [K, D].
      covars_: a matrix for each state, [K, D, D].
      params_: the `elbo.Params`.
      lower_bound_: mean ln P of a sequence, nats.
      converged_, n_iter_: of the best run.

    >>> X = np.tile([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]], (5, 1))
    >>> fitted = GaussianHMM(2, random_state=0).fit(X, lengths=[12, 18])
    >>> np.sort(fitted.means_[:, 0]).tolist()
    [0.1, 5.1]
    >>> np.sort(np.bincount(fitted.predict(X[:4]))).tolist()
    [1, 3]
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: Literal["diag", "full", "tied", "spherical"] = "diag",
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 1,
        init: elbo.Params | None = None,
        random_state: Any = None,
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init = init
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _checks(self) -> dict[str, Any]:
        return dict(dtype=dtype(), ensure_all_finite="allow-nan")

    def _frames(self, X: np.ndarray, reset: bool) -> np.ndarray:
        return X

    def _start(self, seen: Sequences) -> Start:
        return GaussianStart(self.n_components, self.covariance_type)

    @staticmethod
    def _attributes(theta: hmm.Theta) -> dict[str, jax.Array]:
        return chain_attributes(theta) | dict(means_=theta.emission.mean, covars_=matrices(theta.emission))


class CategoricalHMM(HMM):
    """`elbo.models.hmm` with emissions of symbols, as hmmlearn's estimator of that name.

    Args:
      n_components: K states.
      n_features: V symbols, 0 to V − 1; None: one more than the largest in the data.
      tol, max_iter, n_init, init, random_state: as in `GaussianHMM`; the starts are random.

    Attributes:
      emissionprob_: [K, V].
      startprob_, transmat_, params_, lower_bound_, converged_, n_iter_: as in `GaussianHMM`.

    >>> X = np.repeat([0, 1, 0, 2], 10)[:, None]
    >>> fitted = CategoricalHMM(2, n_init=4, random_state=0).fit(X)
    >>> fitted.emissionprob_.shape, fitted.predict_proba(X).shape
    ((2, 3), (40, 2))
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        n_features: int | None = None,
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 1,
        init: elbo.Params | None = None,
        random_state: Any = None,
    ):
        self.n_components = n_components
        self.n_features = n_features
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init = init
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.positive_only = True
        return tags

    def _frames(self, X: np.ndarray, reset: bool) -> np.ndarray:
        if X.shape[1] != 1:
            raise ValueError(f"X: got {X.shape[1]} columns, expected one column of symbols, [n_samples, 1]")
        require_counts(X, "symbols", type(self).__name__)
        known = self.n_features if reset else self.emissionprob_.shape[1]
        if reset and isinstance(self.init, elbo.Params):
            known = self.init.theta.emission.values
        if known is not None and X.max() >= known:
            raise ValueError(
                f"X: got the symbol {X.max():.0f}, expected symbols below {known}, those that the model has. Give "
                "n_features the number of all symbols that there may be"
            )
        return X[:, 0].astype(np.int32)

    def _start(self, seen: Sequences) -> Start:
        symbols = int(seen.data.ys.values.max()) + 1 if self.n_features is None else self.n_features
        return FamilyStart(Categorical, self.n_components, symbols)

    @staticmethod
    def _attributes(theta: hmm.Theta) -> dict[str, jax.Array]:
        return chain_attributes(theta) | dict(emissionprob_=theta.emission.probabilities())


class PoissonHMM(HMM):
    """`elbo.models.hmm` with emissions of independent counts, as hmmlearn's estimator of that name.

    A frame that holds a NaN is missing, and is summed out.

    Args:
      n_components: K states.
      tol, max_iter, n_init, init, random_state: as in `GaussianHMM`.

    Attributes:
      lambdas_: rates, [K, D].
      startprob_, transmat_, params_, lower_bound_, converged_, n_iter_: as in `GaussianHMM`.

    >>> X = np.tile([[1], [0], [2], [9], [11], [10]], (5, 1))
    >>> np.round(np.sort(PoissonHMM(2, random_state=0).fit(X).lambdas_[:, 0])).tolist()
    [1.0, 10.0]
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 1,
        init: elbo.Params | None = None,
        random_state: Any = None,
    ):
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init = init
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # counts are what scikit-learn makes of its data where these tags are set
        tags.input_tags.categorical = tags.input_tags.positive_only = True
        tags.input_tags.allow_nan = True
        return tags

    def _checks(self) -> dict[str, Any]:
        return dict(dtype=dtype(), ensure_all_finite="allow-nan")

    def _frames(self, X: np.ndarray, reset: bool) -> np.ndarray:
        require_counts(X, "counts", type(self).__name__)
        return X

    def _start(self, seen: Sequences) -> Start:
        return FamilyStart(Poisson, self.n_components, seen.data.ys.values.shape[-1])

    @staticmethod
    def _attributes(theta: hmm.Theta) -> dict[str, jax.Array]:
        return chain_attributes(theta) | dict(lambdas_=theta.emission.rate())


def require_counts(X: np.ndarray, kind: str, whom: str) -> None:
    """Raises unless what is no NaN is 0, 1, 2, ..."""
    negative, broken = X[X < 0], X[X != np.floor(X)]
    wrong = negative if negative.size else broken[~np.isnan(broken)]
    if wrong.size:
        # scikit-learn's checks look for these first words
        begin = f"Negative values in data passed to {whom}. " if negative.size else ""
        raise ValueError(f"{begin}X: got {wrong[0]}, expected {kind} 0, 1, 2, ..., whole and not negative")
