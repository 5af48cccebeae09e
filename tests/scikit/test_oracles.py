"""From the same parameters, the estimators go where those of scikit-learn and hmmlearn go."""

import hmmlearn.hmm
import numpy as np
import pytest
import sklearn.decomposition
import sklearn.mixture

from elbo import Params, scikit
from elbo.models import hmm, mixture
from elbo.models.families import Categorical, MultivariateNormal, Normal, Poisson

K, D = 2, 2
MEANS = np.array([[-1.0, 0.0], [1.0, 1.0]])
STAY = np.array([[0.9, 0.1], [0.2, 0.8]])
STEPS = 8
FIXED = dict(init_params="", n_iter=STEPS, tol=-np.inf)  # of hmmlearn
# float32 against float64, after a few steps that are the same but for rounding
CLOSE = dict(rtol=2e-4, atol=2e-4)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def points(count=200):
    rng = np.random.default_rng(0)
    z = np.cumsum(rng.random(count) < 0.15) % 2
    return MEANS[z] + rng.normal(size=(count, D)) * [0.7, 1.2], z


def components(covariance_type):
    if covariance_type == "diag":
        return Normal.create(MEANS, np.ones((K, D)))
    shape = {"full": np.tile(np.eye(D), (K, 1, 1)), "tied": np.eye(D), "spherical": np.ones(K)}
    return MultivariateNormal.create(MEANS, shape[covariance_type], covariance_type=covariance_type)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_mixture_takes_the_steps_of_scikit_learn(covariance_type):
    X, _ = points()
    ones = {"full": np.tile(np.eye(D), (K, 1, 1)), "tied": np.eye(D), "diag": np.ones((K, D)), "spherical": np.ones(K)}
    start = dict(weights_init=np.ones(K) / K, means_init=MEANS, precisions_init=ones[covariance_type])
    options = dict(covariance_type=covariance_type, max_iter=STEPS)
    theirs = sklearn.mixture.GaussianMixture(K, reg_covar=0, tol=0, **start, **options).fit(X)
    params = Params.tied(mixture.Theta(Categorical.create(np.ones(K) / K), components(covariance_type)))
    ours = scikit.GaussianMixture(K, init=params, tol=0, **options).fit(X)
    assert ours.n_iter_ == STEPS
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), err_msg=name, **CLOSE)
    for ask in ("predict_proba", "score_samples", "score", "bic", "aic"):
        np.testing.assert_allclose(getattr(ours, ask)(X), getattr(theirs, ask)(X), err_msg=ask, **CLOSE)
    assert (ours.predict(X) == theirs.predict(X)).all()
    np.testing.assert_allclose(ours.lower_bound_, ours.score(X), rtol=1e-5)


def test_factor_analysis_ends_where_that_of_scikit_learn_does():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 1)) @ [[1.0, -2.0, 1.5, 1.0]] + rng.normal(size=(200, 4)) * [1.0, 1.5, 1.0, 2.0] + 3
    theirs = sklearn.decomposition.FactorAnalysis(1, tol=1e-6, max_iter=5000).fit(X)
    ours = scikit.FactorAnalysis(1, n_init=2, random_state=0).fit(X)
    assert ours.converged_
    np.testing.assert_allclose(ours.score(X), theirs.score(X), atol=1e-3)  # the tolerance of the run, times its rate
    np.testing.assert_allclose(ours.noise_variance_, theirs.noise_variance_, rtol=0.03)
    sign = np.sign(np.sum(ours.components_ * theirs.components_))
    np.testing.assert_allclose(sign * ours.components_, theirs.components_, atol=0.03)
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-4)
    np.testing.assert_allclose(sign * ours.transform(X), theirs.transform(X), atol=0.05)


def chain(emission):
    return Params.tied(hmm.Theta(Categorical.create(np.ones(K) / K), Categorical.create(STAY), emission))


def gaussian(covariance_type):
    ours = scikit.GaussianHMM(K, covariance_type=covariance_type, init=chain(components(covariance_type)))
    theirs = hmmlearn.hmm.GaussianHMM(K, covariance_type=covariance_type, covars_prior=0, **FIXED)
    theirs.means_ = MEANS
    theirs.covars_ = np.ones((K, D)) if covariance_type == "diag" else np.tile(np.eye(D), (K, 1, 1))
    return points()[0], ours, theirs, ["means_", "covars_"]


def categorical():
    rows = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])
    ours = scikit.CategoricalHMM(K, init=chain(Categorical.create(rows)))
    theirs = hmmlearn.hmm.CategoricalHMM(K, n_features=3, **FIXED)
    theirs.emissionprob_ = rows
    symbols = (points()[1] + (np.random.default_rng(1).random(200) < 0.3))[:, None]
    return symbols, ours, theirs, ["emissionprob_"]


def poisson():
    rates = np.array([[1.0, 2.0], [3.0, 2.0]])
    ours = scikit.PoissonHMM(K, init=chain(Poisson.create(rates)))
    theirs = hmmlearn.hmm.PoissonHMM(K, **FIXED)
    theirs.lambdas_ = rates
    counts = np.random.default_rng(1).poisson(np.array([[1.0, 5.0], [6.0, 1.0]])[points()[1]])
    return counts, ours, theirs, ["lambdas_"]


CASES = {
    "diag": lambda: gaussian("diag"),
    "full": lambda: gaussian("full"),
    "categorical": categorical,
    "poisson": poisson,
}


@pytest.mark.parametrize("case", CASES)
def test_hidden_markov_models_take_the_steps_of_hmmlearn(case):
    X, ours, theirs, names = CASES[case]()
    lengths = [120, 50, 30]
    theirs.startprob_, theirs.transmat_ = np.ones(K) / K, STAY
    theirs.fit(X, lengths)
    ours.set_params(max_iter=STEPS, tol=0).fit(X, lengths=lengths)
    for name in ["startprob_", "transmat_", *names]:
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), err_msg=name, **CLOSE)
    np.testing.assert_allclose(ours.score(X, lengths=lengths), theirs.score(X, lengths), rtol=1e-4)
    if case == "full":
        return  # asks nothing else than diag does
    for a, b in zip(ours.score_samples(X, lengths), theirs.score_samples(X, lengths), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-3)
    log_p, states = ours.decode(X, lengths)
    log_q, other = theirs.decode(X, lengths)
    np.testing.assert_allclose(log_p, log_q, rtol=1e-4)
    assert (states == other).all() and (ours.predict(X, lengths) == states).all()
    np.testing.assert_allclose(ours.bic(X, lengths), theirs.bic(X, lengths), rtol=1e-4)
