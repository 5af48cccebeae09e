import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import LOG_ZERO, Padded, StructureError
from elbo._polynomial import degree
from elbo.models.families import Categorical
from elbo.posteriors import ChainPosterior, Path
from elbo.posteriors.chain import log_space as chain_log

from .chains import enumerated, listed, random_chain, scores, stack

DRAWS = 2000


def everything(q, other, key):
    return {
        "log_partition": q.log_partition(),
        "gradient": jax.grad(lambda q: q.log_partition(), allow_int=True)(q),
        "mean": q.mean(),
        "entropy": q.entropy(),
        "kl": elbo.kl(q, other),
        "mode": q.mode(),
        "best": q.best(),
        "filtered": q.filtered(),
        "samples": jax.vmap(q.sample)(jax.random.split(key, DRAWS)).states,
        "parallel": chain_log.parallel(*q._clean()),
    }


def close(seen, expected, **tolerance):
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.parametrize("homogeneous", [True, False])
def test_equals_enumeration(x64, key, homogeneous):
    frames, states = 4, 3
    # lengths 1..4 side by side, and NaN in the padding
    chains = [random_chain(n, frames, states, homogeneous=homogeneous, length=n) for n in (1, 2, 3, 4)]
    others = [random_chain(9 + n, frames, states, homogeneous=homogeneous, length=n) for n in (1, 2, 3, 4)]
    seen = jax.device_get(jax.jit(jax.vmap(everything, (0, 0, None)))(stack(chains), stack(others), key))
    log_prob = jax.jit(jax.vmap(lambda q, z: q.log_prob(q.path(z)), (None, 0)))
    for i, (q, other) in enumerate(zip(chains, others, strict=True)):
        one, truth, length = jax.tree.map(lambda a, i=i: a[i], seen), enumerated(q), i + 1
        np.testing.assert_allclose(one["log_partition"], truth["log_partition"], rtol=1e-13)
        close(one["mean"], truth["mean"], atol=1e-14)
        close(one["gradient"].states, truth["mean"][2], atol=1e-14)
        close(one["gradient"].transition, truth["mean"][1], atol=1e-14)
        close(one["gradient"].initial, truth["mean"][0], atol=1e-14)
        close(one["parallel"], (truth["log_partition"], Path(*truth["mean"])), atol=1e-13)
        np.testing.assert_allclose(one["entropy"], truth["entropy"], atol=1e-13)
        log_ratio = np.log(truth["p"] / enumerated(other)["p"])
        np.testing.assert_allclose(one["kl"], truth["p"] @ log_ratio, atol=1e-13)
        states_best, score = one["best"]
        assert states_best.tolist() == truth["best"].tolist() + [-1] * (frames - length)
        np.testing.assert_allclose(score, truth["score"], rtol=1e-13)
        close(one["mode"], q.path(states_best))
        # one shape for all, so that it compiles once
        count = len(truth["p"])
        every = np.pad(truth["paths"], ((0, states**frames - count), (0, frames - length)), constant_values=-1)
        np.testing.assert_allclose(np.exp(log_prob(q, every))[:count], truth["p"], rtol=1e-12)
        # what is known at t is a chain of length t
        for t in range(1, length + 1):
            prefix = enumerated(ChainPosterior(q.initial, q.transition, q.states, jnp.asarray(t)))
            np.testing.assert_allclose(jnp.exp(one["filtered"][t - 1]), prefix["mean"][2][t - 1], atol=1e-13)
        assert (one["filtered"][length:] == LOG_ZERO).all()
        # every draw is a path, at its frequency
        drawn = np.asarray(one["samples"])
        assert ((drawn[:, :length] == 1).sum(-1) == 1).all() and not drawn[:, length:].any()
        codes = drawn[:, :length].argmax(-1) @ states ** np.arange(length)[::-1]
        frequency = np.bincount(codes, minlength=states**length) / DRAWS
        p = truth["p"]
        assert np.all(np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / DRAWS) + 1e-12)


@pytest.mark.parametrize("homogeneous", [True, False])
def test_a_path_and_its_counts(homogeneous):
    q = random_chain(0, 5, 3, homogeneous=homogeneous, length=4)
    path = q.path(jnp.array([2, 0, 0, 1, 2]))
    assert path.initial.tolist() == [0, 0, 1]
    counts = path.transitions if homogeneous else path.transitions.sum(0)
    assert counts.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert path.states[4].tolist() == [0, 0, 0]


@pytest.mark.parametrize("frames, states", [(1, 1), (1, 3), (4, 1)])
@pytest.mark.parametrize("homogeneous", [True, False])
def test_smallest(x64, key, frames, states, homogeneous):
    q = random_chain(1, frames, states, homogeneous=homogeneous)
    truth, seen = enumerated(q), jax.jit(everything)(q, q, key)
    np.testing.assert_allclose(seen["log_partition"], truth["log_partition"], rtol=1e-13)
    close(seen["mean"], truth["mean"], atol=1e-14)
    close(seen["parallel"][1], Path(*truth["mean"]), atol=1e-14)
    np.testing.assert_allclose([seen["entropy"], seen["kl"]], [truth["entropy"], 0], atol=1e-13)
    assert seen["best"][0].tolist() == truth["best"].tolist()


@pytest.mark.parametrize("homogeneous", [True, False])
def test_padding_changes_nothing(x64, key, homogeneous):
    padded = random_chain(2, 9, 3, homogeneous=homogeneous, length=6)
    transition = padded.transition if homogeneous else padded.transition[:5]
    bare = ChainPosterior(padded.initial, transition, padded.states[:6], padded.length)

    def values(q):
        def loss(q):
            mean = q.mean()
            return q.log_partition() * q.entropy() + jnp.sum(mean.states**2) + jnp.sum(mean.transitions**2)

        gradient = jax.grad(loss, allow_int=True)(q)
        return gradient.initial, gradient.transition, gradient.states, q.sample(key), q.mode(), q.filtered()

    long, short = jax.jit(values)(padded), jax.jit(values)(bare)
    for a, b in zip(jax.tree.leaves(long), jax.tree.leaves(short), strict=True):
        a, rest = np.split(a, [len(b)])
        np.testing.assert_allclose(a, b, atol=1e-13)
        assert np.isin(rest, [0.0, LOG_ZERO]).all()


@pytest.mark.parametrize("homogeneous", [True, False])
def test_derivatives_of_second_order(x64, homogeneous):
    frames, states = 3, 2
    q = random_chain(3, frames, states, homogeneous=homogeneous)
    paths = listed(frames, states)
    p = (q.initial, q.transition, q.states)
    weights = jax.tree.map(lambda a: jnp.cos(jnp.arange(1.0, 1 + a.size)).reshape(a.shape), p)

    def ours(p):
        q = ChainPosterior(*p, jnp.asarray(frames))
        products = jax.tree.map(lambda w, m: jnp.sum(w * m**2), weights, tuple(q.mean()))
        return q.log_partition() + 2 * q.entropy() + sum(products)

    def theirs(p):
        log_z = lambda p: jax.nn.logsumexp(scores(*p, paths))
        log_p = jax.nn.log_softmax(scores(*p, paths))
        products = jax.tree.map(lambda w, m: jnp.sum(w * m**2), weights, jax.grad(log_z)(p))
        return log_z(p) - 2 * jnp.sum(jnp.exp(log_p) * log_p) + sum(products)

    every = lambda f: jax.jit(lambda p: (f(p), jax.grad(f)(p), jax.jvp(f, (p,), (weights,)), jax.hessian(f)(p)))
    ours, (value, gradient, (_, slope), hessian) = every(ours), every(theirs)(p)
    close(ours(p), (value, gradient, (value, slope), hessian), atol=1e-12)
    # a central difference
    up, down = (ours(jax.tree.map(lambda a, w, h=h: a + h * w, p, weights))[0] for h in (1e-5, -1e-5))
    np.testing.assert_allclose((up - down) / 2e-5, slope, rtol=1e-8)


def test_vmap_of_vmap_is_one_branch_for_the_batch(x64):
    # lanes of ordinary chains, and one left-to-right chain that only log space can do
    ordinary = [random_chain(i, 6, 2) for i in range(5)]
    mask = jnp.array([[0.0, LOG_ZERO], [0.0, 0.0]])
    states = jnp.zeros((6, 2)).at[1:4, 1].set(-400).at[4:, 0].set(-2000.0)
    chains = [*ordinary, ChainPosterior(jnp.array([0.0, -1.0]), mask, states, jnp.array(6, jnp.int32))]
    grid = jax.tree.map(lambda a: a.reshape(3, 2, *a.shape[1:]), stack(chains))
    for method in (ChainPosterior.log_partition, ChainPosterior.mean):
        compiled = jax.jit(jax.vmap(jax.vmap(method))).lower(grid).compile()
        # a loop over a batch of conditions would be one over any of them, and select
        text = str(jax.make_jaxpr(jax.vmap(jax.vmap(method)))(grid))
        assert "cond_jaxpr" in text and "reduce_or" not in text
        seen = jax.tree.map(lambda a: a.reshape(6, *a.shape[2:]), compiled(grid))
        for i, q in enumerate(chains):
            truth = enumerated(q)["log_partition" if method is ChainPosterior.log_partition else "mean"]
            close(jax.tree.map(lambda a, i=i: a[i], seen), truth, atol=1e-11)


def test_a_shared_matrix_is_one_matrix_product():
    q = random_chain(0, 6, 17)  # with fewer states a sum is faster
    states = jnp.stack([q.states] * 5)
    batch = jax.vmap(lambda e: ChainPosterior(q.initial, q.transition, e, q.length).mean())
    text = str(jax.make_jaxpr(batch)(states))
    products = [line for line in text.splitlines() if "dot_general" in line and "[5,17]" in line]
    assert len(products) >= 2 and not any("[5,17,17]" in line for line in products)


def test_one_trace_for_all_lengths():
    traces = []

    @jax.jit
    def f(q):
        traces.append(1)
        return q.log_partition(), q.mean(), q.mode()

    for length in (1, 3, 5):
        f(random_chain(0, 5, 2, length=length))
    assert len(traces) == 1


def test_float32_under_x64(x64, key):
    q = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, random_chain(0, 4, 2))
    for value in jax.tree.leaves(jax.eval_shape(everything, q, q, key)):
        assert value.dtype in (jnp.float32, jnp.int32, jax.dtypes.float0)


def test_nan_does_not_pass_silently():
    q = random_chain(6, 5, 3, length=3)
    f = jax.jit(lambda q: (q.log_partition(), q.entropy(), q.mean().states[0, 0], q.mean().transitions[0, 0]))
    assert all(jnp.isfinite(v) for v in f(q))
    for bad in (q.states.at[1, 1].set(jnp.nan), q.states.at[2, 1].set(jnp.nan)):
        assert all(jnp.isnan(v) for v in f(ChainPosterior(q.initial, q.transition, bad, q.length)))
    # a length that only a run can see
    for length in (0, 6):
        assert all(jnp.isnan(v) for v in f(ChainPosterior(q.initial, q.transition, q.states, jnp.array(length)))[:2])


def test_wrong_shapes_and_lengths():
    q = random_chain(0, 5, 3)
    with pytest.raises(ValueError, match="length: got 0, expected 1 to 5"):
        ChainPosterior(q.initial, q.transition, q.states, 0).mean()
    with pytest.raises(ValueError, match="length: got 6, expected 1 to 5"):
        ChainPosterior(q.initial, q.transition, q.states, jnp.array(6)).log_partition()
    with pytest.raises(ValueError, match="length: got int32.1., expected an int scalar"):
        ChainPosterior(q.initial, q.transition, q.states, jnp.array([5])).entropy()
    with pytest.raises(ValueError, match="initial, transition, states: got shapes"):
        ChainPosterior(q.initial, q.transition[:2], q.states, 5).mode()
    with pytest.raises(ValueError, match="expected floating-point"):
        ChainPosterior(q.initial, q.transition, jnp.zeros((5, 3), int), 5).filtered()
    with pytest.raises(ValueError, match=r"states: got int32\[4\], expected integers \[5\]"):
        q.path(jnp.zeros(4, jnp.int32))
    with pytest.raises(ValueError, match="states: got 0"):
        elbo.chain(0)


def hmm(theta, z, y):
    """A hidden Markov model of a padded sequence of symbols."""
    rows = jax.vmap(lambda row, counts: row.log_prob(counts))(theta["transition"], z.transitions)
    emission = jax.vmap(theta["emission"].log_prob)(y.values)
    start = theta["initial"].log_prob(z.initial)
    return start, jnp.sum(rows), jnp.sum(z.states * emission)


@pytest.fixture
def model(x64):
    rng = np.random.default_rng(0)
    draw = lambda *shape: Categorical.create(jnp.asarray(rng.dirichlet(np.ones(shape[-1]), shape[:-1])))
    theta = {"initial": draw(3), "transition": draw(3, 3), "emission": draw(3, 4)}
    return elbo.Model(hmm, elbo.exact(hmm, elbo.chain(3))), theta


def test_posterior_of_a_hidden_markov_model(model, key):
    model, theta = model
    theta["emission"] = Categorical.create(theta["emission"].probabilities().at[:, 2].set(0))
    values = jnp.array([[0, 2, 2, 2, 2], [1, 0, 3, 2, 2], [3, 3, 0, 1, -1], [0, 1, 1, 0, 3], [0, 2, 1, 3, 0]])
    ys = Padded(values, jnp.array([1, 3, 4, 5, 5]))
    seen = elbo.elbo(model)(elbo.Params.tied(theta), ys)
    log = {name: np.asarray(jax.nn.log_softmax(family.logits)) for name, family in theta.items()}
    for i in range(4):
        length = int(ys.length[i])
        emission = log["emission"].T[values[i]]
        weights = scores(log["initial"], log["transition"], emission, listed(length, 3))
        np.testing.assert_allclose(seen[i], np.logaddexp.reduce(weights), rtol=1e-12)
    # a symbol that no state has
    assert seen[4] == -jnp.inf


def test_an_affine_log_joint_is_recognised(model):
    _, theta = model
    z = Path(jnp.zeros(3), jnp.zeros((3, 3)), jnp.zeros((5, 3)))
    a, e = jnp.ones((3, 3)), jnp.ones((5, 3))
    assert degree(lambda z: z.initial @ a[0] + jnp.sum(z.transitions * a) + jnp.sum(z.states * e), z) == 1
    assert degree(lambda z: sum(hmm(theta, z, Padded(jnp.zeros(5, int), jnp.array(5)))), z) == 1
    assert degree(random_chain(0, 5, 3).log_prob, z) == 1
    with pytest.raises(StructureError, match="not affine"):
        elbo.chain(3).posterior(lambda z: jnp.sum(z.states[:-1] * z.states[1:]), jnp.zeros((5, 1)))
    with pytest.raises(ValueError, match="y: got None"):
        elbo.chain(3).posterior(lambda z: jnp.sum(z.states))


def test_a_step_with_its_own_transitions(x64):
    log_joint = lambda z: jnp.sum(z.transitions[:, 0, 1] * jnp.arange(3.0)) + z.initial[0]
    q = elbo.chain(2, homogeneous=False).posterior(log_joint, jnp.zeros((4, 2)))
    assert q.transition.shape == (3, 2, 2) and q.best()[1] == 3
    np.testing.assert_allclose(q.log_partition(), enumerated(q)["log_partition"], rtol=1e-13)


def test_a_dead_end_in_the_padding_makes_no_nan():
    # the last state has no successor: beyond the length nothing is possible
    transition = jnp.array([[0.0, 0.0], [LOG_ZERO, LOG_ZERO]])
    states = jnp.zeros((6, 2)).at[2, 0].set(LOG_ZERO)
    q = ChainPosterior(jnp.zeros(2), transition, states, jnp.array(3))
    np.testing.assert_allclose(q.mean().states[:3], [[1, 0], [1, 0], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(q.mean().transitions, [[1, 1], [0, 0]], atol=1e-6)
