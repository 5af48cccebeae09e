"""What all estimators have in common: their arguments, the run, and what is said of it."""

import warnings
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

import elbo
from elbo import optim
from elbo.extend import PyTree
from elbo.models import criteria

from ._programs import Data, Start, dtype, fit, go_on, read


class Estimator(BaseEstimator):
    """An estimator that EM fits; the arguments below are those of all."""

    n_init: int
    max_iter: int
    tol: float
    init: elbo.Params | None
    random_state: Any

    @staticmethod
    def _attributes(theta: PyTree) -> dict[str, jax.Array]:
        """What is told of the parameters, by the names of the attributes."""
        raise NotImplementedError

    def _run(self, model: elbo.Model, start: Start, data: Data) -> None:
        """Fits, and sets the attributes."""
        for name in ("n_init", "max_iter"):
            require_count(name, getattr(self, name))
        if isinstance(self.tol, bool) or not isinstance(self.tol, int | float | np.number) or not self.tol >= 0:
            raise ValueError(f"tol: got {self.tol!r}, expected a number >= 0 (0: take all of max_iter steps)")
        if self.init is None:
            keys = jax.random.split(key_of(self.random_state), self.n_init)
            found = fit(model, start, data, keys, self.max_iter, float(self.tol))
        else:
            if not isinstance(self.init, elbo.Params):
                raise TypeError(
                    f"init: got a {type(self.init).__name__}, expected elbo.Params, such as the params_ of an "
                    "estimator that is fitted, or None"
                )
            found = go_on(model, self.init, data, self.max_iter, float(self.tol))
        reason = optim.Reason(int(found.reason))
        self.params_ = found.params
        for name, told in read(self._attributes, found.params.theta).items():
            setattr(self, name, np.array(told))
        self.n_iter_ = int(found.steps)
        self.lower_bound_ = float(found.final.objective)
        self.converged_ = reason is optim.Reason.CONVERGED
        self._warn(reason, int(found.final.dropped))

    def _warn(self, reason: optim.Reason, dropped: int) -> None:
        name, trouble = type(self).__name__, []
        if reason is optim.Reason.NONFINITE:
            trouble = ["the updates were not finite, and the last good parameters were kept. Look at the scale of X"]
        elif reason is optim.Reason.MAX_STEPS and self.tol > 0:
            trouble = [f"max_iter={self.max_iter} steps did not reach tol={self.tol}. Give more steps or a larger tol"]
        if dropped:
            trouble.append(f"the parameters found call {dropped} of the data impossible, and the fit left these out")
        for text in trouble:
            warnings.warn(f"{name}: {text}", ConvergenceWarning, stacklevel=4)

    def _free_parameters(self) -> int:
        return criteria.free_parameters(self.params_.theta)


def key_of(random_state: Any) -> jax.Array:
    """The PRNG key that a `random_state` of scikit-learn stands for: an int, a `RandomState`, or None for any."""
    return jax.random.key(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def require_count(name: str, value: Any) -> None:
    """Raises unless value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: got {value!r}, expected a whole number >= 1")


def kept_dtypes() -> list[str]:
    """The dtypes that a transformation keeps, for the tags of scikit-learn: the one that it computes in."""
    return [dtype().name]
