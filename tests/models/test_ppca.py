"""The closed form of PPCA refuses what has no maximum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elbo.models import ppca

YS = np.random.default_rng(0).normal(size=(10, 30)).astype(np.float32)  # centred, they have rank 9


@pytest.mark.parametrize(
    ("ys", "latent", "words"),
    [
        (YS, 9, "rank 9 or less"),
        (YS, 12, "rank 12 or less"),
        (np.tile(YS[:1], (5, 1)), 1, "rank 1 or less"),
        (np.where(YS == YS[0, 0], np.nan, YS), 1, "not finite"),
        (YS[0], 1, "expected floating-point data"),
        (YS, 30, "latent: got 30"),
    ],
)
def test_data_without_a_maximum_are_refused(ys, latent, words):
    with pytest.raises(ValueError, match=words):
        ppca.maximum_likelihood(jnp.asarray(ys), latent)


def test_while_tracing_they_give_nan_and_others_what_they_give_outside():
    compiled = jax.jit(ppca.maximum_likelihood, static_argnums=1)
    assert np.isnan(compiled(YS, 9)[1]) and np.isnan(compiled(YS, 9)[0].observation.scale()).all()
    for unit in (1.0, 1e-12, 1e12):
        ours, theirs = compiled(unit * YS, 8)[1], ppca.maximum_likelihood(jnp.asarray(YS), 8)[1]
        np.testing.assert_allclose(ours + 30 * np.log(unit), theirs, rtol=1e-3)
