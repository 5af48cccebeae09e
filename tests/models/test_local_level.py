"""The local level model of the Nile against its published variances."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elbo import optim
from elbo.models import linear_gaussian_chain as chain

from .test_linear_gaussian_chain import never_decreases

pytestmark = pytest.mark.usefixtures("x64")

NILE = (1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960, 1180, 799, 958, 1140)
NILE += (1100, 1210, 1150, 1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694, 940, 833, 701, 916, 692, 1020, 1050, 969)
NILE += (831, 726, 456, 824, 702, 1120, 1100, 832, 764, 821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759)
NILE += (781, 865, 845, 944, 984, 897, 822, 1010, 771, 676, 649, 846, 812, 742, 801, 1040, 860, 874, 848, 890)
NILE += (744, 749, 838, 1050, 918, 986, 797, 923, 975, 815, 1020, 906, 901, 1170, 912, 746, 919, 718, 714, 740)


def test_the_local_level_of_the_nile_has_the_published_variances():
    """15099 and 1469.1 (Durbin & Koopman 2012, 2.3); nothing that is known moves."""
    ys = jnp.asarray(NILE, float)[None, :, None]
    start = chain.local_level(ys)
    found = optim.run(optim.eg_step(chain.model(1), optax.lbfgs()), start, ys, steps=30).params.theta
    variances = [float(part.scale()[0] ** 2) for part in (found.observation, found.transition)]
    np.testing.assert_allclose(variances, (15099, 1469.1), rtol=2e-4)
    climbed = optim.run(optim.em_step(chain.model(1)), start, ys, steps=30)
    assert never_decreases(np.asarray(climbed.history.elbo))
    for theta in (found, climbed.params.theta):
        still = [np.ravel(a) for a in (theta.transition.weights, theta.observation.bias, theta.initial.mean)]
        np.testing.assert_array_equal(np.ravel(still), [1, 0, float(start.theta.initial.mean[0])])
