"""The problems: one record each. A new one is a new record, and where needed a new function in the peers' adapters."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import elbo
import optim
from models import mixture, vae
from models.families import Categorical, MultivariateNormal

from . import measure
from .peers import Contender, reference
from .peers.reference import Layers

Answer = dict[str, Any]


class Target(NamedTuple):
    """What we mean to reach.

    Attributes:
      text: for people.
      least: the ratio to reach.
      against: the ratio is the time of the best contender whose label holds all these words, over ours; or "gemm": it
        is the share of the machine's own rate of matrix products.
    """

    text: str
    least: float
    against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """One problem, timed and checked.

    Attributes:
      name: for `--only`.
      description: a line for people.
      unit: what is timed.
      task: the peers' `TASKS` that do it.
      make: `make(**sizes)`, the data with where to start; everyone gets the same.
      sizes, tiny: its arguments, and those of a quick trial of the machinery.
      ours: our program on the data.
      reference: the answer that every contender must give, from `peers.reference`.
      tolerance: for each entry of the answer, largest |answer − reference| / largest |reference|.
      flops: floating-point operations of one unit, counted on paper.
      counted: what that count counts.
      peers: libraries, see `peers.ADAPTERS`.
      targets: see `Target`.
    """

    name: str
    description: str
    unit: str
    task: str
    make: Callable[..., Any]
    sizes: dict[str, int]
    tiny: dict[str, int]
    ours: Callable[[Any], Contender]
    reference: Callable[[Any], Answer]
    tolerance: dict[str, float]
    flops: Callable[[Any], float]
    counted: str
    peers: tuple[str, ...] = ()
    targets: tuple[Target, ...] = field(default=())


class Mixture(NamedTuple):
    """Data of one mixture, or of many (leading axis), and where EM starts; float32.

    Attributes:
      ys: [*sets, N, D].
      weights, means, covariances: [*sets, K], [*sets, K, D], [*sets, K, D, D].
      steps: EM iterations before the answers are compared; of the many: also what is timed.
      subset: how many of the sets are compared, and timed for peers that take them one by one.
    """

    ys: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    steps: int
    subset: int

    def answer(self, log_likelihood, weights, means, covariances) -> Answer:
        """What a contender says after `steps`: its log-likelihood, and that of its parameters as the judge sees it."""
        own, *params = (np.asarray(a)[self.compared] for a in (log_likelihood, weights, means, covariances))
        judged = reference.mixture_log_likelihood(self.ys[self.compared], *params)
        return {"log-likelihood": own, "parameters' log-likelihood": judged}

    @property
    def compared(self) -> Any:
        """The index of what is compared: everything, or the first sets."""
        return ... if self.ys.ndim == 2 else slice(self.subset)


def make_mixture(sets: int | None, data: int, size: int, components: int, steps: int, subset: int = 0) -> Mixture:
    """Gaussians about 6 standard deviations apart; EM starts near their centres, with the covariance of all data."""
    rng = np.random.default_rng(0)

    def one():
        centres = rng.standard_normal((components, size)) * 4 / np.sqrt(size)
        roots = np.eye(size) + 0.5 * rng.standard_normal((components, size, size)) / np.sqrt(size)
        which = rng.integers(components, size=data)
        ys = rng.standard_normal((data, size))
        for k in range(components):
            ys[which == k] = ys[which == k] @ roots[k] + centres[k]
        ys = ys.astype(np.float32)
        # not from data points: one far out keeps itself and nothing else, and its covariance is singular
        means = (centres + 0.5 * rng.standard_normal(centres.shape)).astype(np.float32)
        covariance = np.cov(ys.T).reshape(size, size).astype(np.float32)
        weights = np.full(components, 1 / components, np.float32)
        return ys, weights, means, np.tile(covariance, (components, 1, 1))

    if sets is None:
        return Mixture(*one(), steps, subset)
    return Mixture(*[np.stack(a) for a in zip(*[one() for _ in range(sets)], strict=True)], steps, subset)


def mixture_reference(data: Mixture) -> Answer:
    """EM in float64 NumPy."""
    ys, *start = (a[data.compared] for a in (data.ys, data.weights, data.means, data.covariances))
    params = reference.mixture_em(ys, *start, data.steps)
    return data.answer(reference.mixture_log_likelihood(ys, *params), *params)


def mixture_flops(data: Mixture) -> float:
    """E step 2 N K D², M step 2 N K D²; for many data sets, times their number and the steps."""
    *sets, count, size = data.ys.shape
    iteration = 4.0 * count * data.weights.shape[-1] * size**2
    return iteration * sets[0] * data.steps if sets else iteration


def _mixture_params(weights, means, covariances) -> elbo.Params:
    # far below the spread of the data: it must not bind, for the peers have none
    normal = MultivariateNormal.create(means, covariances, floor=1e-4)
    theta = mixture.Theta(Categorical.create(weights), normal)
    return elbo.Params(theta, theta)


def _mixture_answer(data: Mixture, log_likelihood, theta: mixture.Theta) -> Answer:
    parts = theta.weights.probabilities(), theta.components.mean, theta.components.covariance()
    return data.answer(log_likelihood, *parts)


def our_mixture(data: Mixture) -> Contender:
    """One update of `em_step`."""
    rule = optim.em_step(mixture.model(data.weights.shape[-1]))
    ys = jnp.asarray(data.ys)
    params = _mixture_params(data.weights, data.means, data.covariances)
    compiled = measure.compile_program(jax.jit(lambda p, y: rule.update(None, p, (), y)), params, ys)

    def answer():
        moving = params
        for _ in range(data.steps):
            moving, _, _ = compiled.call(moving, ys)
        return _mixture_answer(data, compiled.call(moving, ys)[2].elbo, moving.theta)

    return Contender("elbo", "", answer, measure.carried(compiled, (params,), ys), compiled)


def our_mixtures(data: Mixture) -> Contender:
    """`vmap` of `optim.run` over the data sets."""
    model = mixture.model(data.weights.shape[-1])
    rule = optim.em_step(model)
    ys = jnp.asarray(data.ys)
    params = jax.vmap(_mixture_params)(data.weights, data.means, data.covariances)
    solve = jax.jit(jax.vmap(lambda p, y: optim.run(rule, p, y, steps=data.steps)))
    compiled = measure.compile_program(solve, params, ys)

    def answer():
        result = compiled.call(params, ys).params
        log_likelihood = jnp.mean(jax.vmap(elbo.evidence(model))(result, ys), -1)
        return _mixture_answer(data, log_likelihood, result.theta)

    def run(count):
        for _ in range(count):
            jax.block_until_ready(compiled.call(params, ys))

    return Contender("elbo", "vmap", answer, run, compiled)


class Vae(NamedTuple):
    """A batch for a Bernoulli VAE with one hidden layer each way, and where it starts; float32.

    Attributes:
      ys: [N, D] in {0, 1}.
      eta: [N, Q], the noise for the comparison of the answers.
      encoder, decoder: (kernel, bias) of each layer.
      rate: of Adam.
    """

    ys: np.ndarray
    eta: np.ndarray
    encoder: Layers
    decoder: Layers
    rate: float

    def answer(self, loss, gradient) -> Answer:
        """−L per datum, and its gradient: kernel and bias of each layer, the encoder's first."""
        return {"loss": np.asarray(loss), "gradient": tuple(np.asarray(g) for g in gradient)}


_NOISE = 1  # the seed of the key of the comparison


def make_vae(data: int, size: int, hidden: int, latent: int) -> Vae:
    """Random binary images, random networks, and the noise that `vae_step` draws from the key of the comparison."""
    rng = np.random.default_rng(0)

    def layers(*widths):
        pairs = zip(widths[:-1], widths[1:], strict=True)
        return [
            (
                (rng.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32),
                0.1 * rng.standard_normal(b).astype(np.float32),
            )
            for a, b in pairs
        ]

    ys = (rng.random((data, size)) < rng.random(size)).astype(np.float32)
    unit = elbo.Normal(jnp.zeros(latent, jnp.float32), jnp.zeros(latent, jnp.float32))
    eta = jax.vmap(unit.sample)(jax.random.split(jax.random.key(_NOISE), data))
    return Vae(ys, np.array(eta), layers(size, hidden, 2 * latent), layers(latent, hidden, size), 1e-3)


def our_vae(data: Vae) -> Contender:
    """One update of `vae_step` with Adam."""
    latent, hidden = data.eta.shape[1], data.encoder[0][0].shape[1]
    networks, shaped = vae.init(jax.random.key(0), data.ys.shape[1], latent, hidden=(hidden,))
    model = vae.model(networks)
    rule = optim.vae_step(model, optax.adam(data.rate))
    ys = jnp.asarray(data.ys)

    def network(layers):
        named = {i: {"bias": jnp.array(b), "kernel": jnp.array(w)} for i, (w, b) in enumerate(layers)}
        return {"layers": named}

    def start():
        params = elbo.Params(network(data.decoder), network(data.encoder))
        assert jax.tree.structure(params) == jax.tree.structure(shaped)
        return params

    def step(key, params, state, ys):
        key, sample_key = jax.random.split(key)
        return key, *rule.update(sample_key, params, state, ys)

    def answer():
        # an optimiser that moves nothing and keeps the gradient as its state
        keep = optax.GradientTransformation(optax.tree.zeros_like, lambda g, s, p=None: (optax.tree.zeros_like(g), g))
        checked = optim.vae_step(model, keep)
        params = start()
        _, gradient, info = jax.jit(checked.update)(jax.random.key(_NOISE), params, checked.init(params), ys)
        layers = [net["layers"][i] for net in (gradient.psi, gradient.theta) for i in (0, 1)]
        return data.answer(-info.elbo, [part for layer in layers for part in (layer["kernel"], layer["bias"])])

    carry = jax.random.key(0), start(), rule.init(start())
    compiled = measure.compile_program(jax.jit(step, donate_argnums=(0, 1, 2)), *carry, ys)
    return Contender("elbo", "", answer, measure.carried(compiled, carry, ys), compiled)


def vae_flops(data: Vae) -> float:
    """The products with the four kernels: one forward, two backward, but none for the gradient in the data."""
    kernels = [w.size for w, _ in (*data.encoder, *data.decoder)]
    return 2.0 * len(data.ys) * (3 * sum(kernels) - kernels[0])


_MIXTURE = dict(
    make=make_mixture,
    reference=mixture_reference,
    flops=mixture_flops,
    counted="E step 2NKD² + M step 2NKD²",
)
_ONE_MIXTURE = dict(
    **_MIXTURE,
    unit="EM iteration",
    task="mixture",
    ours=our_mixture,
    tolerance={"log-likelihood": 1e-5, "parameters' log-likelihood": 1e-5},
    peers=("scikit-learn", "pomegranate"),
    tiny=dict(sets=None, data=300, size=3, components=2, steps=3),
)

PROBLEMS = (
    Problem(
        name="gmm-16",
        description="Gaussian mixture, full covariance, N=100,000 D=16 K=16, one EM iteration",
        sizes=dict(sets=None, data=100_000, size=16, components=16, steps=5),
        targets=(Target("4x the best peer", 4),),
        **_ONE_MIXTURE,
    ),
    Problem(
        name="gmm-64",
        description="Gaussian mixture, full covariance, N=50,000 D=64 K=32, one EM iteration",
        sizes=dict(sets=None, data=50_000, size=64, components=32, steps=5),
        targets=(Target("2x the best peer", 2), Target("55% of the machine's GEMM rate", 0.55, ("gemm",))),
        **_ONE_MIXTURE,
    ),
    Problem(
        name="gmm-many",
        description="1,000 data sets at once: Gaussian mixture, full covariance, N=500 D=2 K=3, 50 EM iterations each "
        "(peers: the first 100 data sets, times 10)",
        unit="all the fits",
        task="mixtures",
        sizes=dict(sets=1000, data=500, size=2, components=3, steps=50, subset=100),
        tiny=dict(sets=6, data=100, size=2, components=2, steps=5, subset=3),
        ours=our_mixtures,
        tolerance={"log-likelihood": 1e-5, "parameters' log-likelihood": 1e-5},
        peers=("scikit-learn",),
        targets=(Target("10x scikit-learn in two processes", 10, ("scikit-learn", "2 processes")),),
        **_MIXTURE,
    ),
    Problem(
        name="vae",
        description="VAE, MLP 784-400-20, Bernoulli, batch 128, one sample per datum, one Adam step",
        unit="step",
        task="vae",
        make=make_vae,
        sizes=dict(data=128, size=784, hidden=400, latent=20),
        tiny=dict(data=8, size=12, hidden=7, latent=3),
        ours=our_vae,
        reference=lambda data: data.answer(*reference.vae(data.encoder, data.decoder, data.ys, data.eta)),
        tolerance={"loss": 1e-5, "gradient": 1e-4},
        flops=vae_flops,
        counted="products with the kernels, forward and backward",
        peers=("flax+optax", "numpyro", "torch"),
        targets=(Target("at most the time of a plain flax+optax loop", 1, ("flax+optax",)),),
    ),
)
