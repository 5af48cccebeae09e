"""HMMs: EM against hmmlearn and against a loop in NumPy, missing frames, priors, inputs, mixtures, padding."""

import hmmlearn.hmm
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import hmm, hmm_inference
from elbo.models.families import Categorical, LinearGaussian, Normal, Poisson, PseudoData

from .hmms import CENTRES, LENGTHS, REALS, START, STEPS, em, evidence, problem, rng, rng_rows


@pytest.mark.parametrize("kind", ["diagonal", "full", "tied", "poisson", "categorical"])
def test_hmmlearn_agrees_iteration_by_iteration(kind, x64):
    model, params, ys = problem(kind)
    options = dict(n_components=3, n_iter=1, tol=-np.inf, init_params="")
    if kind == "poisson":
        theirs = hmmlearn.hmm.PoissonHMM(**options, lambdas_prior=0, lambdas_weight=0)
        theirs.lambdas_ = np.array([[1.0], [5.0], [9.0]])
    elif kind == "categorical":
        theirs = hmmlearn.hmm.CategoricalHMM(**options, n_features=6)
        theirs.emissionprob_ = rng_rows(3, 6)
    else:
        kinds = {"diagonal": "diag", "full": "full", "tied": "tied"}
        theirs = hmmlearn.hmm.GaussianHMM(
            **options, covariance_type=kinds[kind], covars_prior=0, covars_weight=0, means_weight=0, min_covar=0
        )
        theirs.means_ = CENTRES
        eye = {"diagonal": np.ones((3, 2)), "full": np.tile(np.eye(2), (3, 1, 1)), "tied": np.eye(2)}
        theirs.covars_ = eye[kind]
    theirs.startprob_, theirs.transmat_ = START, STEPS
    frames = np.asarray(ys.values).reshape(4, 20, -1)
    flat = np.concatenate([f[:n] for f, n in zip(frames, LENGTHS, strict=True)])
    flat = flat.astype(int) if kind in ("poisson", "categorical") else flat
    for _ in range(4):
        total = theirs.score(flat, LENGTHS)
        params, (info,) = em(model, params, ys, 1)
        np.testing.assert_allclose(info.elbo * 4, total, rtol=1e-10)
        theirs.fit(flat, LENGTHS)
    theta = params.theta
    np.testing.assert_allclose(theta.initial.probabilities(), theirs.startprob_, atol=1e-8)
    np.testing.assert_allclose(theta.transition.probabilities(), theirs.transmat_, atol=1e-8)
    if kind == "poisson":
        np.testing.assert_allclose(theta.emission.rate(), theirs.lambdas_, rtol=1e-7)
    elif kind == "categorical":
        np.testing.assert_allclose(theta.emission.probabilities(), theirs.emissionprob_, atol=1e-8)
    else:
        np.testing.assert_allclose(theta.emission.mean, theirs.means_, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["bernoulli", "mixture"])  # the others are hmmlearn's above
def test_em_raises_the_likelihood_and_reports_it(kind, x64):
    model, params, ys = problem(kind)
    before = jnp.mean(evidence(params, ys))
    _, history = em(model, params, ys, 15)
    values = np.array([h.elbo for h in history])
    np.testing.assert_allclose(values[0], before, rtol=1e-12)
    assert (np.diff(values) > -1e-9 * np.abs(values[:-1])).all() and values[-1] > values[0] + 1e-3


@pytest.mark.parametrize("kind", ["full", "mixture"])
def test_fisher(kind, x64):
    """The gradient of L in Θ at the exact posterior is that of ln P, by finite differences of ln P."""
    model, params, ys = problem(kind)
    flat, unflatten = jax.flatten_util.ravel_pytree(params.theta)
    bound = lambda v: jnp.sum(elbo.elbo(model)(elbo.Params(unflatten(v), params.theta), ys))
    log_p = lambda v: jnp.sum(evidence(elbo.Params(unflatten(v), None), ys))
    direction = np.random.default_rng(2).normal(size=flat.shape)
    every = jax.jit(lambda v: (jax.grad(bound)(v), *jax.value_and_grad(log_p)(v)))
    step = 1e-5
    (of_bound, _, of_evidence), (_, up, _), (_, down, _) = (every(flat + h * direction) for h in (0, step, -step))
    slope = np.vdot(of_bound, direction)
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slope, np.vdot(of_evidence, direction), rtol=1e-9)


def test_lengths_are_all_that_counts(x64):
    model, params, ys = problem("diagonal")
    junk = ys.values.at[jnp.arange(20)[None] >= ys.length[:, None]].set(jnp.nan)
    for changed in (elbo.Padded(junk, ys.length), elbo.Padded(jnp.pad(junk, ((0, 0), (0, 9), (0, 0))), ys.length)):
        np.testing.assert_allclose(evidence(params, changed), evidence(params, ys), rtol=1e-12)
        got, expected = (em(model, params, data, 2) for data in (changed, ys))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), got, expected)
    one_by_one = [evidence(params, v[None, :n]) for v, n in zip(ys.values[1:3], LENGTHS[1:], strict=False)]
    np.testing.assert_allclose(evidence(params, ys)[1:3], np.concatenate(one_by_one), rtol=1e-12)


@pytest.mark.parametrize("kind", ["full", "categorical"])
def test_missing_frames_are_summed_out(kind, x64):
    model, params, ys = problem(kind)
    gone = np.zeros((4, 20), bool)
    gone[0, [0, 5, 11]] = gone[2, 3] = True
    got = evidence(params, elbo.Padded(hmm.Frames(ys.values, observed=jnp.asarray(~gone)), ys.length))
    chain = STEPS
    likelihood = np.exp(jax.jit(jax.vmap(jax.vmap(params.theta.emission.log_prob)))(ys.values))
    for n, expected in enumerate(np.asarray(got)):
        alpha = START
        for t in range(LENGTHS[n]):
            alpha = alpha @ chain if t else alpha
            alpha = alpha if gone[n, t] else alpha * likelihood[n, t]
        np.testing.assert_allclose(np.log(alpha.sum()), expected, rtol=1e-10)
    if kind == "full":
        holes = elbo.Padded(jnp.where(gone[..., None], jnp.nan, ys.values), ys.length)
        np.testing.assert_allclose(evidence(params, holes), got, rtol=1e-12)
        _, history = em(model, params, holes, 3)
        assert all(bool(h.finite & h.feasible) for h in history)


def test_a_density_that_zero_has_none_of(x64):
    """Log-normal emissions: neither missing frames nor the padding may be looked at, nor their gradient."""

    def emit(means, value):
        return -0.5 * jnp.sum((jnp.log(value) - means) ** 2, -1) - jnp.sum(jnp.log(value))

    values = jnp.exp(jnp.asarray(REALS))
    gone = values.at[0, 3].set(jnp.nan).at[1].set(jnp.nan)
    theta = hmm.Theta(Categorical.create(jnp.asarray(START)), Categorical.create(jnp.asarray(STEPS)), CENTRES)
    model = hmm.model(3, emit)
    total = lambda theta, ys: jnp.sum(elbo.evidence(model)(elbo.Params(theta, None), ys))
    both = jax.jit(jax.value_and_grad(total))
    # cut off by hand, or by their lengths
    expected = [both(theta, gone[:, :12]), both(theta, elbo.Padded(gone, jnp.full(4, 12)))]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), *expected)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))


def test_an_impossible_sequence_is_left_out():
    theta = hmm.Theta(*hmm.left_to_right(3), Categorical.create(jnp.eye(3)))
    model, params = hmm.model(3), elbo.Params.tied(theta)
    ys = jnp.array([[0, 0, 1, 2], [0, 1, 1, 2], [0, 2, 1, 1], [1, 1, 2, 2]])
    values = evidence(params, ys)
    assert jnp.isfinite(values[:2]).all() and (values[2:] == -jnp.inf).all()
    got, (info,) = em(model, params, ys, 1)
    expected, _ = em(model, params, jnp.tile(ys[:2], (2, 1)), 1)  # in the same shape, for the same program
    jax.tree.map(np.testing.assert_allclose, got.theta, expected.theta)
    assert (int(info.dropped), bool(info.feasible), bool(info.finite)) == (2, False, True)
    eg = optim.eg_step(model, optax.sgd(0.1))
    stays, _, info = eg.update(None, params, eg.init(params), ys[2:])
    jax.tree.map(np.testing.assert_array_equal, stays.theta, theta)
    assert int(info.dropped) == 2
    assert (got.theta.transition.probabilities()[np.tril_indices(3, -1)] == 0).all()


def test_an_infinite_frame_drops_its_sequence():
    model, params, ys = problem("full")
    params = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    broken = elbo.Padded(ys.values.astype(jnp.float32).at[2, 1, 0].set(jnp.inf), ys.length)
    _, (info,) = em(model, params, broken, 1)
    assert (int(info.dropped), bool(info.finite)) == (1, True) and np.isfinite(info.elbo)
    empty = elbo.Padded(broken.values, ys.length.at[0].set(0))
    assert int(em(model, params, empty, 1)[1][0].dropped) == 2


def test_a_state_without_data_stays_and_is_counted(x64):
    model, params, ys = problem("diagonal")
    far = params.theta.emission.mean.at[2].set(1e6)
    theta = params.theta._replace(emission=Normal.create(far, jnp.ones((3, 2))))
    got, (info,) = em(model, elbo.Params.tied(theta), ys, 1)
    np.testing.assert_array_equal(got.theta.emission.mean[2], far[2])
    np.testing.assert_allclose(got.theta.transition.probabilities()[2], STEPS[2], rtol=1e-12)
    assert int(info.empty) == 2  # its emission, and its row of the transitions


def test_the_probability_of_staying_may_be_traced():
    stays = jnp.array([0.3, 0.9])
    for make in (lambda p: hmm.sticky(3, p), lambda p: hmm.left_to_right(3, stay=p)[1]):
        together = jax.vmap(make)(stays)
        for i, stay in enumerate((0.3, 0.9)):
            np.testing.assert_allclose(together.logits[i], make(stay).logits, rtol=1e-6)
        with pytest.raises(ValueError, match="stay: got 1.5, expected a probability"):
            make(1.5)


def test_a_sticky_prior_is_pseudo_counts(x64):
    model, params, ys = problem("full")
    sticky = PseudoData(Categorical.create(jnp.eye(3)), 10.0)
    prior = hmm.Theta(None, sticky, None)
    rule = optim.em_step(model, prior=prior)
    got, history = em(model, params, ys, 1, rule)
    statistics = jax.jit(lambda params, ys: optim.expected_statistics(model, params, ys))(params, ys)
    counts = np.asarray(statistics.families.transition) + 10 * np.eye(3)
    np.testing.assert_allclose(got.theta.transition.probabilities(), counts / counts.sum(1, keepdims=True), rtol=1e-10)
    objectives = [h.objective for h in em(model, params, ys, 10, rule)[1]]
    assert (np.diff(objectives) > -1e-10).all()


def test_a_switching_regression_finds_its_lines(x64):
    inputs = jnp.asarray(rng.normal(size=(2, 200, 1)))
    slopes, states = np.array([2.0, -1.0]), np.repeat(np.arange(20) % 2, 10)
    ys = slopes[states][:, None] * inputs + 0.1 * rng.normal(size=inputs.shape)
    start = LinearGaussian.create(jnp.array([[[1.0]], [[0.0]]]), jnp.zeros((2, 1)), jnp.ones((2, 1)))
    theta = hmm.Theta(Categorical(jnp.zeros(2)), Categorical.create(jnp.array([[0.9, 0.1], [0.1, 0.9]])), start)
    data = hmm.Frames(jnp.asarray(ys), inputs)
    params, history = em(hmm.model(2), elbo.Params.tied(theta), data, 20)
    np.testing.assert_allclose(params.theta.emission.weights[:, 0, 0], slopes, atol=0.05)
    assert (np.diff([h.elbo for h in history]) > -1e-9).all()
    decoded = hmm_inference.decode(hmm.model(2), params, data)
    assert (np.asarray(decoded.states) == states).mean() > 0.97


def test_init_does_not_look_at_inputs_of_missing_frames(key):
    inputs = jax.random.normal(key, (2, 20, 1))
    values = (2 * inputs).at[0, 3].set(jnp.nan)
    start = LinearGaussian.create(jnp.array([[[1.0]], [[0.0]]]), jnp.zeros((2, 1)), jnp.ones((2, 1)))
    length = jnp.array([20, 15])

    def emission(inputs):
        data = elbo.Padded(hmm.Frames(values, inputs), length)
        return hmm.init(key, data, 2, family=start).theta.emission

    for hole in (jnp.nan, 7.0):
        seen = emission(inputs.at[0, 3].set(hole).at[1, 15:].set(hole))
        jax.tree.map(np.testing.assert_array_equal, seen, emission(inputs))
        assert np.isfinite(seen.weights).all()


def test_em_on_minibatches_gets_to_where_em_gets(key):
    theta = hmm.Theta(
        Categorical.create(jnp.array([0.5, 0.5])),
        Categorical.create(jnp.array([[0.9, 0.1], [0.2, 0.8]])),
        Poisson.create(jnp.array([[1.0], [9.0]])),
    )
    stays, states = np.random.default_rng(4), [np.arange(32) % 2]
    for _ in range(19):
        change = stays.random(32) < np.array([0.1, 0.2])[states[-1]]
        states.append(np.where(change, 1 - states[-1], states[-1]))
    ys = jnp.asarray(stays.poisson(np.array([1.0, 9.0])[np.stack(states, 1)])[..., None], float)
    model = hmm.model(2)
    start = theta._replace(emission=Poisson.create(jnp.array([[3.0], [5.0]])))
    start = elbo.Params.tied(start)
    whole = optim.run(optim.em_step(model), start, ys, steps=30).history.elbo[-1]
    rule = optim.minibatches(optim.damp(model, optim.em_step(model), 0.2), 8)
    params = optim.run(rule, start, ys, key=key, steps=30).params
    evidence = elbo.evidence(model)
    reached = evidence(params, ys).mean()
    assert whole - 0.2 < reached <= whole + 1e-4  # steps of a fifth do not settle
    assert evidence(start, ys).mean() < whole - 2


def test_a_neural_emission_by_the_eg_rule(key):
    """A function in place of a family: exact states, gradient on its weights."""

    def emit(weights, value):
        return -0.5 * jnp.sum((value - jnp.tanh(weights)) ** 2, -1)

    ys = jnp.asarray(np.sign(rng.normal(size=(3, 30, 1))), jnp.float32)
    theta = hmm.Theta(Categorical(jnp.zeros(2)), Categorical(jnp.zeros((2, 2))), jnp.array([[0.1], [-0.2]]))
    model, params = hmm.model(2, emit), elbo.Params.tied(theta)
    rule = optim.eg_step(model, optax.adam(0.1))
    result = optim.run(rule, params, ys, steps=60)
    assert result.history.elbo[-1] > result.history.elbo[0] + 0.3
    with pytest.raises(TypeError, match="emission has no closed-form M step"):
        optim.em_step(model).update(None, params, (), ys)


def test_a_stationary_start(x64):
    pi = hmm.stationary(Categorical.create(jnp.asarray(STEPS)))
    np.testing.assert_allclose(pi @ STEPS, pi, rtol=1e-12)
    swap = hmm.stationary(Categorical.create(jnp.array([[0.0, 1.0], [1.0, 0.0]])))
    np.testing.assert_allclose(swap, [0.5, 0.5], rtol=1e-12)
    _, params, ys = problem("full")
    model = hmm.model(3, start="stationary")
    theta = params.theta._replace(initial=Categorical.create(pi))
    expected = evidence(elbo.Params.tied(theta), ys)
    bare = params.theta._replace(initial=None)
    bare = elbo.Params.tied(bare)
    np.testing.assert_allclose(elbo.evidence(model)(bare, ys), expected, rtol=1e-10)
    with pytest.raises(ValueError, match="theta.initial: got a Categorical in a model with start='stationary'"):
        elbo.evidence(model)(params, ys)
    with pytest.raises(ValueError, match="theta.initial: got None in a model with start='free'"):
        evidence(bare, ys)
    params = bare
    with pytest.raises(TypeError, match="Use eg_step"):
        em(model, params, ys, 1)
    # the transitions have no closed form: a gradient step on them, and EM on the emissions
    steps = optim.restrict(optim.eg_step(model, optax.adam(1e-2)), "theta.transition")
    rule = optim.chain(steps, optim.restrict(optim.em_step(model), "theta.emission"))
    result = optim.run(rule, params, ys, steps=12)
    assert (np.diff(result.history.elbo) > -1e-9).all() and result.history.elbo[-1] > result.history.elbo[0] + 1e-3
    assert not np.array_equal(result.params.theta.transition.logits, params.theta.transition.logits)
    assert result.params.theta.initial is None  # there is nothing that the model does not read
    sticky = params.theta._replace(transition=Categorical.create(jnp.asarray(STEPS)))
    first = jax.jit(jax.vmap(lambda key: hmm.sample(key, sticky, 1)[0][0]))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(np.bincount(first) / 4000, pi, atol=0.04)


def test_a_chain_that_never_stays_ends_in_its_last_state():
    rows = hmm.left_to_right(3, stay=0.0)[1].probabilities()
    np.testing.assert_array_equal(rows, [[0, 1, 0], [0, 0, 1], [0, 0, 1]])
