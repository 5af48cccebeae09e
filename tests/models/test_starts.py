"""Where fits start: in any unit, shift and order of the columns, with outliers, constants and holes, in chunks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import optim
from elbo.models import factor_analysis, hmm, mixture
from elbo.models._chunks import map_rows, sum_rows
from elbo.models.families import Bernoulli, LinearGaussian, Normal, Poisson

N, D = 60, 3
RNG = np.random.default_rng(0)
CLOUDS = np.r_[RNG.normal(size=(40, D)), RNG.normal(size=(20, D)) + 6]
FACTOR = RNG.normal(size=(N, 1)) @ np.array([[1.0, -1.0, 0.5]]) + 0.5 * RNG.normal(size=(N, D))


def outlier(y):
    return np.where(np.arange(N)[:, None] == 3, 1e6, y)


DATA = {"clouds": CLOUDS, "factor": FACTOR}
# scale, shift (in units of the scale) and order of the columns
UNITS = {
    "tiny": (np.full(D, 1e-30), np.zeros(D), [0, 1, 2]),
    "huge": (np.full(D, 1e30), np.zeros(D), [0, 1, 2]),
    "mixed": (np.array([1e-30, 1.0, 1e30]), np.array([0.0, 100.0, -100.0]), [0, 1, 2]),
    "order": (np.array([1.0, 1e6, 1e-6]), np.zeros(D), [2, 0, 1]),
}
JUNK = {
    "outlier": outlier(CLOUDS),
    "constant column": CLOUDS * [1, 0, 1] + [0, 2.5, 0],
    "constant": np.full((N, D), -7e20),
    "zeros": np.zeros((N, D)),
    "one datum": np.where(np.arange(N)[:, None] == 3, CLOUDS, np.nan),
    "no datum": np.full((N, D), np.nan),
}


@partial(jax.jit, static_argnames="model")
def fit(model, ys):
    key = jax.random.key(0)
    if model == "hmm":
        ys = ys.reshape(4, N // 4, D)
        start, model = hmm.init(key, ys, 2), hmm.model(2)
    elif model == "factor":
        start, model = factor_analysis.init(key, ys, 1), factor_analysis.model(1)
    else:
        start, model = mixture.init(key, ys, 2, covariance_type=model), mixture.model(2)
    run = optim.run(optim.em_step(model), start, ys, steps=5)
    theta = run.params.theta
    family = next(f for f in jax.tree.leaves(theta, is_leaf=elbo.extend.is_family) if hasattr(f, "floor"))
    location = family.bias if isinstance(family, LinearGaussian) else family.mean
    return start, location, family.scale(), run.history.objective, run.history.dropped


@pytest.mark.parametrize("model", ["full", "diag", "hmm", "factor"])
def test_starts_and_fits_follow_the_units_of_the_columns(model):
    y = FACTOR if model == "factor" else CLOUDS
    _, location, scale, objective, _ = fit(model, jnp.asarray(y, jnp.float32))
    steps = N / 4 if model == "hmm" else 1  # a datum is a sequence
    assert objective[-1] > objective[0]
    for name, (unit, shift, order) in UNITS.items():
        if model == "factor" and name == "order":
            continue  # the random loadings are drawn column by column
        _, there, wide, values, dropped = fit(model, jnp.asarray(((y + shift) * unit)[:, order], jnp.float32))
        back = np.argsort(order)
        np.testing.assert_allclose(there[..., back] / unit - shift, location, atol=2e-3, err_msg=name)
        np.testing.assert_allclose(wide[..., back] / unit, scale, rtol=2e-3, err_msg=name)
        np.testing.assert_allclose(values + steps * np.log(unit).sum(), objective, rtol=1e-3, err_msg=name)
        assert int(dropped[0]) == 0


@pytest.mark.parametrize("model", ["full", "diag", "hmm", "factor"])
def test_starts_and_fits_of_degenerate_data_are_finite_and_tell(model):
    for name, y in JUNK.items():
        start, _, scale, objective, dropped = fit(model, jnp.asarray(y, jnp.float32))
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(start)), name
        if name != "no datum":
            assert np.isfinite(objective).all() and np.isfinite(scale).all(), name
        if name == "no datum" and model != "hmm":  # a sequence of missing frames is a datum of ln P = 0
            assert int(dropped[0]) == N
    if model in ("full", "diag"):
        _, location, scale, _, _ = fit(model, jnp.asarray(JUNK["outlier"], jnp.float32))
        assert (np.sort(np.asarray(scale), 0)[0] < 3).all()  # the far value is in one component alone


@pytest.mark.parametrize("junk", ["rows", "weights"])
def test_starts_leave_out_what_em_leaves_out(junk, key):
    """Bits written as −1, halves of counts, infinities; and data of weight 0."""
    bad = jnp.arange(N) % 7 == 0
    bits, counts = (CLOUDS > 3).astype(np.float32), np.floor(abs(CLOUDS)).astype(np.float32)
    for family, good, wrong in (
        (Bernoulli(jnp.zeros((2, D))), bits, -1.0),
        (Poisson(jnp.zeros((2, D))), counts, 0.5),
        (Normal.create(jnp.zeros((2, D)), jnp.ones((2, D))), np.float32(CLOUDS), jnp.inf),
    ):
        init = partial(mixture.init, key, components=2, family=family)
        if junk == "rows":
            one, two = (init(jnp.where(bad[:, None], w, good)) for w in (wrong, jnp.nan))
        else:
            one, two = (init(jnp.where(bad[:, None], w, good), weights=1.0 - bad) for w in (wrong, 0.0))
        jax.tree.map(np.testing.assert_array_equal, one, two)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(one))


def test_frames_without_a_value_or_an_input_are_left_out(key):
    ys = jnp.asarray(RNG.normal(size=(6, 20, 1)), jnp.float32)
    inputs = jnp.pad(ys[:, :-1], ((0, 0), (1, 0), (0, 0)))
    family = LinearGaussian.create(jnp.zeros((2, 1, 1)), jnp.zeros((2, 1)), jnp.ones((2, 1)))
    init = partial(hmm.init, key, states=2, family=family)
    starts = [
        init(hmm.Frames(ys.at[1, 5].set(jnp.nan), inputs)),
        init(hmm.Frames(ys.at[1, 5].set(jnp.inf), inputs)),
        init(hmm.Frames(ys, inputs.at[1, 5].set(jnp.nan))),
    ]
    assert all(jnp.isfinite(leaf).all() for start in starts for leaf in jax.tree.leaves(start))
    jax.tree.map(np.testing.assert_array_equal, starts[0], starts[1])
    model = hmm.model(2)
    missing = [
        elbo.evidence(model)(starts[0], hmm.Frames(*f))
        for f in ((ys.at[1, 5].set(jnp.nan), inputs), (ys, inputs.at[1, 5].set(jnp.nan)))
    ]
    assert np.isfinite(missing[0]).all()
    np.testing.assert_allclose(*missing)


@pytest.mark.parametrize("weight", [jnp.nan, -1.0, jnp.inf])
def test_data_of_weights_that_are_none_are_left_out(weight):
    ys = jax.random.normal(jax.random.key(1), (6, 4, 2)) + 3 * jnp.arange(6.0)[:, None, None]
    for init, data in ((mixture.init, ys[:, 0]), (factor_analysis.init, ys[:, 0]), (hmm.init, ys)):
        got, want = (init(jax.random.key(0), data, 2, weights=jnp.ones(6).at[3].set(w)) for w in (weight, 0.0))
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_starts_take_one_array():
    pair = (jnp.arange(28.0), jnp.arange(28.0) ** 2)
    for init in (mixture.init, factor_analysis.init):
        with pytest.raises(ValueError, match="ys: got a tuple, expected one array"):
            init(jax.random.key(0), pair, 2)
    with pytest.raises(ValueError, match="family: got batch shape"):
        mixture.init(jax.random.key(0), jnp.ones((4, 2)), 3, family=Normal.create(jnp.zeros((2, 2)), jnp.ones((2, 2))))


def test_starts_need_no_memory_for_each_datum_and_component():
    ys = jax.ShapeDtypeStruct((100_000, 20), jnp.float32)  # 8 MB
    for init, data in ((mixture.init, ys), (hmm.init, jax.ShapeDtypeStruct((1, *ys.shape), jnp.float32))):
        program = jax.jit(init, static_argnums=2).lower(jax.random.key(0), data, 30).compile()
        assert program.memory_analysis().temp_size_in_bytes < 80e6  # [N, K, D] are 240 MB, and there were four


def test_rows_in_chunks_are_rows():
    x = jnp.arange(11.0)
    assert float(sum_rows(lambda counted, x: jnp.sum(counted * x**2), x, size=4)) == float(jnp.sum(x**2))
    np.testing.assert_array_equal(map_rows(lambda x, y: x + 2 * y, x, x, size=4), 3 * x)


@pytest.mark.parametrize("init", [mixture.init, factor_analysis.init])
def test_data_that_a_jit_closes_over_are_not_sorted_by_the_compiler(init):
    """Which took minutes for 1,797 rows of 64 columns, constants to it, and the program a second."""
    ys = jax.random.normal(jax.random.key(0), (20, 3))
    program = jax.jit(lambda key: init(key, ys, 2)).lower(jax.random.key(1)).compile()
    assert " sort(" in program.as_text()
