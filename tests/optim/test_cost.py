"""What the compiled programs cost: no more FLOPs than EM by hand, memory of one chunk, no LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import hmm, mixture
from elbo.models.families import Categorical

from ..problems import PROBLEMS, start


def lowered(rule, params, ys):
    return jax.jit(lambda p, s, y: rule.update(None, p, s, y)).lower(params, rule.init(params), ys)


def compiled(rule, params, ys):
    return lowered(rule, params, ys).compile()


def gaussian_mixture(count, size, components):
    """Shapes of parameters and data; nothing is allocated."""
    ys = jax.ShapeDtypeStruct((count, size), jnp.float32)

    def params():
        few = jnp.zeros((2, size)) + jnp.arange(2.0)[:, None]
        return mixture.init(jax.random.key(0), few, components)

    return jax.eval_shape(params), ys


def em_by_hand(params, ys):
    """EM of a full Gaussian mixture as a textbook has it (Bishop 2006, eq. 9.23 to 9.26)."""
    weights, f = params.theta.weights, params.theta.components
    u = jnp.einsum("kij,knj->kin", f.whitener(), ys - f.mean[:, None])
    log_det = jnp.trace(f.root, axis1=-2, axis2=-1)
    constant = jax.nn.log_softmax(weights.logits) + log_det - 0.5 * ys.shape[1] * jnp.log(2 * jnp.pi)
    joint = constant[:, None] - 0.5 * jnp.sum(u**2, 1)
    evidence = jax.nn.logsumexp(joint, 0)
    q = jnp.exp(joint - evidence)
    count = q.sum(1)
    mean = jnp.einsum("kn,nd->kd", q, ys) / count[:, None]
    residual = ys - mean[:, None]
    covariance = jnp.einsum("kni,knj->kij", residual * q[..., None], residual) / count[:, None, None]
    components = type(f).create(mean, covariance, floor=f.floor)
    return mixture.Theta(Categorical.create(count / len(ys)), components), jnp.mean(evidence)


@pytest.mark.parametrize(("size", "components", "most"), [(64, 32, 1.11), (16, 8, 1.07)])
def test_em_step_costs_no_more_flops_than_em_by_hand(size, components, most):
    # the products are the same; on top come the offset as a column of the E step's product, what info reports (scales
    # at the floor: K D³), and the loops that raise covariances to their floor: they take no turn here, and count as one
    params, ys = gaussian_mixture(2000, size, components)
    ours = compiled(optim.em_step(mixture.model(components), chunk_size=None), params, ys).cost_analysis()["flops"]
    by_hand = jax.jit(em_by_hand).lower(params, ys).compile().cost_analysis()["flops"]
    assert ours <= most * by_hand


def test_em_step_gives_what_em_by_hand_gives(x64):
    model, params, ys = start("full")
    theta, value = jax.jit(em_by_hand)(params, ys)
    got, _, info = optim.em_step(model).update(None, params, (), ys)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), got.theta, theta)
    np.testing.assert_allclose(info.elbo, value, rtol=1e-12)


def test_a_million_data_need_the_memory_of_a_chunk():
    params, ys = gaussian_mixture(1_000_000, 16, 16)
    program = compiled(optim.em_step(mixture.model(16)), params, ys)
    assert program.memory_analysis().temp_size_in_bytes < 64e6
    halved = compiled(optim.em_step(mixture.model(16)), params, jax.ShapeDtypeStruct((500_000, 16), jnp.float32))
    growth = program.memory_analysis().temp_size_in_bytes - halved.memory_analysis().temp_size_in_bytes
    assert growth < 1e6 * 8  # at most the weights, one number a datum


def test_automatic_chunks_hold_about_the_cache(x64):
    params, ys = gaussian_mixture(5000, 64, 32)
    data = jax.random.normal(jax.random.key(0), ys.shape, ys.dtype)
    params = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), params)
    model = mixture.model(32)
    auto, whole = (optim.em_step(model, chunk_size=c) for c in ("auto", None))
    # 64 x 32 numbers a datum: 192 data
    auto, whole = (compiled(rule, params, ys) for rule in (auto, whole))
    assert auto.memory_analysis().temp_size_in_bytes < 16e6
    assert whole.memory_analysis().temp_size_in_bytes > 80e6
    got, expected = (program(params, (), data)[0] for program in (auto, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), got, expected)


def test_chunks_share_the_likelihoods_of_encoder_and_log_joint():
    # in a loop the compiler would compute them twice; see optim.sharing
    params, ys = gaussian_mixture(4000, 16, 8)
    texts = [compiled(optim.em_step(mixture.model(8), chunk_size=c), params, ys).as_text() for c in (None, 1000)]
    products = [
        sum(f"f32[{8 * 16},{n}]" in line and " dot(" in line for line in t.splitlines())
        for t, n in zip(texts, (4000, 1000), strict=True)
    ]
    assert products == [1, 1]


def calls_lapack(program):
    return "custom_call @lapack" in program.as_text()


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_program_calls_lapack(name):
    model, params, ys = start(name)
    em, adam = optim.em_step(model), optax.adam(1e-2)
    rules = [em, optim.eg_step(model, adam), optim.vae_step(model, adam)]
    if name in ("full", "ppca"):  # the same programs, put together
        rules += [optim.vem_step(model, adam), optim.chain(optim.repeat(em, 2), rules[1])]
    for rule in rules:
        assert not calls_lapack(lowered(rule, params, ys))
    evaluate = jax.jit(lambda p, y: (elbo.evidence(model)(p, y), elbo.decompose(model)(p, y)))
    assert not calls_lapack(evaluate.lower(params, ys))


def test_the_check_for_lapack_can_fail():
    a = jax.ShapeDtypeStruct((4, 3, 3), jnp.float32)
    assert calls_lapack(jax.jit(jnp.linalg.cholesky).lower(a))


def test_a_slope_in_a_line_search_holds_the_posterior():
    """The posterior is held: no derivative is taken of the passes that compute it."""

    def slopes_of_trials(gradient, state, params, *, value_fn, **_):
        return jax.grad(value_fn)(params), state

    search = optax.GradientTransformationExtraArgs(lambda params: (), slopes_of_trials)
    model, ys = hmm.model(4), jnp.zeros((8, 20, 2))
    params = hmm.init(jax.random.key(0), jax.random.normal(jax.random.key(1), ys.shape), 4)
    plain, twice = (
        compiled(optim.eg_step(model, optimizer), params, ys).cost_analysis()["flops"]
        for optimizer in (optax.sgd(0.1), search)
    )
    assert twice <= 3 * plain  # 3.6 with the posterior free
