from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from elbo._family import with_tap
from elbo.extend import is_family, tapped


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exponential:
    """A family of one parameter, its rate; T(x) = x."""

    log_rate: jax.Array
    tap: Any = None

    def log_prob(self, x):
        return tapped(jnp.multiply, self.log_rate - jnp.exp(self.log_rate) * x, self.tap, x)

    def zero_statistics(self):
        return jnp.zeros_like(self.log_rate)

    def maximize(self, statistics):
        return Exponential(-jnp.log(statistics))

    def log_likelihood(self, statistics):
        return self.log_rate - jnp.exp(self.log_rate) * statistics

    def empty(self, statistics):
        return statistics <= 0


FAMILY = Exponential(jnp.array(0.5))


def test_is_family():
    assert is_family(FAMILY) and is_family(with_tap(FAMILY, jnp.array(0.0)))
    assert not is_family(Exponential) and not is_family(jnp.ones(2)) and not is_family({"tap": None})


def test_a_tap_changes_the_derivative_alone():
    xs = jnp.array([1.0, 2.0, 4.0])

    def total(tap, log_rate):
        family = with_tap(Exponential(log_rate), tap)
        return jax.vmap(family.log_prob)(xs).sum()

    zero = FAMILY.zero_statistics()
    assert total(zero, FAMILY.log_rate) == total(None, FAMILY.log_rate)
    value, (statistics, slope) = jax.jit(jax.value_and_grad(total, (0, 1)))(zero, FAMILY.log_rate)
    np.testing.assert_allclose(value, total(None, FAMILY.log_rate), rtol=1e-6)
    assert statistics == 7  # the derivative in the tap is Σ T(x)
    np.testing.assert_allclose(slope, jax.grad(total, 1)(None, FAMILY.log_rate), rtol=1e-6)


def test_a_tap_costs_the_forward_pass_nothing():
    plain = jax.make_jaxpr(FAMILY.log_prob)(1.0)
    compiled = jax.jit(with_tap(FAMILY, jnp.array(0.0)).log_prob).lower(1.0).compile()
    assert compiled.cost_analysis()["flops"] <= jax.jit(FAMILY.log_prob).lower(1.0).compile().cost_analysis()["flops"]
    assert "custom_jvp" not in str(plain)  # no tap, no trace of it
