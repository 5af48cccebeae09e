"""Impossible data, by their potentials or by what these forbid together, and no numbers: all structures agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elbo import LOG_ZERO
from elbo.numerics import IMPOSSIBLE
from elbo.posteriors import AlignmentPosterior, ChainPosterior, SemiMarkovPosterior, TreePosterior

from .alignments import enumerated as listed_alignments
from .chains import enumerated as listed_chains
from .chains import random_chain
from .segmentations import enumerated as listed_segmentations
from .segmentations import random_semi_markov
from .trees import enumerated as listed_trees
from .trees import random_tree


def chains(homogeneous):
    q = random_chain(5, 4, 2, homogeneous=homogeneous, length=3)
    on = lambda a: a if homogeneous else a + jnp.zeros((3, 1, 1))
    make = lambda initial=q.initial, transition=q.transition, states=q.states, length=3: ChainPosterior(
        initial, transition, states, jnp.array(length, jnp.int32)
    )
    # from the first state on, one stays there; the last frame asks for the other
    stuck = jnp.array([0.0, LOG_ZERO]), on(jnp.array([[0.0, LOG_ZERO], [0.0, 0.0]]))
    impossible = [
        make(initial=jnp.full(2, -jnp.inf)),
        make(transition=on(jnp.full((2, 2), LOG_ZERO))),
        make(states=q.states.at[1].set(-jnp.inf)),
        make(*stuck, q.states.at[2, 0].set(LOG_ZERO)),
    ]
    wrong = [make(states=q.states.at[1, 1].set(jnp.nan)), make(states=q.states.at[2, 0].set(jnp.inf))]
    return q, listed_chains(q)["log_partition"], impossible, [*wrong, make(length=0), make(length=5)]


def segmentations(by_frame):
    q = random_semi_markov(5, 4, 2, 2, by_frame=by_frame, length=3)
    make = lambda initial=q.initial, transitions=q.transitions, durations=q.durations, states=q.states, length=3: (
        SemiMarkovPosterior(initial, transitions, durations, states, jnp.array(length, jnp.int32))
    )
    impossible = [
        make(initial=jnp.full(2, -jnp.inf)),
        make(transitions=jnp.full((2, 2), LOG_ZERO)),  # three frames are more than one segment
        make(states=q.states.at[1].set(-jnp.inf)),
        make(durations=q.durations.at[..., 0].set(LOG_ZERO)),  # an odd number is no sum of twos
    ]
    wrong = [make(states=q.states.at[1, 1].set(jnp.nan)), make(states=q.states.at[2, 0].set(jnp.inf))]
    return q, listed_segmentations(q)["log_partition"], impossible, [*wrong, make(length=0), make(length=5)]


def trees():
    q = random_tree(3, 4, 2, 2, length=3, single=True)
    make = lambda root=q.root, rules=q.rules, tags=q.tags, length=3: TreePosterior(
        root, rules, tags, jnp.array(length, jnp.int32)
    )
    impossible = [
        make(root=jnp.full_like(q.root, -jnp.inf)),
        # every rule has two preterminals, so that only two words have a parse
        make(rules=q.rules.at[:, :2].set(LOG_ZERO).at[:, :, :2].set(LOG_ZERO)),
        make(tags=q.tags.at[2].set(-jnp.inf)),
        make(root=q.root.at[2:].set(LOG_ZERO), length=1),
    ]
    wrong = [make(tags=q.tags.at[1, 1].set(jnp.nan)), make(rules=q.rules.at[1, 2, 0].set(jnp.inf))]
    return q, listed_trees(q)["log_partition"], impossible, [*wrong, make(length=0), make(length=5)]


def alignments():
    states = np.random.default_rng(0).normal(size=(4, 5))
    states[3:] = np.nan
    states = jnp.asarray(states)
    make = lambda states=states, repeats=(False, False), length=3, count=2: AlignmentPosterior(
        states, jnp.array(repeats), jnp.array(length, jnp.int32), jnp.array(count, jnp.int32)
    )
    q = make()
    impossible = [
        make(states=q.states.at[1].set(-jnp.inf)),
        make(states=q.states.at[:, 1].set(LOG_ZERO)),
        make(length=1),
        make(repeats=(False, True), length=2),
    ]
    wrong = [make(states=q.states.at[1, 1].set(jnp.nan)), make(states=q.states.at[2, 4].set(jnp.inf))]
    return q, listed_alignments(q)["log_z"], impossible, [*wrong, make(length=5), make(count=3), make(count=-1)]


TABLE = {
    "chain": lambda: chains(True),
    "chain of steps": lambda: chains(False),
    "semi-Markov": lambda: segmentations(False),
    "semi-Markov by frame": lambda: segmentations(True),
    "tree": trees,
    "alignment": alignments,
}


def values(q, z, key):
    """Everything that a posterior says, under the kind of what it says."""
    best, score = q.best()
    parts = lambda q: [a for a in vars(q).values() if a is not None and jnp.issubdtype(a.dtype, jnp.floating)]

    def loss(q):
        q = q.prepared()
        return q.log_partition() + q.entropy() + sum(jnp.sum(a**2) for a in jax.tree.leaves(q.mean()))

    log_p, slopes = jax.value_and_grad(lambda q: q.prepared().log_prob(z), allow_int=True)(q)
    log_z, bare = q.log_partition(), q.log_prob(q.mode())
    q, gradients = q.prepared(), parts(jax.grad(loss, allow_int=True)(q))
    found = {
        "probabilities": [q.mean(), q.mode(), q.sample(key)],
        "logs": [log_z, q.log_partition(), q.entropy(), score],
        "log_prob": [log_p, bare, q.log_prob(z)],
        "lists": [best],
        "gradients": gradients,
        "slopes": parts(slopes),
    }
    if isinstance(q, ChainPosterior):
        found["probabilities"] += [q.relaxed(key, 0.5), jnp.exp(q.filtered()[2])]
    if isinstance(q, TreePosterior):
        found["probabilities"] += [q.spans()]
        found["lists"] += [q.consensus()]
    return found


@pytest.mark.parametrize("name", TABLE)
def test_all_structures_agree(x64, key, name):
    q, log_z, impossible, wrong = TABLE[name]()
    z = jax.jit(lambda q: q.mode())(q)
    every = jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), q, *impossible, *wrong)
    seen = jax.device_get(jax.jit(jax.vmap(values, (0, None, None)))(every, z, key))
    for i in range(1 + len(impossible) + len(wrong)):
        one = {kind: [a[i] for a in jax.tree.leaves(value)] for kind, value in seen.items()}
        if i == 0:  # whatever is beside it
            np.testing.assert_allclose(one["logs"][:2], log_z, rtol=1e-12)
            assert all(np.isfinite(a).all() for value in one.values() for a in value)
            assert one["logs"][2] > 0 > one["log_prob"][0] and all(a.any() for a in one["gradients"])
        elif i <= len(impossible):
            assert one["logs"] == [LOG_ZERO] * 4 and max(one["log_prob"]) <= IMPOSSIBLE
            assert not any(a.any() for kind in ("probabilities", "gradients", "slopes") for a in one[kind])
            assert all((a == -1).all() for a in one["lists"])
        else:
            assert np.isnan(one["logs"]).all() and np.isnan(one["log_prob"]).all()
            assert all((a == -1).all() for a in one["lists"])
            assert np.isnan(jax.tree.leaves(seen["probabilities"][1:3])[0][i]).any()


@pytest.mark.parametrize("name", TABLE)
def test_a_path_that_is_forbidden_has_no_probability(x64, name):
    q, _, impossible, _ = TABLE[name]()
    # what one of them forbids, with the rest of another
    z = jax.jit(lambda q: q.mode())(q)
    array = "tags" if name == "tree" else "states"
    at = (z.tags if name == "tree" else z if name == "alignment" else z.states) > 0
    forbids = {**vars(q), array: jnp.where(at & (jnp.arange(4) == 1)[:, None], LOG_ZERO, getattr(q, array))}
    log_p, total = jax.jit(lambda q: (q.log_prob(z), q.log_partition()))(type(q)(**forbids))
    assert log_p <= IMPOSSIBLE < total


@pytest.mark.parametrize("name", TABLE)
def test_lengths_of_narrow_integers(name):
    q, _, _, _ = TABLE[name]()
    names = ("length", "count") if name == "alignment" else ("length",)
    narrow = type(q)(**{**vars(q), **{n: getattr(q, n).astype(jnp.uint8) for n in names}})
    out = jax.eval_shape(lambda q: (q.mean(), q.entropy(), q.best(), q.mode()), narrow)
    assert out == jax.eval_shape(lambda q: (q.mean(), q.entropy(), q.best(), q.mode()), q)
    with pytest.raises(ValueError, match=r"length: got 5, expected . to 4"):
        type(q)(**{**vars(q), "length": jnp.array(5, jnp.uint8)}).mean()


def test_states_of_narrow_integers():
    """256 states of a uint8: the padding, −1, is not the last of them."""
    states, count = jnp.zeros((3, 256)), jnp.array(2)
    q = ChainPosterior(states[0], jnp.zeros((256, 256)), states, count)
    assert not q.path(jnp.array([1, 2, 3], jnp.uint8)).states[2].any()
    q = AlignmentPosterior(jnp.zeros((3, 257)), jnp.zeros(128, bool), count, jnp.array(128))
    assert not q.path(jnp.array([1, 2, 3], jnp.uint8))[2].any()
