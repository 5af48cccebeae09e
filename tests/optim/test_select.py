"""select: what it says of each candidate is what a loop by hand says; padded data sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import optim
from elbo.models import criteria, factor_analysis, hmm, mixture

KEY = jax.random.key(0)
YS = jnp.repeat(jnp.arange(3.0), 15)[:, None] * 2 + 0.3 * jax.random.normal(KEY, (45, 2))


def of(module, size):
    model = module.model(size)
    return optim.Candidate(optim.em_step(model), lambda key, ys, w: module.init(key, ys, size, weights=w), model)


def test_rows_are_those_of_a_loop():
    choices = {k: of(mixture, k) for k in (1, 3)}
    table = optim.select(choices, YS, KEY, restarts=2, short=5, keep=2, steps=60, folds=2)
    start_key, fold_key = jax.random.split(KEY)
    part = jax.random.permutation(fold_key, jnp.arange(45) % 2)
    for name, row in zip(choices, table.rows, strict=True):
        candidate = choices[name]

        def fitted(weights, candidate=candidate):
            starts = [candidate.init(k, YS, weights) for k in jax.random.split(start_key, 2)]
            runs = [optim.run(candidate.rule, s, YS, steps=65, tolerance=1e-6, weights=weights) for s in starts]
            return max(runs, key=lambda r: float(r.final.objective)).params

        values = elbo.evidence(candidate.model)
        params = fitted(jnp.ones(45))
        np.testing.assert_allclose(row.log_likelihood, values(params, YS).sum(), rtol=1e-4)
        assert row.parameters == criteria.free_parameters(params.theta)
        np.testing.assert_allclose(row.aic, criteria.aic(row.log_likelihood, row.parameters))
        np.testing.assert_allclose(row.bic, criteria.bic(row.log_likelihood, row.parameters, 45))
        held = [values(fitted(jnp.where(part == i, 0.0, 1.0)), YS)[part == i].sum() for i in range(2)]
        np.testing.assert_allclose(row.held_out, sum(held) / 45, rtol=1e-3)
    assert table.best("bic").name == table.best("held_out").name == 3
    assert str(table).count("\n") == 2 and "CONVERGED" in str(table)


@pytest.mark.parametrize(("module", "ys"), [(hmm, YS.reshape(9, 5, 2)), (factor_analysis, YS)], ids=["hmm", "factors"])
def test_other_models_and_a_bound_on_the_memory(module, ys):
    options = dict(restarts=2, short=3, keep=1, steps=5)
    whole = optim.select({1: of(module, 1)}, ys, KEY, **options).rows[0]
    bounded = optim.select({1: of(module, 1)}, ys, KEY, at_once=1, **options).rows[0]
    np.testing.assert_allclose(whole.log_likelihood, bounded.log_likelihood, rtol=1e-5)
    assert whole.held_out is None


def test_errors():
    with pytest.raises(ValueError, match="folds: got 1, expected 0, or 2 to 45"):
        optim.select({}, YS, KEY, folds=1)
    table = optim.Selection([optim.select({1: of(mixture, 1)}, YS, KEY, restarts=1, steps=2).rows[0]])
    with pytest.raises(ValueError, match="held_out is not known of every candidate"):
        table.best("held_out")
    with pytest.raises(ValueError, match="criterion: got 'dic'"):
        table.best("dic")


def test_stacked_data_sets_are_fitted_as_each_alone():
    rule = optim.em_step(mixture.model(2))
    sets = [YS[:20], YS[:45], YS[15:37]]
    batch = elbo.stack(sets)
    weights = jax.vmap(elbo.Padded.mask)(batch).astype(float)

    @jax.jit
    @jax.vmap
    def both(ys, weights):
        start = mixture.init(KEY, ys, 2, weights=weights)
        return start, optim.run(rule, start, ys, steps=10, weights=weights).params

    starts, seen = both(batch.values, weights)
    for i, ys in enumerate(sets):
        alone = optim.run(rule, jax.tree.map(lambda a, i=i: a[i], starts), ys, steps=10).params
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-4), seen, alone)


@pytest.mark.parametrize(
    ("values", "lengths"),
    [([], None), ([np.ones(2), np.ones((2, 1))], None), ([np.ones(0)], None), (np.ones(3), [1, 1]), (np.ones(3), None)],
)
def test_stack_refuses_what_is_no_batch(values, lengths):
    with pytest.raises(ValueError, match="values|lengths"):
        elbo.stack(values, lengths)
