"""Robust location and spread of columns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elbo import optim
from elbo.models import factor_analysis, hmm, mixture
from elbo.models._scales import scales

NORMAL = np.random.default_rng(0).normal(size=201)
NAN = np.full(201, np.nan)


def seen(count):
    return np.where(np.arange(201) < count, NORMAL, np.nan)


# column, location, spread (None: whatever it is)
LOCATION, SPREAD = np.median(NORMAL), np.median(abs(NORMAL - np.median(NORMAL))) / 0.67449
COLUMNS = {
    "normal": (NORMAL, LOCATION, SPREAD),
    "small": (1e-30 * NORMAL, 1e-30 * LOCATION, 1e-30 * SPREAD),
    "large": (1e30 * NORMAL, 1e30 * LOCATION, 1e30 * SPREAD),
    "shifted": (1000 + NORMAL, 1000 + LOCATION, SPREAD),
    "one far value": (np.where(np.arange(201) == 7, 1e38, NORMAL), LOCATION, SPREAD),
    "infinities": (np.where(abs(NORMAL) > 1.5, np.inf * NORMAL, NORMAL), np.median(NORMAL[abs(NORMAL) <= 1.5]), None),
    "missing": (seen(101), np.median(NORMAL[:101]), None),
    "one datum": (np.where(np.arange(201) == 3, -2.5, NAN), -2.5, 2.5),
    "all missing": (NAN, 0.0, 1.0),
    "zeros": (np.zeros(201), 0.0, 1.0),
    "constant": (np.full(201, -1e-30), -1e-30, 1e-30),
    "sparse": (np.where(np.arange(201) % 10 == 0, 3.0, 0.0), 0.0, 3 / 0.67449),
    "full range": (np.where(np.arange(201) % 2 == 0, 3e38, -3e38), 3e38, None),
}


def test_columns_of_every_kind():
    """All at once, alone (vmapped), with weights, and as a sample of many."""
    table = jnp.asarray(np.column_stack([c for c, _, _ in COLUMNS.values()]), jnp.float32)
    location = np.array([row[1] for row in COLUMNS.values()])
    spread = np.array([np.nan if row[2] is None else row[2] for row in COLUMNS.values()])
    together = scales(table)
    assert np.isfinite(together.spread).all() and (together.spread > 0).all() and (together.floor() > 0).all()
    np.testing.assert_allclose(together.location, location, rtol=1e-5)
    known = ~np.isnan(spread)
    np.testing.assert_allclose(together.spread[known], spread[known], rtol=1e-4)
    alone = jax.vmap(lambda column: scales(column[:, None]), 1)(table)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:, 0]), together, alone)

    ones, counts = jnp.ones(201), np.random.default_rng(1).integers(0, 3, 201)
    left_out = scales(jnp.where((counts > 0)[:, None], table, jnp.nan), ones)
    jax.tree.map(np.testing.assert_array_equal, scales(table, jnp.asarray(counts > 0, jnp.float32)), left_out)
    weighted = scales(table, 1e-30 * jnp.asarray(counts, jnp.float32))
    np.testing.assert_allclose(weighted.location[0], np.median(np.repeat(NORMAL, counts)), atol=0.02)

    many = scales(jnp.tile(table, (50, 1)))  # 10,000 rows
    assert (abs(many.location - together.location) <= 0.05 * together.spread).all()
    np.testing.assert_allclose(many.spread, together.spread, rtol=0.05)


def test_no_data_and_wrong_ones():
    assert scales(jnp.zeros((0, 2))).spread.tolist() == [1, 1]
    assert scales(jnp.ones((3, 2)), jnp.zeros(3)).spread.tolist() == [1, 1]
    with pytest.raises(ValueError, match="xs: got float32.*expected"):
        scales(jnp.ones(3))
    with pytest.raises(ValueError, match=r"weights: got \[2\], expected \[3\]"):
        scales(jnp.ones((3, 2)), jnp.ones(2))


def test_one_datum_whose_square_overflows_spoils_no_start(key):
    ys = jnp.concatenate([jax.random.normal(key, (11, 1)), jnp.full((1, 1), 1e25)])
    starts = {
        "mixture": mixture.init(key, ys, 2, covariance_type="diag"),
        "hmm": hmm.init(key, ys[None], 2, covariance_type="diag"),
        "factor analysis": factor_analysis.init(key, ys, 1),
    }
    for name, params in starts.items():
        assert all(jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(params)), name
    assert jnp.max(abs(starts["mixture"].theta.components.mean)) < 4
    assert jnp.abs(starts["factor analysis"].theta.observation.bias[0]) < 4
    step = optim.em_step(mixture.model(2)).update(None, starts["mixture"], (), ys)
    assert step[2].dropped == 1 and jnp.isfinite(step[2].elbo) and step[2].finite
