"""Estimators in the manner of scikit-learn and hmmlearn, for its pipelines and searches; they need the extra `sklearn`.

They hold no mathematics. What they say is what `elbo.optim` and `elbo.models` say, in NumPy arrays and under the names
that these libraries use; `params_` is the `elbo.Params` beneath. They compute in float32, or in float64 where JAX does
(`jax.config.update("jax_enable_x64", True)`), whatever the dtype of the data.
"""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "elbo.scikit needs scikit-learn, which the extra `sklearn` installs: pip install 'jax-elbo[sklearn]'"
    ) from error

from ._factor_analysis import FactorAnalysis
from ._hmm import CategoricalHMM, GaussianHMM, PoissonHMM
from ._mixture import GaussianMixture

__all__ = ["CategoricalHMM", "FactorAnalysis", "GaussianHMM", "GaussianMixture", "PoissonHMM"]
