"""Independent data: the rows of X, padded, and the numbers of the padding cut off."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

import elbo
from elbo.models import criteria

from ._base import Estimator
from ._programs import Data, dtype, means, size


class RowsEstimator(Estimator):
    """An estimator whose data are the rows of X, [n_samples, n_features]."""

    def score_samples(self, X: Any) -> np.ndarray:
        """ln P of each row, nats, [N]."""
        rows = self._seen(X)
        return np.array(elbo.evidence(self._model())(self.params_, padded(rows).ys)[: len(rows)])

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of ln P, nats."""
        return float(self.score_samples(X).mean(dtype=np.float64))

    def aic(self, X: Any) -> float:
        """Akaike's criterion on X; smaller is better."""
        return criteria.aic(self.score_samples(X), self._free_parameters())

    def bic(self, X: Any) -> float:
        """Schwarz's criterion on X; smaller is better."""
        log_p = self.score_samples(X)
        return criteria.bic(log_p, self._free_parameters(), len(log_p))

    def _model(self) -> elbo.Model:
        raise NotImplementedError

    def _rows(self, X: Any, least: int = 1) -> np.ndarray:
        """X to fit: checked, in the dtype that is computed in."""
        return validate_data(self, X, dtype=dtype(), ensure_min_samples=least)

    def _seen(self, X: Any) -> np.ndarray:
        """X to ask about: as wide as what was fitted."""
        check_is_fitted(self)
        return validate_data(self, X, dtype=dtype(), reset=False)

    def _means(self, X: Any) -> np.ndarray:
        rows = self._seen(X)
        return np.array(means(self._model(), self.params_, padded(rows).ys)[: len(rows)])


def padded(rows: np.ndarray) -> Data:
    """The rows with copies of the first up to one of few sizes, of weight 0."""
    count, all_of_them = len(rows), size(len(rows), 256)
    ys = np.concatenate([rows, np.broadcast_to(rows[:1], (all_of_them - count, *rows.shape[1:]))])
    return Data(ys, (np.arange(all_of_them) < count).astype(rows.dtype))
