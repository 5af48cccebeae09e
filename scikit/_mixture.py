"""Gaussian mixtures under scikit-learn's names."""

from typing import Any, Literal

import jax
import numpy as np
from sklearn.utils.validation import check_is_fitted

import elbo
from elbo.extend import value
from elbo.models import mixture

from ._base import key_of, require_count
from ._gaussian import covariances
from ._programs import draw
from ._rows import RowsEstimator, padded


@value
class MixtureStart:
    """`mixture.init` as a value."""

    components: int
    covariance_type: str

    def __call__(self, key, ys, weights):
        """Starting parameters."""
        kind: Any = self.covariance_type
        return mixture.init(key, ys, self.components, weights=weights, covariance_type=kind)


class GaussianMixture(RowsEstimator):
    """`elbo.models.mixture` with Gaussian components, as scikit-learn's estimator of that name.

    Args:
      n_components: K.
      covariance_type: "full", "tied", "diag" or "spherical".
      tol: stop when the mean ln P changes by no more than tol · max(1, |mean ln P|), in nats; 0 takes all steps. In
        float32 what is below 4e-6 counts as that.
      max_iter: at most how many EM steps; a program is compiled for each.
      n_init: k-means++ starts, which are run at once; the best is kept.
      init: `elbo.Params` to start from, in place of the starts; such as `params_` of another fit.
      random_state: an int, a `numpy.random.RandomState`, or None.

    Attributes:
      weights_: [K].
      means_: [K, D].
      covariances_: full [K, D, D], tied [D, D], diag [K, D], spherical [K].
      params_: the `elbo.Params`.
      lower_bound_: mean ln P of the data, nats.
      converged_, n_iter_: of the best run.

    >>> X = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    >>> fitted = GaussianMixture(2, random_state=0).fit(X)
    >>> np.sort(fitted.means_[:, 0]).tolist(), fitted.converged_
    ([0.1, 5.1], True)
    >>> a, b = fitted.predict([[0.1], [5.1]])
    >>> bool(a != b)
    True
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: Literal["full", "tied", "diag", "spherical"] = "full",
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

    def fit(self, X: Any, y: Any = None) -> "GaussianMixture":
        """Fits the mixture to X, [N, D]; y is ignored.

        Raises:
          ValueError: fewer data than components, or data that are not finite.
        """
        require_count("n_components", self.n_components)
        rows = self._rows(X, least=2)
        if len(rows) < self.n_components:
            raise ValueError(f"X: got n_samples = {len(rows)}, expected at least n_components = {self.n_components}")
        self._run(self._model(), MixtureStart(self.n_components, self.covariance_type), padded(rows))
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fits, and returns the component of each row, int [N]."""
        return self.fit(X).predict(X)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each row, int [N]."""
        return self.predict_proba(X).argmax(-1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """P(component | row), [N, K]."""
        return self._means(X)

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draws rows, [n_samples, D], and the component of each, int [n_samples]."""
        check_is_fitted(self)
        require_count("n_samples", n_samples)
        components, rows = draw(mixture.sample, key_of(self.random_state), self.params_.theta, n_samples)
        return np.array(rows), np.array(components)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = "density_estimator"
        return tags

    @staticmethod
    def _attributes(theta: mixture.Theta) -> dict[str, jax.Array]:
        parts = theta.components
        return dict(weights_=theta.weights.probabilities(), means_=parts.mean, covariances_=covariances(parts))

    def _model(self) -> elbo.Model:
        return mixture.model(self.n_components)
