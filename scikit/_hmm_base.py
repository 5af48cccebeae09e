"""What the hidden Markov models have in common."""

from typing import Any, Self

import jax
import numpy as np
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data

import elbo
from elbo.models import criteria, hmm, hmm_inference

from ._base import Estimator, key_of, require_count
from ._programs import Start, draw
from ._sequences import Sequences, refuse_lengths, sequences


class HMM(DensityMixin, Estimator):
    """A hidden Markov model. A subclass says where it starts, what frames it takes, and how its emission is told."""

    n_components: int

    def fit(self, X: Any, y: Any = None, *, lengths: Any = None) -> Self:
        """Fits the model to sequences.

        Args:
          X: the frames of all sequences in a row, [n_samples, D].
          y: ignored.
          lengths: the number of frames of each sequence, which add up to n_samples; None for one sequence.

        Raises:
          ValueError: lengths that do not add up, or frames that the emission cannot give.
        """
        require_count("n_components", self.n_components)
        refuse_lengths(y, X)
        seen = self._seen(X, lengths, reset=True)
        self._run(self._model(), self._start(seen), seen.data)
        return self

    def predict(self, X: Any, lengths: Any = None) -> np.ndarray:
        """The states of the most probable path of each sequence (Viterbi), int [n_samples]."""
        return self.decode(X, lengths)[1]

    def decode(self, X: Any, lengths: Any = None) -> tuple[float, np.ndarray]:
        """ln P of the most probable paths, the sum over sequences, and their states, int [n_samples].

        The states are −1 where every path of a sequence is impossible.
        """
        seen = self._seen(X, lengths)
        found = hmm_inference.decode(self._model(), self.params_, seen.data.ys)
        return _total(found.score, seen), seen.in_a_row(found.states)

    def predict_proba(self, X: Any, lengths: Any = None) -> np.ndarray:
        """P(state of a frame | all of its sequence), [n_samples, K]."""
        seen = self._seen(X, lengths)
        return seen.in_a_row(hmm_inference.smooth(self._model(), self.params_, seen.data.ys))

    def score(self, X: Any, y: Any = None, *, lengths: Any = None) -> float:
        """ln P, nats, the sum over sequences; y is ignored."""
        refuse_lengths(y, X)
        return self._log_probability(self._seen(X, lengths))

    def score_samples(self, X: Any, lengths: Any = None) -> tuple[float, np.ndarray]:
        """ln P, the sum over sequences, and `predict_proba`: as in hmmlearn, unlike in scikit-learn."""
        return self.score(X, lengths=lengths), self.predict_proba(X, lengths)

    def aic(self, X: Any, lengths: Any = None) -> float:
        """Akaike's criterion on X; smaller is better."""
        return criteria.aic(self.score(X, lengths=lengths), self._free_parameters())

    def bic(self, X: Any, lengths: Any = None) -> float:
        """Schwarz's criterion on X, whose data are the frames; smaller is better."""
        seen = self._seen(X, lengths)
        return criteria.bic(self._log_probability(seen), self._free_parameters(), int(seen.places.sum()))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws one sequence: its frames, [n_samples, D], and their states, int [n_samples].

        The estimator's own `random_state` is used where none is given.
        """
        check_is_fitted(self)
        require_count("n_samples", n_samples)
        key = key_of(self.random_state if random_state is None else random_state)
        states, frames = draw(hmm.sample, key, self.params_.theta, n_samples)
        return np.array(frames).reshape(n_samples, -1), np.array(states)

    def _model(self) -> elbo.Model:
        return hmm.model(self.n_components)

    def _start(self, seen: Sequences) -> Start:
        raise NotImplementedError

    def _frames(self, X: np.ndarray, reset: bool) -> np.ndarray:
        """The frames [n_samples, ...] in X [n_samples, D], which is checked by `_checks`; reset: to fit."""
        raise NotImplementedError

    def _seen(self, X: Any, lengths: Any, reset: bool = False) -> Sequences:
        if not reset:
            check_is_fitted(self)
        X = validate_data(self, X, reset=reset, **self._checks())
        return sequences(self._frames(X, reset), lengths)

    def _checks(self) -> dict[str, Any]:
        return {}

    def _log_probability(self, seen: Sequences) -> float:
        return _total(elbo.evidence(self._model())(self.params_, seen.data.ys), seen)


def chain_attributes(theta: hmm.Theta) -> dict[str, jax.Array]:
    """Those of the chain, by hmmlearn's names."""
    assert theta.initial is not None  # the chains here have a first state of their own
    return dict(startprob_=theta.initial.probabilities(), transmat_=theta.transition.probabilities())


def _total(values: Any, seen: Sequences) -> float:
    return float(np.sum(np.asarray(values, np.float64)[: seen.used]))
