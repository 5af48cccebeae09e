from functools import partial

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from elbo._polynomial import degree, dependence, separable

W = jnp.array([0.5, -1.0, 2.0])
A = jnp.eye(3) + 0.1


@jax.custom_jvp
def rounded(z):
    return jnp.round(z)


rounded.defjvp(lambda primals, tangents: (rounded(primals[0]), tangents[0]))  # a straight-through derivative


@jax.custom_jvp
def doubled(z):
    return 2 * z


doubled.defjvp(lambda primals, tangents: (doubled(primals[0]), 2 * tangents[0]))


@jax.custom_vjp
def total(z):
    return jnp.sum(z)


total.defvjp(lambda z: (jnp.sum(z), None), lambda _, c: (jnp.full(3, c),))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def clipped(limit, z):
    return z


clipped.defvjp(lambda limit, z: (z, None), lambda limit, _, c: (jnp.clip(c, -limit, limit),))


@jax.custom_gradient
def hook(z):
    return jnp.zeros_like(z), lambda c: (c,)  # a slope without a value


def solved(solve, z):
    return lax.custom_linear_solve(lambda x: 2 * x, z, lambda _, b: solve(b), symmetric=True)


def root(z):
    return lax.custom_root(lambda x: x - 2 * z, z, lambda f, x: x - f(x), lambda g, y: y)


AFFINE = {
    "dot": lambda z: W @ z,
    "constant": lambda z: 3.0,
    "shifted": lambda z: jnp.sum(2 * (z - W) / 3 - W),
    "integer index": lambda z: z[1] + z[jnp.array([0, 2])].sum(),
    "where on data": lambda z: jnp.where(W > 0, z, -z).sum(),
    "argmax of data": lambda z: z[jnp.argmax(W)],
    "jit": lambda z: jax.jit(lambda z: z @ W)(z),
    "vmap": lambda z: jax.vmap(lambda w: w * z)(W).sum(),
    "linear solve": lambda z: solved(lambda b: b / 2, z) @ W,
    "half precision": lambda z: (z.astype(jnp.bfloat16) @ W.astype(jnp.bfloat16)).astype(float),
    "barrier": lambda z: lax.optimization_barrier(z) @ W,
    "checkpoint": lambda z: jax.checkpoint(lambda z: jnp.sum(z * W))(z),
    "cond": lambda z: lax.cond(W[0] > 0, lambda z: z @ W, lambda z: z.sum(), z),
    "scan": lambda z: lax.scan(lambda c, x: (0.5 * c + x, None), 0.0, z)[0],
    "fori": lambda z: lax.fori_loop(0, 3, lambda i, c: c + z[i] * W[i], 0.0),
    "while": lambda z: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + z.sum()), (0, 0.0))[1],
    "scatter": lambda z: jnp.zeros(3).at[jnp.array([0, 1, 1])].add(z).at[0].set(1.0) @ W,
    "concatenate": lambda z: jnp.concatenate([z, W, jnp.cumsum(z)[::-1]]).reshape(3, 3).T.sum(),
    "convolve": lambda z: jnp.convolve(z, W).sum(),
    "solve": lambda z: jnp.linalg.solve(A, z).sum(),
    "power 1": lambda z: jnp.sum(z**1 + z**0),
    "logits": lambda z: z @ jax.nn.log_softmax(W),
}
QUADRATIC = {
    "z @ z": lambda z: z @ z,
    "z**2": lambda z: jnp.sum(z**2),
    "z**2.0": lambda z: jnp.sum(z**2.0),
    "z * z": lambda z: jnp.sum(z * z),
    "square": lambda z: jnp.sum(jnp.square(z - W)),
    "form": lambda z: (z - W) @ A @ (z - W) + z.sum(),
    "two entries": lambda z: z[0] * z[1],
    "scan": lambda z: lax.scan(lambda c, x: (c + x * x, None), 0.0, z)[0],
    "variance": jnp.var,
    "logpdf": lambda z: jsp.stats.multivariate_normal.logpdf(z, W, A),
    "residual": lambda z: -0.5 * jnp.sum((jax.jit(jnp.tanh)(A) @ z - W) ** 2),
}
NEITHER = {
    "argmax": lambda z: W[jnp.argmax(z)],
    "stop_gradient": lambda z: jnp.sum(lax.stop_gradient(z)),
    "stop_gradient times z": lambda z: z @ lax.stop_gradient(z),
    "where z": lambda z: jnp.where(z > 0, z, 0).sum(),
    "abs": lambda z: jnp.abs(z).sum(),
    "relu": lambda z: jax.nn.relu(z).sum(),
    "max": lambda z: jnp.max(z),
    "maximum": lambda z: jnp.maximum(z, W).sum(),
    "clip": lambda z: jnp.clip(z, -1, 1).sum(),
    "sort": lambda z: jnp.sort(z) @ W,
    "median": jnp.median,
    "cummax": lambda z: lax.cummax(z).sum(),
    "max pool": lambda z: lax.reduce_window(z, -jnp.inf, lax.max, (2,), (1,), "VALID").sum(),
    "floor": lambda z: jnp.floor(z).sum(),
    "round": lambda z: jnp.round(z).sum(),
    "sign": lambda z: jnp.sign(z).sum(),
    "remainder": lambda z: lax.rem(z, 1.0).sum(),
    "integer cast": lambda z: z.astype(int).sum().astype(float),
    "index from z": lambda z: W[z.astype(int)].sum(),
    "bits": lambda z: lax.bitcast_convert_type(z, jnp.int32).sum().astype(float),
    "straight-through": lambda z: rounded(z).sum(),
    "custom_jvp": lambda z: doubled(z).sum(),
    "custom_vjp": total,
    "clipped slope": lambda z: clipped(1.0, z) @ W,
    "slope without value": lambda z: hook(z) @ W,
    "rule in jit": lambda z: jax.jit(lambda z: clipped(1.0, z))(z) @ W,
    "rule in scan": lambda z: lax.scan(lambda c, x: (clipped(1.0, c) + x, None), 0.0, z)[0],
    "rule in cond": lambda z: lax.cond(W[0] > 0, lambda z: clipped(1.0, z).sum(), lambda z: z.sum(), z),
    "rule in fori": lambda z: lax.fori_loop(0, 3, lambda i, c: clipped(1.0, c) + z[i], 0.0),
    "rule in checkpoint": lambda z: jax.checkpoint(lambda z: jnp.sum(clipped(1.0, z)))(z),
    "rule, squared": lambda z: jnp.sum(clipped(1.0, z) ** 2),
    "root": lambda z: root(z) @ W,
    "rounding solve": lambda z: solved(jnp.round, z) @ W,
    "reduced precision": lambda z: lax.reduce_precision(z, 5, 2).sum(),
    "callback": lambda z: jax.pure_callback(lambda z: z, z, z) @ W,
    "relu in scan": lambda z: lax.scan(lambda c, x: (jax.nn.relu(c + x), None), 0.0, z)[0],
    "relu in cond": lambda z: lax.cond(W[0] > 0, lambda z: jax.nn.relu(z).sum(), lambda z: z.sum(), z),
    "cond on z": lambda z: lax.cond(z[0] > 0, lambda z: z.sum(), lambda z: -z.sum(), z),
    "while on z": lambda z: lax.while_loop(lambda c: c < 5, lambda c: c + 1, z[0]),
    "z**3": lambda z: jnp.sum(z**3),
    "z**0.5": lambda z: jnp.sum(z**0.5),
    "1/z": lambda z: jnp.sum(1 / z),
    "cube in scan": lambda z: lax.scan(lambda c, x: (c * x, None), 1.0, z)[0],
    "prod": jnp.prod,
    "exp": lambda z: jnp.exp(z).sum(),
    "determinant": lambda z: jnp.linalg.det(A + jnp.diag(z)),
    "solve in z": lambda z: jnp.linalg.solve(A + jnp.diag(z), W).sum(),
    "student": lambda z: jsp.stats.t.logpdf(z, 3.0).sum(),
}


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        pytest.param(f, d, id=f"{d} {name}")
        for d, table in [(1, AFFINE), (2, QUADRATIC), (None, NEITHER)]
        for name, f in table.items()
    ],
)
def test_degree(f, expected):
    assert degree(f, W) == expected
    assert jax.jit(lambda w: jnp.array(degree(lambda z: f(z) + w.sum(), w) or 0))(W) == (expected or 0)


def test_rules_are_told_apart_from_values():
    """By its values a function may be affine whose slope is not to be read; what is in the way is named."""
    seen = {name: dependence(NEITHER[name], W) for name in ("clipped slope", "slope without value", "rule, squared")}
    assert {name: found.degree for name, found in seen.items()} == dict(zip(seen, (1, 1, 2), strict=True))
    assert all(found.obstacle.startswith("the custom derivative rule of") for found in seen.values())
    assert seen["clipped slope"].obstacle.split()[-1] == seen["rule, squared"].obstacle.split()[-1] == "clipped"
    assert dependence(NEITHER["exp"], W).obstacle == "exp" and dependence(AFFINE["dot"], W).obstacle == ""
    assert not separable(lambda z: jnp.sum(clipped(1.0, z) ** 2), W)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, bool])
def test_z_that_is_not_floating_point_has_no_mean_among_its_values(dtype):
    z = jnp.ones(3, dtype)
    assert degree(lambda z: z.astype(float) @ W, z) is None and degree(lambda z: 1.0, z) == 1
    assert dependence(lambda z: (z @ W, 0.0), z).obstacle == f"{z.dtype} z"


def test_parts_of_a_pytree():
    z = {"a": W, "b": (jnp.ones((2, 3)), jnp.array(1.0))}
    assert degree(lambda z: (z["b"][0] @ W).sum() + z["a"] @ W, z) == 1
    assert degree(lambda z: (z["b"][0] @ z["a"]).sum(), z) == 2
    assert degree(lambda z: z["b"][1] * (z["b"][0] @ z["a"]).sum(), z) is None
    assert degree(lambda z: (z["a"], z["b"][1] ** 2), z) == 2  # of several outputs the largest counts
    assert degree(lambda z: 0.0, {}) == 1


def test_closed_over_values_may_be_batched():
    """Under vmap and grad the parameters are tracers."""
    f = lambda w: jnp.where(degree(lambda z: z @ w, w) == 1, w.sum(), jnp.nan)
    np.testing.assert_array_equal(jax.vmap(jax.grad(f))(jnp.ones((2, 3))), jnp.ones((2, 3)))


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda z: z @ z, True),
        (lambda z: -0.5 * jnp.sum(((z - W) * jnp.exp(W)) ** 2 + W), True),
        (lambda z: W @ (z * z - z), True),
        (lambda z: jax.jit(jnp.square)(z) @ A @ W, True),
        (lambda z: (W @ z) ** 2, False),
        (lambda z: z @ z[::-1], False),
        (lambda z: jnp.cumsum(z) @ z, False),
        (lambda z: z @ A @ z, False),
        (lambda z: jnp.var(z), False),
        (lambda z: lax.fori_loop(0, 2, lambda _, c: jnp.roll(c, 1), z) @ z, False),
    ],
)
def test_separable(f, expected):
    assert separable(f, W) == expected
    if expected:
        hessian = np.array(jax.jit(jax.hessian(f))(W))
        np.testing.assert_array_equal(hessian, np.diag(np.diag(hessian)))


UNARY = {
    "neg": jnp.negative,
    "half": lambda a: a / 2,
    "square": jnp.square,
    "abs": jnp.abs,
    "relu": jax.nn.relu,
    "floor": jnp.floor,
    "sort": jnp.sort,
    "reverse": lambda a: a[::-1],
    "cumsum": jnp.cumsum,
    "largest": lambda a: jnp.full(3, a.max()),
    "chosen": lambda a: jnp.where(a > 0.3, a, 1.0),
    "one-hot": lambda a: jax.nn.one_hot(jnp.argmax(a), 3),
    "tanh": jnp.tanh,
    "loop": lambda a: lax.fori_loop(0, 2, lambda i, c: c + a[i], a),
    "scan": lambda a: lax.scan(lambda c, x: (c + x, c / 2 + x), jnp.zeros_like(a[0]), a)[1],
    "reciprocal": lambda a: 1 / (a + 7),
    "remainder": lambda a: lax.rem(a, jnp.ones_like(a)),
}
BINARY = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "max": jnp.maximum,
    "dot": lambda a, b: jnp.full(3, a @ b),
    "where": lambda a, b: jnp.where(W > 0, a, b),
}
EXPRESSIONS = st.recursive(
    st.sampled_from([lambda z: z, lambda z: W.astype(z.dtype)]),
    lambda inner: st.one_of(
        st.builds(lambda op, a: lambda z: UNARY[op](a(z)), st.sampled_from(sorted(UNARY)), inner),
        st.builds(lambda op, a, b: lambda z: BINARY[op](a(z), b(z)), st.sampled_from(sorted(BINARY)), inner, inner),
    ),
    max_leaves=5,
)


@settings(max_examples=60)
@given(EXPRESSIONS, st.integers(0, 1000))
def test_no_other_function_passes_for_a_polynomial(x64, expression, seed):
    f = lambda z: jnp.sum(expression(z))
    order = degree(f, jnp.zeros(3))
    if order is None:
        return
    start, step = np.random.default_rng(seed).normal(size=(2, 3))
    values = jax.vmap(f)(jnp.asarray(start + np.arange(-4, 6)[:, None] * step))
    differences = np.diff(values, n=order + 1)
    # differences of order d of a polynomial of degree d - 1 vanish, to the rounding of its values
    assert np.abs(differences).max() <= 1e-12 * (1 + np.abs(values).max()), order


@settings(max_examples=25)
@given(EXPRESSIONS)
def test_separable_functions_have_a_diagonal_hessian(expression):
    f = lambda z: jnp.sum(expression(z))
    if separable(f, W):
        hessian = np.array(jax.hessian(f)(W))
        np.testing.assert_array_equal(hessian * (1 - np.eye(3)), 0)


def test_scan_of_a_growing_product_reaches_its_fixpoint():
    doubling = lambda z, power: lax.scan(lambda c, _: (partial(jnp.multiply, c)(c), None), z[0], None, length=power)[0]
    assert degree(lambda z: doubling(z, 3), W) is None
