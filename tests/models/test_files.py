"""save and load: every model's parameters come back as they were, without a template and without pickle."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo.models import factor_analysis, hmm, linear_gaussian_chain, mixture, pcfg, vae
from elbo.models.families import Bernoulli, Categorical, LinearGaussian, Normal, Poisson

KEY = jax.random.key(0)
YS = jax.random.normal(KEY, (12, 2))
SERIES = YS.reshape(3, 4, 2)
ROWS = {
    "mixture": lambda: mixture.init(KEY, YS, 2),
    "diagonal": lambda: mixture.init(KEY, YS, 2, covariance_type="diag"),
    "factors": lambda: factor_analysis.init(KEY, YS, 1),
    "hmm": lambda: hmm.init(KEY, SERIES, 2),
    "stationary hmm": lambda: hmm.init(KEY, SERIES, 2, start="stationary"),
    "kalman": lambda: linear_gaussian_chain.init(KEY, SERIES, 1),
    "grammar": lambda: pcfg.init(KEY, 2, 3, 5),
    "vae": lambda: vae.build(KEY, 4, 2, hidden=(3,))[1],
    "own": lambda: elbo.Params({"a": [jnp.arange(3), (jnp.ones(()), None)], "b": jnp.zeros((0, 2))}),
    "half": lambda: elbo.Params(Normal.create(jnp.zeros((2, 1), jnp.bfloat16), jnp.ones((2, 1), jnp.bfloat16))),
    "families": lambda: elbo.Params(
        (
            Poisson.create(jnp.ones((2, 1))),
            Bernoulli.create(jnp.full((2, 3), 0.5)),
            Categorical.create(jnp.array([0.0, 0.4, 0.6])),
            LinearGaussian.create(jnp.ones((2, 1)), jnp.zeros(2), jnp.ones(2), known=("weights",)),
        )
    ),
}


@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS)
def test_parameters_come_back_as_they_were(make, tmp_path):
    params = make()
    elbo.save(tmp_path / "a", params)
    for seen in (elbo.load(tmp_path / "a"), elbo.load(tmp_path / "a", like=params)):
        assert jax.tree.structure(seen) == jax.tree.structure(params)
        for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(params), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Foreign:
    scale: jax.Array


def test_a_class_of_another_package_needs_a_template(tmp_path):
    params = elbo.Params(Foreign(jnp.ones(2)))
    elbo.save(tmp_path / "a", params)
    with pytest.raises(ValueError, match="like: got None, expected .*Foreign is no class of elbo"):
        elbo.load(tmp_path / "a")
    seen = elbo.load(tmp_path / "a", like=elbo.Params(Foreign(jnp.zeros(2))))
    np.testing.assert_array_equal(seen.theta.scale, jnp.ones(2))
    with pytest.raises(ValueError, match=r"\.theta\.scale is stored as \(\(2,\), 'float32'\), expected \(\(3,\)"):
        elbo.load(tmp_path / "a", like=elbo.Params(Foreign(jnp.zeros(3))))


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder: .* is not there"):
        elbo.load(tmp_path / "nothing")
    elbo.save(tmp_path / "a", ROWS["mixture"]())
    with pytest.raises(ValueError, match="is stored, and not expected"):
        elbo.load(tmp_path / "a", like=ROWS["diagonal"]())
    elbo.save(tmp_path / "a", ROWS["diagonal"]())  # replaces what was there
    elbo.load(tmp_path / "a", like=ROWS["diagonal"]())
