"""No update of EM decreases the objective: over a thousand random problems, all families, weights and priors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optim

from ..problems import LARGER, PROBLEMS, SMALL, prior_of, random_weights, start

BATCH, EXAMPLES, STEPS = 16, 4, 6
ROWS = [(name, sizes, kind) for name in PROBLEMS for sizes, kind in [(SMALL, "data"), (LARGER, "scale")]]


def climb(name, sizes, kind, key):
    """The objective before each of STEPS updates, and whether every update was accepted and used every datum."""
    problem = PROBLEMS[name]
    keys = jax.random.split(key, 5)
    params, ys = start(problem, keys[0], sizes)
    weights = random_weights(keys[1], sizes.data)
    # count 0: no prior, for a third of the problems
    count = jnp.exp(jax.random.uniform(keys[2], minval=-3, maxval=3)) * jax.random.bernoulli(keys[3], 0.67)
    prior = prior_of(problem.theta(keys[4], sizes, ys), count, kind)
    rule = optim.em_step(problem.model(sizes), prior=prior, chunk_size=None)

    def step(params, _):
        params, _, info = rule.update(None, params, (), ys, weights=weights)
        return params, info

    return jax.lax.scan(step, params, length=STEPS)[1]


def run_row(row, tolerance):
    """How many problems were tried; fails at the first whose objective falls."""
    name, sizes, kind = row
    batch = jax.jit(jax.vmap(lambda key: climb(name, sizes, kind, key)))
    tried = 0

    @settings(max_examples=EXAMPLES)
    @given(st.integers(0, 2**31 - 1))
    def check(seed):
        nonlocal tried
        info = jax.tree.map(np.asarray, batch(jax.random.split(jax.random.key(seed), BATCH)))
        assert info.finite.all() and info.feasible.all()
        objective = info.objective
        fall = (objective[:, :-1] - objective[:, 1:]) / np.maximum(1, np.abs(objective[:, :-1]))
        assert fall.max() <= tolerance, f"{fall.max()} at problem {np.unravel_index(fall.argmax(), fall.shape)}"
        tried += BATCH

    check()
    return tried
