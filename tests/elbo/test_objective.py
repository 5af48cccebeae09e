import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import Params
from elbo.models import mixture

from . import problems
from .problems import amortised, within


class Compiled(NamedTuple):
    """A problem, and the functions that several tests call."""

    problem: problems.Problem
    elbo: Callable
    evidence: Callable
    decompose: Callable


@functools.cache
def compiled(name: str) -> Compiled:
    problem = problems.PROBLEMS[name]()
    return Compiled(problem, elbo.elbo(problem.model), elbo.evidence(problem.model), elbo.decompose(problem.model))


@pytest.fixture(params=problems.PROBLEMS)
def case(request, x64) -> Compiled:
    return compiled(request.param)


def test_both_readings_agree(case):
    """(1) = (2), with Ψ unlike Θ; the evidence is that of numpy."""
    params, ys = case.problem.params, case.problem.ys
    d = case.decompose(params, ys)
    np.testing.assert_allclose(d.elbo, d.energy + d.entropy, rtol=1e-14)
    np.testing.assert_allclose(d.elbo, d.evidence - d.kl, rtol=1e-11)
    np.testing.assert_allclose(d.evidence, case.problem.log_evidence, rtol=1e-11)
    assert (d.kl > 1e-3).all()
    np.testing.assert_allclose(case.elbo(params, ys), d.elbo, rtol=1e-12)
    np.testing.assert_allclose(case.evidence(params, ys), d.evidence, rtol=1e-12)


def test_the_bound_is_tight_at_the_exact_posterior(case):
    theta = case.problem.params.theta
    d = case.decompose(Params.tied(theta), case.problem.ys)
    np.testing.assert_allclose(d.kl, 0, atol=1e-12)
    np.testing.assert_allclose(d.elbo, case.problem.log_evidence, rtol=1e-11)


def test_fishers_identity(case):
    """The gradient of L in Θ at the exact posterior, Ψ held fixed, is that of the evidence; that in Ψ is zero."""
    theta, ys = case.problem.params.theta, case.problem.ys
    bound = jax.grad(lambda params: case.elbo(params, ys).sum())(Params.tied(theta))
    evidence = jax.grad(lambda theta: case.evidence(Params(theta, None), ys).sum())(theta)
    for a, b, c in zip(*map(jax.tree.leaves, (bound.theta, evidence, bound.psi)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)
        np.testing.assert_allclose(c, 0, atol=1e-10)


@pytest.mark.parametrize("size", [3, 100])
def test_batch_size_changes_nothing(x64, size):
    p = problems.mixture()  # N = 7
    value = elbo.elbo(p.model, batch_size=size)(p.params, p.ys)
    np.testing.assert_allclose(value, elbo.elbo(p.model)(p.params, p.ys), rtol=1e-13)
    evidence = elbo.evidence(p.model, batch_size=size)(p.params, p.ys)
    np.testing.assert_allclose(evidence, p.log_evidence, rtol=1e-11)
    parts, whole = (elbo.decompose(p.model, batch_size=n)(p.params, p.ys) for n in (size, None))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), parts, whole)
    slopes = [jax.grad(lambda q, n=n: elbo.elbo(p.model, batch_size=n)(q, p.ys).sum())(p.params) for n in (size, None)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), *slopes)


def test_by_default_the_memory_is_that_of_a_chunk():
    """A million data in 50 dimensions, and 50 components: 10 GB if all at once."""
    ys = jax.ShapeDtypeStruct((1_000_000, 50), jnp.float32)
    params = jax.eval_shape(lambda: mixture.init(jax.random.key(0), jnp.ones((2, 50)) * jnp.arange(2.0)[:, None], 50))
    model = mixture.model(50)

    def all_three(params, ys):
        return elbo.elbo(model)(params, ys), elbo.evidence(model)(params, ys), elbo.decompose(model)(params, ys)

    memory = jax.jit(all_three).lower(params, ys).compile().memory_analysis()
    most = 100e6 if jax.default_backend() == "cpu" else 1e9
    assert memory.temp_size_in_bytes < most
    slope = jax.jit(jax.grad(lambda params, ys: elbo.evidence(model)(params, ys).sum())).lower(params, ys).compile()
    assert slope.memory_analysis().temp_size_in_bytes < most


def test_batch_size_keeps_the_samples(key):
    model, params, ys = amortised()
    whole, parts = elbo.elbo(model), elbo.elbo(model, batch_size=3)
    np.testing.assert_allclose(parts(params, ys, key), whole(params, ys, key), rtol=1e-5)
    assert not np.allclose(whole(params, ys, key), whole(params, ys, jax.random.key(1)))


def test_samples_are_unbiased(x64, key):
    """(3) = (1) in expectation, in value and gradient; one datum repeated draws from as many keys."""
    p = problems.linear_gaussian()
    many = jnp.broadcast_to(p.ys[0], (2000, 5))
    sampled = elbo.elbo(p.model, estimator=elbo.Reparameterized())

    def value_and_gradient(f, y, key):
        return jax.value_and_grad(lambda params: f(params, y[None], key)[0])(p.params)

    seen = jax.jit(jax.vmap(lambda y, k: value_and_gradient(sampled, y, k)))(many, jax.random.split(key, 2000))
    truth = value_and_gradient(elbo.elbo(p.model), p.ys[0], None)
    assert all(jax.tree.leaves(jax.tree.map(within, seen, truth)))


def test_a_tuple_takes_each_term_by_itself(x64, key):
    """Together with the entropy the prior's term is −KL in closed form; only the decoder's term is sampled."""
    model, params, ys = amortised()
    prior = elbo.NormalPosterior(jnp.zeros(2), jnp.zeros(2))

    def by_hand(y, key):
        q = model.encoder(params.psi, y)
        likelihood = model.log_joint(params.theta, q.sample(key), y)[1]
        return likelihood - elbo.kl(q, prior)

    expected = jax.jit(jax.vmap(by_hand))(ys, jax.random.split(key, len(ys)))
    np.testing.assert_allclose(elbo.elbo(model)(params, ys, key), expected, rtol=1e-12)
    only_prior = elbo.Model(lambda *args: model.log_joint(*args)[0], model.encoder)
    kls = jax.jit(jax.vmap(lambda y: elbo.kl(model.encoder(params.psi, y), prior)))(ys)
    np.testing.assert_allclose(elbo.elbo(only_prior)(params, ys), -kls, rtol=1e-12)


def dice() -> tuple[elbo.Model, Params]:
    """Two dice of three sides; the side 2 is on neither. NaN as a weight of the observation spoils its datum only."""

    def log_joint(theta, z, y):
        return z @ (elbo.safe_log(theta) @ jax.nn.one_hot(y["side"], 3)) + y["weight"]

    theta = jnp.array([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]])
    return elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2))), Params.tied(theta)


def test_impossible_and_nan_data():
    model, params = dice()
    ys = {"side": jnp.array([0, 2, 1, 0]), "weight": jnp.array([0.0, 0.0, 0.0, jnp.nan])}
    expected = [np.log(0.75), -np.inf, np.log(1.25), np.nan]
    for f in (elbo.elbo(model), elbo.evidence(model), elbo.elbo(model, batch_size=3)):
        np.testing.assert_allclose(f(params, ys), expected, rtol=1e-6)
    # the impossible datum moves nothing and hurts no other
    evidence = elbo.evidence(model)
    total = lambda p, ys: jnp.where(jnp.isfinite(values := evidence(p, ys)), values, 0).sum()
    slopes = [jax.grad(total)(params, jax.tree.map(lambda a, n=n: a[jnp.array(n)], ys)) for n in ([0, 1, 2], [0, 2])]
    np.testing.assert_allclose(slopes[0].theta, slopes[1].theta, rtol=1e-6)


def test_an_infinite_density_is_not_called_impossible():
    model = elbo.Model(lambda theta, z, y: theta * y, lambda psi, y: elbo.CategoricalPosterior(psi))
    values = elbo.elbo(model)(Params(jnp.array(jnp.inf), jnp.zeros(1)), jnp.array([1.0, -1.0]))
    assert values.tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("estimator", [elbo.ClosedForm(), elbo.Enumerated(), None])
def test_zero_times_minus_infinity(estimator):
    """A component of weight 0: with safe_log it contributes nothing; ln 0 = −∞ is never a wrong number."""
    safe = elbo.Model(lambda theta, z, y: z @ elbo.safe_log(theta * y), lambda psi, y: elbo.CategoricalPosterior(psi))
    psi = jnp.array([0.0, -jnp.inf])
    value, slope = jax.value_and_grad(lambda t: elbo.elbo(safe, estimator=estimator)(Params(t, psi), jnp.ones(1))[0])(
        jnp.array([0.5, 0.0])
    )
    np.testing.assert_allclose(value, np.log(0.5), rtol=1e-6)
    assert jnp.isfinite(slope).all()
    raw = elbo.Model(lambda theta, z, y: z @ jnp.log(theta * y), safe.encoder)
    value = elbo.elbo(raw, estimator=estimator)(Params(jnp.array([0.5, 0.0]), psi), jnp.ones(1))[0]
    # an accelerator's product with a one-hot row may leave the zeros out
    assert jnp.isnan(value) or jnp.allclose(value, np.log(0.5))


def test_errors(key):
    p = problems.bits()
    model, params, ys = amortised()
    with pytest.raises(ValueError, match=r"key: got None.*pass key=jax\.random\.key"):
        elbo.elbo(model)(params, ys)
    with pytest.raises(elbo.StructureError, match=r"neither affine nor quadratic.*Reparameterized\(samples\)"):
        elbo.elbo(model, estimator=elbo.ClosedForm())(params, ys)
    with pytest.raises(elbo.StructureError, match="not differentiable in its parameters"):
        elbo.elbo(p.model, estimator=elbo.Reparameterized())(p.params, p.ys, key)
    with pytest.raises(TypeError, match=r"params: got tuple, expected elbo\.Params"):
        elbo.elbo(p.model)(tuple(p.params), p.ys)
    with pytest.raises(TypeError, match=r"model\.encoder: got .*made by elbo\.exact"):
        elbo.evidence(model)
    with pytest.raises(TypeError, match="posterior: got"):
        elbo.decompose(model)
    vector = elbo.Model(lambda theta, z, y: z, model.encoder)
    with pytest.raises(ValueError, match=r"log_joint: term 0 is float32\[2\].*without a batch axis"):
        elbo.elbo(vector)(params, ys)


@pytest.mark.parametrize("ys", [{"a": jnp.ones(3), "b": jnp.ones(2)}, jnp.ones(()), jnp.ones((0, 2)), {}])
def test_ys_need_one_leading_axis(ys):
    p = problems.bits()
    with pytest.raises(ValueError, match="ys: got leaves of shapes.*one common leading axis N >= 1"):
        elbo.elbo(p.model)(p.params, ys)


@pytest.mark.parametrize("make", [elbo.elbo, elbo.evidence, elbo.decompose])
def test_arguments_in_each_others_place_are_named(make):
    p = problems.mixture()
    with pytest.raises(TypeError, match=r"model: got function, expected elbo\.Model"):
        make(p.model.log_joint)
    f = make(p.model)
    with pytest.raises(TypeError, match=r"ys: got a list of 7, expected arrays.*jnp\.stack"):
        f(p.params, list(p.ys))
    with pytest.raises(TypeError, match=r"params: got dict, expected elbo\.Params"):
        f(p.params.theta, p.ys)
    wide = make(elbo.Model(p.model.log_joint, elbo.exact(p.model.log_joint, elbo.categorical(4))))
    with pytest.raises(TypeError, match=r"dot_general.*\n.*ys: read as 7 data.*leaves of shapes \[\[2\]\]"):
        wide(p.params, p.ys)


def test_an_estimator_that_is_none():
    p = problems.mixture()
    for wrong in (elbo.ScoreFunction, "exact"):
        with pytest.raises(TypeError, match=r"estimator: got .*ct.*expected an estimator. Choose one of"):
            elbo.elbo(p.model, estimator=wrong)(p.params, p.ys)


def test_evidence_of_bits_that_cannot_be_zero():
    """ln P(z = 0) is −10³⁰ and the log odds are 10³⁰: their sum says nothing of ln P(z = 1)."""
    log_joint = lambda theta, z, y: jnp.sum(z * theta + (1 - z) * elbo.LOG_ZERO)
    f = elbo.evidence(elbo.Model(log_joint, elbo.exact(log_joint, elbo.bernoulli(2))))
    theta = jnp.array([-2.0, -1.0])
    value, slope = jax.value_and_grad(lambda theta: f(Params(theta, None), jnp.ones(1))[0])(theta)
    assert value == -3 and slope.tolist() == [1, 1]


def test_a_posterior_given_to_decompose(x64):
    """A factorised Gaussian encoder against the exact posterior of the same log_joint."""
    p = problems.linear_gaussian()
    encoder = lambda psi, y: elbo.NormalPosterior(psi @ y, -jnp.ones(2))
    params = Params(p.params.theta, problems.normal(40, 2, 5))
    d = elbo.decompose(elbo.Model(p.model.log_joint, encoder), posterior=p.model.encoder)(params, p.ys)
    np.testing.assert_allclose(d.elbo, p.log_evidence - d.kl, rtol=1e-10)


def test_an_impossible_datum_is_decomposed_as_such():
    log_joint = lambda theta, z, y: z @ elbo.safe_log(theta * y)
    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    d = elbo.decompose(model)(Params(jnp.array([0.5, 0.5]), jnp.array([0.2, 0.8])), jnp.array([1.0, 0.0]))
    assert d.evidence.tolist() == [0.0, -np.inf] and d.elbo[1] == d.energy[1] == -np.inf
    assert jnp.isfinite(d.elbo[0]) and d.kl[0] > 0 and d.kl[1] == d.entropy[1] == 0


def test_an_indicator_that_is_almost_one_hot_does_not_make_the_impossible_possible():
    model = elbo.Model(lambda theta, z, y: z @ elbo.safe_log(y), lambda psi, y: elbo.CategoricalPosterior(psi))
    psi = jnp.log(jnp.array([0.99, 0.01]))
    assert elbo.elbo(model)(Params((), psi), jnp.array([[1.0, 0.0]])).tolist() == [-np.inf]


def test_traced_once():
    p = problems.mixture()
    traces = []

    def log_joint(theta, z, y):
        traces.append(None)
        return p.model.log_joint(theta, z, y)

    f = elbo.elbo(elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(3))))
    f(p.params, p.ys)
    first = len(traces)
    for i in range(4):
        f(jax.tree.map(lambda a, i=i: a + i, p.params), p.ys + i)
    assert len(traces) == first


def test_the_same_model_is_compiled_once():
    traces = []

    def log_joint(theta, z, y):
        traces.append(None)
        return z @ (theta * y)

    params, ys = Params(jnp.zeros(2), jnp.zeros(2)), jnp.ones((3, 2))
    for transform in (elbo.elbo, elbo.evidence, elbo.decompose):
        counts = []
        for _ in range(3):
            # the model, too, made anew
            transform(elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2))))(params, ys)
            counts.append(len(traces))
        assert counts[0] == counts[1] == counts[2] > 0
    # what cannot be looked up works, and is compiled for each call
    unhashable = elbo.ScoreFunction(jnp.array(4))
    assert isinstance(unhashable.samples, jax.Array)
    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    assert elbo.elbo(model, estimator=unhashable) is not elbo.elbo(model, estimator=unhashable)
