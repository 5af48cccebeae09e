"""What fit tells of updates that were rejected and of data that were left out: step, leaf and datum, by their names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import mixture
from elbo.models.families import Normal

KEY = jax.random.key(0)
BAD = 7.5
"""A datum at which the model has a value and no slope."""


def log_joint(theta, z, y):
    # √ has no slope at 0
    edge = jnp.sqrt(((y[0] - BAD) * theta["mean"][0]) ** 2)
    return z @ (-0.5 * (y[0] - theta["mean"]) ** 2 + jax.nn.log_softmax(theta["logits"])) - 0.01 * edge


EXACT = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
AMORTISED = elbo.Model(log_joint, lambda psi, y: elbo.CategoricalPosterior(psi["slope"] * y[0] + psi["offset"]))
THETA = {"logits": jnp.zeros(2), "mean": jnp.array([0.5, 1.0])}
PSI = {"slope": jnp.array([0.0, 1.0]), "offset": jnp.zeros(2)}
GRADIENT = {
    "eg": (optim.eg_step(EXACT, optax.sgd(0.1)), elbo.Params.tied(THETA)),
    "vae": (optim.vae_step(AMORTISED, optax.sgd(0.1)), elbo.Params(THETA, PSI)),
}


def data(*bad, size=12):
    ys = np.random.default_rng(0).normal(size=(size, 1)).astype(np.float32)
    ys[list(bad)] = BAD
    return ys


def fit(rule, params, ys, match, **options):
    options = {"key": KEY, "steps": 5, "progress": False, **options}
    with pytest.warns(RuntimeWarning, match=match):
        return optim.fit(rule, params, ys, **options)


@pytest.mark.parametrize("kind", GRADIENT)
def test_a_gradient_names_the_datum_and_the_leaf(kind):
    rule, params = GRADIENT[kind]
    ys = data(4, 9)
    match = r"update 0 is the first that was rejected: not finite in theta.mean \(the gradient\), because of "
    seen = fit(rule, params, jnp.asarray(ys), match + "data 4, 9")
    assert seen.trouble == optim.Trouble(0, ("theta.mean",), "gradient", (4, 9))
    stream = fit(rule, params, optim.Batches(ys, 5), match + "batch 0 row 4")
    assert stream.trouble == optim.Trouble(0, ("theta.mean",), "gradient", ((0, 4),))
    jax.tree.map(np.testing.assert_array_equal, seen.params, params)


def test_the_first_of_minibatches_is_found_within_a_chain():
    rule, params = GRADIENT["eg"]
    ys, chained = data(10), optim.chain(optim.repeat(rule, 2), rule)
    batches = optim.minibatches(optim.chain(optim.restrict(rule, "theta.logits"), chained), 4)
    memory = fit(batches, params, jnp.asarray(ys), "because of datum 10")
    stream = fit(batches, params, optim.Batches(ys, 5), "because of batch 2 row 0")
    assert memory.trouble.leaves == stream.trouble.leaves == ("theta.mean",)
    weighted = fit(batches, params, jnp.asarray(ys), "datum 10", weights=jnp.ones(12).at[3].set(0))
    assert weighted.trouble.data == (10,)


def test_a_step_of_the_optimiser():
    """From the fourth update on the rate is not finite; the search begins within a block."""
    params, ys = GRADIENT["eg"][1], data()
    rule = optim.eg_step(EXACT, optax.sgd(lambda count: jnp.where(count < 3, 0.1, jnp.inf)))
    seen = fit(rule, params, jnp.asarray(ys), "update 3 is the first", every=5)
    assert seen.trouble.step == 3 and seen.trouble.what == "optimizer" and seen.trouble.data == ()
    assert "theta.mean" in seen.trouble.leaves
    stream = fit(rule, params, optim.Batches(ys, 5), "update 3 is the first")
    assert stream.trouble == seen.trouble


MODEL = mixture.model(2)


def mixed(ys):
    components = Normal.create(jnp.array([[0.0], [1.0]]), jnp.ones((2, 1)))
    return elbo.Params.tied(mixture.init(KEY, jnp.asarray(ys), 2).theta._replace(components=components))


def test_statistics_name_their_family_and_datum():
    ys = data()
    weights = np.ones(12, np.float32)
    weights[6] = 3e38  # its squares overflow
    ys[6] = 9.0
    rule, params = optim.em_step(MODEL), mixed(ys)
    match = r"theta.components \(the expected statistics\), because of "
    seen = fit(rule, params, jnp.asarray(ys), match + "datum 6", weights=jnp.asarray(weights))
    assert seen.trouble.step == 0 and seen.trouble.what == "statistics" and seen.trouble.data == (6,)
    assert fit(rule, params, optim.Batches(ys, 5, weights), match).trouble.data == ((1, 1),)
    blocks = optim.incremental_em_step(MODEL, 3)
    assert fit(blocks, params, jnp.asarray(ys), match, weights=jnp.asarray(weights)).trouble.data == (6,)


def test_a_damped_m_step_and_the_gradient_of_an_encoder():
    params, ys = mixed(data()), jnp.asarray(data())
    damped = optim.damp(MODEL, optim.em_step(MODEL), lambda t: 0.3 + 2.0 * t)
    seen = fit(damped, params, ys, r"update 1 is .* theta.weights, theta.components \(the closed-form M step")
    assert seen.trouble.step == 1 and seen.trouble.what == "m step"
    amortised = elbo.Model(MODEL.log_joint, AMORTISED.encoder)
    reckless = optim.vem_step(amortised, optax.sgd(float("inf")))
    seen = fit(reckless, elbo.Params(params.theta, PSI), ys, "update 0")
    assert seen.trouble.leaves == ("psi.offset", "psi.slope") and seen.trouble.what == "optimizer"


def test_data_that_are_left_out_are_named():
    ys = data()
    params = mixed(ys)
    ys[[1, 8]] = np.nan
    rules = {
        "em": optim.em_step(MODEL),
        "eg": optim.eg_step(MODEL, optax.sgd(0.01)),
        "minibatches": optim.minibatches(optim.eg_step(MODEL, optax.sgd(0.01)), 5),
    }
    for rule in rules.values():
        memory = fit(rule, params, jnp.asarray(ys), r"2 data dropped \(data 1, 8\)")
        stream = fit(rule, params, optim.Batches(ys, 5), r"2 data dropped \(batch 0 row 1, batch 1 row 3\)")
        assert memory.trouble == optim.Trouble(dropped=(1, 8))
        assert stream.trouble == optim.Trouble(dropped=((0, 1), (1, 3)))
    many = np.full((12, 1), np.nan, np.float32)
    many[0] = 0
    assert fit(rules["em"], params, jnp.asarray(many), r"data 1, 2, 3, 4, 5, \.\.\.").trouble.dropped == (1, 2, 3, 4, 5)
    wrong = jnp.ones(12).at[5].set(jnp.nan)
    assert fit(rules["em"], params, jnp.asarray(data()), r"\(datum 5\)", weights=wrong).trouble.dropped == (5,)


def test_nothing_is_looked_for_where_all_is_well_and_a_search_that_fails_costs_nothing(monkeypatch):
    import elbo.optim._search as module

    def fails(*args):
        raise MemoryError

    monkeypatch.setattr(module, "rejected", fails)
    monkeypatch.setattr(module, "dropped", fails)
    rule, params = GRADIENT["eg"]
    well = optim.fit(rule, params, jnp.asarray(data()), steps=2, progress=False)
    assert well.trouble is None
    assert fit(rule, params, jnp.asarray(data(4)), "update 0 is the first").trouble == optim.Trouble(0)


def test_a_rule_of_ones_own_does_not_tell():
    def update(key, params, state, ys, *, weights=None):
        return params, state, optim.Info(jnp.zeros(()), jnp.zeros(()), finite=jnp.array(False))

    seen = fit(
        optim.Rule(lambda params: (), update), elbo.Params.tied(THETA), jnp.ones((3, 1)), "update 0 is the first"
    )
    assert seen.trouble == optim.Trouble(0) and seen.reason is optim.Reason.MAX_STEPS
