"""scikit-learn's own checks of an estimator: what they ask is true, or it is said here why it does not apply."""

import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from elbo.scikit import CategoricalHMM, FactorAnalysis, GaussianHMM, GaussianMixture, PoissonHMM

# With one state, as these checks ask for, predict and predict_proba pass them: see the last test.
# With more a frame means something in its sequence only, and they could not.
AS_HMMLEARN = dict.fromkeys(
    ["check_methods_sample_order_invariance", "check_methods_subset_invariance"],
    "score_samples gives ln P of the sequences and the posteriors, as in hmmlearn, and not a number for each row",
)
# All checks that fit, or that look for the message of another error.
ONE_COLUMN = dict.fromkeys(
    """
    check_fit_score_takes_y check_estimators_overwrite_params check_dont_overwrite_parameters
    check_estimators_fit_returns_self check_readonly_memmap_input check_n_features_in_after_fitting
    check_positive_only_tag_during_fit check_estimators_dtypes check_dtype_object check_pipeline_consistency
    check_estimators_nan_inf check_estimators_pickle check_f_contiguous_array_estimator
    check_methods_sample_order_invariance check_methods_subset_invariance check_fit2d_1sample check_dict_unchanged
    check_fit_idempotent check_fit_check_is_fitted check_n_features_in check_fit2d_predict1d
    """.split(),
    "the check gives several columns, and symbols are one",
)


class _FirstColumn:
    """Looks at the first of several columns: symbols are one, and a program is compiled for each number of columns."""

    def _frames(self, X, reset):
        return super()._frames(X[:, :1], reset)


class Frames(_FirstColumn, GaussianHMM):
    pass


class Symbols(_FirstColumn, CategoricalHMM):
    pass


class Counts(_FirstColumn, PoissonHMM):
    pass


def expected_failed_checks(estimator):
    if type(estimator) is CategoricalHMM:
        return ONE_COLUMN
    expected = AS_HMMLEARN if hasattr(estimator, "decode") else {}
    if isinstance(estimator, Symbols | Counts):
        reason = "the negative number is not in the first column"
        expected = expected | {"check_positive_only_tag_during_fit": reason}
    return expected


FEW = dict(max_iter=5)  # and of the models those that compile soon
ESTIMATORS = [
    GaussianMixture(covariance_type="diag", **FEW),
    FactorAnalysis(1, **FEW),
    Frames(**FEW),
    Counts(**FEW),
    CategoricalHMM(**FEW),
    Symbols(n_features=64, **FEW),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failed_checks, xfail_strict=True)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


class _Unscored(GaussianHMM):
    @property
    def score_samples(self):
        raise AttributeError("score_samples")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", AS_HMMLEARN)
def test_what_stands_in_the_way_is_score_samples_alone(name):
    getattr(estimator_checks, name)("GaussianHMM", _Unscored(**FEW))
