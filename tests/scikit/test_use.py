"""Pipelines, searches, copies and files; dtypes; errors; what is compiled when."""

import pickle
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from elbo import Params
from elbo.scikit import CategoricalHMM, FactorAnalysis, GaussianHMM, GaussianMixture, PoissonHMM, _programs

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(size=(60, 2)), 6 + RNG.normal(size=(40, 2))])
SEQUENCES = np.concatenate([X[:20], X[60:80], X[20:40], X[80:]])
SAME = dict(random_state=0, max_iter=100)  # so that the tests share programs


def test_pipelines_and_searches_use_one_program_for_all_folds_and_tolerances():
    before = _programs._climb._cache_size()
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(2, **SAME))
    # folds of 66 and 67 rows
    search = GridSearchCV(pipeline, {"gaussianmixture__tol": [1e-3, 1e-6]}, cv=3).fit(X[RNG.permutation(100)])
    assert _programs._climb._cache_size() - before <= 1
    assert search.best_estimator_.predict_proba(X).shape == (100, 2)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_fits_of_one_shape_share_a_program():
    GaussianHMM(2, **SAME).fit(SEQUENCES, lengths=[40, 40])
    sizes = [f._cache_size() for f in (_programs._starts, _programs._climb, _programs.read)]
    GaussianHMM(2, max_iter=100, tol=1e-4, random_state=3).fit(SEQUENCES[:70] + 1, lengths=[30, 40])
    assert sizes == [f._cache_size() for f in (_programs._starts, _programs._climb, _programs.read)]


def test_more_starts_are_no_worse_and_the_best_is_kept():
    few = GaussianMixture(2, n_init=1, **SAME).fit(X)
    many = GaussianMixture(2, n_init=4, **SAME).fit(X)
    assert many.lower_bound_ >= few.lower_bound_ - 1e-5
    assert jax.tree.leaves(many.params_)[0].ndim == 1  # one model, not a stack


def test_a_fit_goes_on_from_the_parameters_of_another():
    fitted = GaussianMixture(2, **SAME).fit(X)
    again = clone(GaussianMixture(2, init=fitted.params_, **SAME)).fit(X)
    assert again.converged_ and again.n_iter_ < fitted.n_iter_ + 1
    np.testing.assert_allclose(again.score(X), fitted.score(X), rtol=1e-5)
    with pytest.raises(TypeError, match=r"init: got a dict, expected elbo\.Params"):
        GaussianMixture(2, init={}).fit(X)


def test_what_is_pickled_says_the_same():
    fitted = GaussianMixture(2, **SAME).fit(X)
    read = pickle.loads(pickle.dumps(fitted))
    assert isinstance(read.params_, Params)
    np.testing.assert_array_equal(read.predict(X), fitted.predict(X))
    assert read.score(X) == fitted.score(X)
    chain = GaussianHMM(2, **SAME).fit(SEQUENCES, lengths=[40, 40])
    read = pickle.loads(pickle.dumps(chain))
    assert read.score(SEQUENCES, lengths=[40, 40]) == chain.score(SEQUENCES, lengths=[40, 40])


@pytest.mark.parametrize("given", [np.float32, np.float64, np.int32])
def test_float32_is_computed_in_whatever_is_given(given):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = GaussianMixture(2, **SAME).fit(X.astype(given))
        assert fitted.means_.dtype == fitted.predict_proba(X.astype(given)).dtype == np.float32


def test_float64_where_jax_computes_in_it(x64):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = GaussianMixture(2, **SAME).fit(X)
        assert fitted.means_.dtype == fitted.score_samples(X).dtype == np.float64
        # a start in float32 does not hold it back
        start = jax.tree.map(lambda a: np.asarray(a, np.float32), fitted.params_)
        assert GaussianMixture(2, init=start, **SAME).fit(X).means_.dtype == np.float64
        assert FactorAnalysis().__sklearn_tags__().transformer_tags.preserves_dtype == ["float64"]


def test_padding_tells_nothing():
    """Rows and frames are padded up to 256: the same numbers come out of twice the data, and of sequences alone."""
    one = GaussianMixture(2, **SAME).fit(X)
    twice = GaussianMixture(2, init=one.params_, max_iter=100).fit(np.concatenate([X, X]))
    np.testing.assert_allclose(np.sort(one.weights_), np.sort(twice.weights_), atol=1e-4)
    hmm = GaussianHMM(2, **SAME).fit(SEQUENCES, lengths=[40, 40])
    apart = hmm.score(SEQUENCES[:40]) + hmm.score(SEQUENCES[40:])
    np.testing.assert_allclose(hmm.score(SEQUENCES, lengths=[40, 40]), apart, rtol=1e-5)
    np.testing.assert_allclose(
        hmm.predict_proba(SEQUENCES, [40, 40])[40:], hmm.predict_proba(SEQUENCES[40:]), atol=1e-5
    )
    many = hmm.predict_proba(np.tile(SEQUENCES[:40], (20, 1)), [40] * 20).reshape(20, 40, 2)
    np.testing.assert_allclose(many, np.broadcast_to(hmm.predict_proba(SEQUENCES[:40]), many.shape), atol=1e-5)


def test_frames_that_are_missing_are_summed_out():
    hmm = GaussianHMM(2, **SAME).fit(SEQUENCES, lengths=[40, 40])
    missing = SEQUENCES.copy()
    missing[[3, 50]] = np.nan
    assert hmm.score(missing, lengths=[40, 40]) > hmm.score(SEQUENCES, lengths=[40, 40])  # by what the frames cost
    assert (hmm.predict(missing, [40, 40]) == hmm.predict(SEQUENCES, [40, 40])).mean() > 0.9
    with pytest.raises(ValueError, match="infinity"):
        hmm.score(np.where(np.isnan(missing), np.inf, missing))


def test_samples_are_what_the_model_says():
    mixture = GaussianMixture(2, **SAME).fit(X)
    rows, which = mixture.sample(500)
    assert rows.shape == (500, 2) and (mixture.predict(rows) == which).mean() > 0.99
    factors = FactorAnalysis(1, **SAME).fit(X)
    rows, z = factors.sample(3)
    assert rows.shape == (3, 2) and z.shape == (3, 1)
    hmm = GaussianHMM(2, **SAME).fit(SEQUENCES, lengths=[40, 40])
    frames, states = hmm.sample(300, random_state=1)
    assert (hmm.predict(frames) == states).mean() > 0.95
    symbols = CategoricalHMM(2, n_features=3, **SAME).fit([[0], [1], [2], [1]]).sample(4)[0]
    assert symbols.shape == (4, 1) and symbols.dtype == np.int32


def test_names_of_factors():
    factors = FactorAnalysis(1, **SAME).fit(X)
    assert factors.get_feature_names_out().tolist() == ["factoranalysis0"]


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (GaussianMixture(0), "n_components: got 0, expected a whole number >= 1"),
        (GaussianMixture(True), "n_components: got True"),
        (GaussianMixture(2, n_init=0), "n_init: got 0"),
        (GaussianMixture(2, max_iter=2.5), "max_iter: got 2.5"),
        (GaussianMixture(2, tol=-1.0), "tol: got -1.0, expected a number >= 0"),
        (GaussianMixture(2, tol=np.nan), "tol: got nan"),
        (GaussianMixture(101), "got n_samples = 100, expected at least n_components = 101"),
        (GaussianMixture(2, covariance_type="round"), "covariance_type: got 'round'"),
        (FactorAnalysis(0), "n_components: got 0"),
        (GaussianHMM(0), "n_components: got 0"),
        (CategoricalHMM(2), "got 2 columns, expected one column of symbols"),
        (PoissonHMM(2), "Negative values in data passed to PoissonHMM"),
    ],
)
def test_errors_name_the_argument(estimator, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(X)


def test_errors_of_sequences():
    hmm = GaussianHMM(2, **SAME)
    for lengths in ([50, 49], [100, 0], [50.0, 50.0], 100):
        with pytest.raises(ValueError, match=r"lengths: got .* add up to the 100 rows of X"):
            hmm.fit(X, lengths=lengths)
    with pytest.raises(ValueError, match=r"y: got \[50, 50\] beside 100 rows of X.* lengths=\.\.\."):
        hmm.fit(X, [50, 50])  # as in hmmlearn: it would be ignored in silence
    with pytest.raises(ValueError, match="expected counts 0, 1, 2"):
        PoissonHMM(2).fit(abs(X))
    symbols = CategoricalHMM(2, n_features=3, **SAME).fit([[0], [1], [2], [1]])
    with pytest.raises(ValueError, match="got the symbol 3, expected symbols below 3"):
        symbols.predict([[0], [3]])
    with pytest.raises(ValueError, match="got the symbol 2, expected symbols below 2"):
        CategoricalHMM(2, n_features=2).fit([[0], [2]])


def test_a_fit_that_is_not_done_warns():
    with pytest.warns(ConvergenceWarning, match="GaussianMixture: max_iter=1 steps did not reach tol=0.001"):
        GaussianMixture(2, max_iter=1, tol=1e-3, random_state=0).fit(X)


def test_without_scikit_learn_the_error_names_the_extra():
    code = "import sys; sys.modules['sklearn'] = None; import elbo; import elbo.scikit"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode and "ImportError" in done.stderr and "jax-elbo[sklearn]" in done.stderr
