"""Factor analysis under scikit-learn's names."""

from typing import Any

import jax
import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

import elbo
from elbo.extend import value
from elbo.models import factor_analysis

from ._base import kept_dtypes, key_of, require_count
from ._programs import draw
from ._rows import RowsEstimator, padded


@value
class FactorStart:
    """`factor_analysis.init` as a value."""

    latent: int

    def __call__(self, key, ys, weights):
        """Starting parameters."""
        return factor_analysis.init(key, ys, self.latent, weights=weights)


class FactorAnalysis(ClassNamePrefixFeaturesOutMixin, TransformerMixin, RowsEstimator):
    """`elbo.models.factor_analysis`, as scikit-learn's estimator of that name.

    The factors are what they are there but for a rotation, which no data can tell.

    Args:
      n_components: Q; None for as many as there are columns.
      tol: stop when the mean ln P changes by no more than tol · max(1, |mean ln P|), in nats; 0 takes all steps. In
        float32 what is below 4e-6 counts as that.
      max_iter: at most how many EM steps; a program is compiled for each.
      n_init: random starts, which are run at once; the best is kept.
      init: `elbo.Params` to start from, in place of the starts.
      random_state: an int, a `numpy.random.RandomState`, or None.

    Attributes:
      components_: loadings, [Q, D].
      noise_variance_: [D].
      mean_: [D].
      params_: the `elbo.Params`.
      lower_bound_: mean ln P of the data, nats.
      converged_, n_iter_: of the best run.

    >>> z = np.random.default_rng(0).normal(size=(100, 1))
    >>> X = z @ [[1.0, -2.0, 3.0]] + 0.5 * np.random.default_rng(1).normal(size=(100, 3))
    >>> factors = FactorAnalysis(1, random_state=0).fit_transform(X)
    >>> bool(abs(np.corrcoef(factors[:, 0], z[:, 0])[0, 1]) > 0.98)
    True
    """

    def __init__(
        self,
        n_components: int | None = None,
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

    def fit(self, X: Any, y: Any = None) -> "FactorAnalysis":
        """Fits the model to X, [N, D]; y is ignored.

        Raises:
          ValueError: fewer than two data, or data that are not finite.
        """
        if self.n_components is not None:
            require_count("n_components", self.n_components)
        rows = self._rows(X, least=2)
        start = FactorStart(rows.shape[1] if self.n_components is None else self.n_components)
        self._run(factor_analysis.model(start.latent), start, padded(rows))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """E[factors | row], [N, Q]."""
        return self._means(X)

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draws rows, [n_samples, D], and the factors of each, [n_samples, Q]."""
        check_is_fitted(self)
        require_count("n_samples", n_samples)
        factors, rows = draw(factor_analysis.sample, key_of(self.random_state), self.params_.theta, n_samples)
        return np.array(rows), np.array(factors)

    @staticmethod
    def _attributes(theta: factor_analysis.Theta) -> dict[str, jax.Array]:
        seen = theta.observation
        return dict(components_=seen.weights.T, noise_variance_=seen.scale() ** 2, mean_=seen.bias)

    def _model(self) -> elbo.Model:
        return factor_analysis.model(self._n_features_out)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = kept_dtypes()
        return tags
