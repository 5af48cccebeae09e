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

from .chains import enumerated, random_chain
from .enumeration import in_float32, stack, take


def close(seen, expected, **tolerance):
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.parametrize("homogeneous", [True, False])
def test_filtered(x64, homogeneous):
    """What is known at t is a chain of length t."""
    chains = [random_chain(n, 4, 3, homogeneous=homogeneous, length=n) for n in (1, 2, 3, 4)]
    for q, seen in zip(chains, jax.jit(jax.vmap(lambda q: q.filtered()))(stack(chains)), strict=True):
        for t in range(1, int(q.length) + 1):
            prefix = enumerated(ChainPosterior(q.initial, q.transition, q.states, jnp.asarray(t)))
            np.testing.assert_allclose(jnp.exp(seen[t - 1]), prefix.mean[2][t - 1], atol=1e-13)
        assert (seen[int(q.length) :] == LOG_ZERO).all()


@pytest.mark.parametrize("frames, states", [(1, 1), (1, 3), (4, 1), (4, 3)])
@pytest.mark.parametrize("homogeneous", [True, False])
def test_parallel_pass(x64, frames, states, homogeneous):
    lengths = range(1, frames + 1)
    chains = [random_chain(n, frames, states, homogeneous=homogeneous, length=n) for n in lengths]
    run = jax.jit(jax.vmap(lambda q: chain_log.parallel(*q._clean())))
    log_z, mean = run(stack(chains))
    for i, q in enumerate(chains):
        truth = enumerated(q)
        close((log_z[i], take(tuple(mean), i)), (truth.log_partition, truth.mean), atol=1e-13)
    singles = jax.eval_shape(run, stack([in_float32(q) for q in chains]))
    assert {a.dtype for a in jax.tree.leaves(singles)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("homogeneous", [True, False])
def test_a_path_and_its_counts(homogeneous):
    q = random_chain(0, 5, 3, homogeneous=homogeneous, length=4)
    path = q.path(jnp.array([2, 0, 0, 1, 2]))
    assert path.initial.tolist() == [0, 0, 1]
    counts = path.transitions if homogeneous else path.transitions.sum(0)
    assert counts.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert path.states[4].tolist() == [0, 0, 0]


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
            truth = enumerated(q)
            truth = truth.log_partition if method is ChainPosterior.log_partition else truth.mean
            close(jax.tree.map(lambda a, i=i: a[i], seen), truth, atol=1e-11)


def test_a_shared_matrix_is_one_matrix_product():
    q = random_chain(0, 6, 17)  # with fewer states a sum is faster
    states = jnp.stack([q.states] * 5)
    batch = jax.vmap(lambda e: ChainPosterior(q.initial, q.transition, e, q.length).mean())
    text = str(jax.make_jaxpr(batch)(states))
    products = [line for line in text.splitlines() if "dot_general" in line and "[5,17]" in line]
    assert len(products) >= 2 and not any("[5,17,17]" in line for line in products)


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
        q = ChainPosterior(log["initial"], log["transition"], log["emission"].T[values[i]], length)
        np.testing.assert_allclose(seen[i], enumerated(q).log_partition, rtol=1e-12)
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
    np.testing.assert_allclose(q.log_partition(), enumerated(q).log_partition, rtol=1e-13)


def test_a_dead_end_in_the_padding_makes_no_nan():
    # the last state has no successor: beyond the length nothing is possible
    transition = jnp.array([[0.0, 0.0], [LOG_ZERO, LOG_ZERO]])
    states = jnp.zeros((6, 2)).at[2, 0].set(LOG_ZERO)
    q = ChainPosterior(jnp.zeros(2), transition, states, jnp.array(3))
    np.testing.assert_allclose(q.mean().states[:3], [[1, 0], [1, 0], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(q.mean().transitions, [[1, 1], [0, 0]], atol=1e-6)
