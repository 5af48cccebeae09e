"""select: what it says of each candidate is what a loop by hand says; padded data sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import optim
from elbo.models import criteria, factor_analysis, hmm, mixture
from elbo.models.families import Categorical, Normal
from elbo.optim._select import Row

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


def row(name, bic, held_out=None, aic=None):
    return Row(name, None, -bic / 2, 1, aic, bic, held_out, optim.Reason.CONVERGED, 1)


def test_a_candidate_that_cannot_use_the_data_ends_nothing_and_never_wins():
    table = optim.select({k: of(mixture, k) for k in (1, 2)}, YS.at[0].set(jnp.nan), KEY, restarts=1, short=1, steps=1)
    assert all(np.isnan([r.log_likelihood, r.aic, r.bic]).all() for r in table.rows)
    assert optim.Selection([row("nan", np.nan), row("worse", 3.0), row("better", 2.0)]).best("bic").name == "better"


def test_free_parameters_are_those_of_a_model_of_your_own_too():
    def log_joint(theta, z, y):
        return theta["kind"].log_prob(z) + z @ theta["point"].log_prob(y)

    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    theta = {"kind": Categorical.create(jnp.ones(2) / 2), "point": Normal.create(YS[:2], jnp.ones((2, 2)))}
    candidate = optim.Candidate(optim.em_step(model), lambda key, ys, w: elbo.Params.tied(theta), model)
    assert optim.select({"mine": candidate}, YS, KEY, restarts=1, short=1, steps=1).rows[0].parameters == 1 + 2 * 4


def test_picture():
    pytest.importorskip("matplotlib").use("agg")
    rows = [row(3, 9.0, -2.0, 6.0), row(1, 8.0, -1.5, 7.0), row(7, 8.5, -3.0, 6.5)]
    above, below = optim.Selection(rows).plot().axes
    for axis, name, best in ((above, "aic", 3), (above, "bic", 1), (below, "held_out", 1)):
        curve, ring = (axis.lines[2 * ["aic", "bic"].index(name) :] if axis is above else axis.lines)[:2]
        assert curve.get_xdata().tolist() == [3, 1, 7] and ring.get_xdata().tolist() == [best]
        assert curve.get_ydata().tolist() == [getattr(r, name) for r in rows]
    # without folds, and with names that are no numbers
    above, below = optim.Selection([row("a", 9.0), row("b", 8.0)]).plot().axes
    assert [text.get_text() for text in below.get_xticklabels()] == ["a", "b"]
    assert above.get_legend_handles_labels()[1] == ["BIC"]
    assert below.get_legend_handles_labels()[1] == ["ln P of all data"] and "larger" in below.get_ylabel()


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
