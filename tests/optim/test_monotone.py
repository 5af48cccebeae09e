"""No update of EM decreases the objective: over a thousand random problems, all families, weights and priors."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import elbo
import optim

from ..problems import LARGER, PROBLEMS, SMALL, arrays, prior_of, random_weights, stack, without_floor

BATCH, EXAMPLES, STEPS = 25, 3, 20
ROWS = [(name, sizes, kind) for name in PROBLEMS for sizes, kind in [(SMALL, "data"), (LARGER, "scale")]]


def draw(name, sizes, kind, rng):
    """One problem: parameters, data, weights and a prior; no prior (its count is 0) for a third of them."""
    problem = PROBLEMS[name]
    ys = problem.data(rng, sizes)
    theta = problem.theta(rng, sizes, ys)
    theta = without_floor(theta) if rng.random() < 0.5 else theta  # a likelihood without a maximum is climbed as well
    count = np.exp(rng.uniform(-3, 3)) * (rng.random() < 0.67)
    prior = prior_of(problem.theta(rng, sizes, ys), count, kind)
    return elbo.Params(theta, theta), ys, random_weights(rng, sizes.data), prior


def climb(model, params, ys, weights, prior):
    """`Info` of STEPS updates."""
    rule = optim.em_step(model, prior=prior, chunk_size=None)

    def step(params, _):
        params, _, info = rule.update(None, params, (), ys, weights=weights)
        return params, info

    return jax.lax.scan(step, params, length=STEPS)[1]


def falls(name, sizes, kind, examples, dtype):
    """Of each problem and step, by how much the objective fell, relative to it; fails if an update was rejected."""
    model = PROBLEMS[name].model(sizes)
    batch = jax.jit(jax.vmap(lambda *problem: climb(model, *problem)))
    seen = []

    @settings(max_examples=examples)
    @given(st.integers(0, 2**31 - 1))
    def check(seed):
        rng = np.random.default_rng(seed)
        problems = arrays(stack([draw(name, sizes, kind, rng) for _ in range(BATCH)]), dtype)
        info = jax.tree.map(np.asarray, batch(*problems))
        assert info.finite.all() and info.feasible.all()
        before, after = info.objective[:, :-1], info.objective[:, 1:]
        assert before.dtype == dtype
        seen.append((before - after) / np.maximum(1, np.abs(before)))
        assert np.median(after[:, -1] - before[:, 0]) > 0

    check()
    return np.concatenate(seen)
