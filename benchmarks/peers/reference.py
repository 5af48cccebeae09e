"""The judge: plain NumPy in float64, written apart from everything that it judges."""

import numpy as np

Layers = list[tuple[np.ndarray, np.ndarray]]  # (kernel [in, out], bias [out]) of each layer


def mixture_log_joint(ys: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """ln π_k + ln N(y; m_k, S_k) of data [*sets, N, D] under mixtures of K components, [*sets, N, K]."""
    columns = []
    for k in range(means.shape[-2]):
        root = np.linalg.inv(np.linalg.cholesky(covariances[..., k, :, :]))
        u = (ys - means[..., k, None, :]) @ np.swapaxes(root, -1, -2)
        log_det = np.sum(np.log(np.diagonal(root, axis1=-2, axis2=-1)), -1)
        constant = np.log(weights[..., k]) + log_det - 0.5 * ys.shape[-1] * np.log(2 * np.pi)
        columns.append(constant[..., None] - 0.5 * np.sum(u**2, -1))
    return np.stack(columns, -1)


def mixture_log_likelihood(ys, weights, means, covariances) -> np.ndarray:
    """Mean of ln p(y) over the data of each set, [*sets], nats."""
    ys, weights, means, covariances = (np.asarray(a, np.float64) for a in (ys, weights, means, covariances))
    return np.mean(_log_sum_exp(mixture_log_joint(ys, weights, means, covariances)), -1)


def mixture_em(ys, weights, means, covariances, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and full covariances after `steps` iterations of EM."""
    ys, weights, means, covariances = (np.array(a, np.float64) for a in (ys, weights, means, covariances))
    for _ in range(steps):
        joint = mixture_log_joint(ys, weights, means, covariances)
        q = np.exp(joint - _log_sum_exp(joint)[..., None])
        weights = np.mean(q, -2)
        for k in range(means.shape[-2]):
            w = q[..., k, None] / np.sum(q[..., k, None], -2, keepdims=True)
            means[..., k, :] = np.sum(w * ys, -2)
            centred = ys - means[..., k, None, :]
            covariances[..., k, :, :] = np.swapaxes(w * centred, -1, -2) @ centred
    return weights, means, covariances


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    top = np.max(values, -1, keepdims=True)
    return np.log(np.sum(np.exp(values - top), -1)) + top[..., 0]


def vae(encoder: Layers, decoder: Layers, ys: np.ndarray, eta: np.ndarray) -> tuple[float, tuple[np.ndarray, ...]]:
    """−L per datum of a Bernoulli VAE with noise eta [N, Q] and the KL in closed form; its gradient, layer by layer."""
    (a, b), (c, d) = [[w.astype(np.float64) for w in layer] for layer in encoder]
    (e, f), (g, h) = [[w.astype(np.float64) for w in layer] for layer in decoder]
    ys, eta = ys.astype(np.float64), eta.astype(np.float64)
    hidden = ys @ a + b
    mean, log_scale = np.split(np.maximum(hidden, 0) @ c + d, 2, axis=-1)
    scale = np.exp(log_scale)
    z = mean + scale * eta
    inner = z @ e + f
    logits = np.maximum(inner, 0) @ g + h
    kl = 0.5 * np.sum(mean**2 + scale**2 - 2 * log_scale - 1)
    loss = (kl - np.sum(ys * logits - np.logaddexp(0, logits))) / len(ys)

    d_logits = (1 / (1 + np.exp(-logits)) - ys) / len(ys)
    d_inner = d_logits @ g.T * (inner > 0)
    d_z = d_inner @ e.T
    d_out = np.concatenate([d_z + mean / len(ys), d_z * eta * scale + (scale**2 - 1) / len(ys)], -1)
    d_hidden = d_out @ c.T * (hidden > 0)
    slopes = [(ys, d_hidden), (np.maximum(hidden, 0), d_out), (z, d_inner), (np.maximum(inner, 0), d_logits)]
    return loss, tuple(part for x, slope in slopes for part in (x.T @ slope, np.sum(slope, 0)))


def hmm_log_emissions(ys: np.ndarray, *emission: np.ndarray) -> np.ndarray:
    """ln p(y_t | state), [N, T, K]: Gaussians of (means, variances) [K, D], or values of (probabilities,) [K, V]."""
    if len(emission) == 1:
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(emission[0], np.float64)).T[ys]
    means, variances = (np.asarray(a, np.float64) for a in emission)
    ys = ys.astype(np.float64)[..., None, :]
    return -0.5 * np.sum((ys - means) ** 2 / variances + np.log(2 * np.pi * variances), -1)


def hmm_passes(log_p: np.ndarray, initial: np.ndarray, transition: np.ndarray) -> tuple[np.ndarray, ...]:
    """ln P [N], states' marginals [N, T, K] and summed transitions [K, K] of sequences without impossible emissions."""
    initial, transition = np.asarray(initial, np.float64), np.asarray(transition, np.float64)
    top = log_p.max(-1, keepdims=True)
    p = np.exp(log_p - top)
    forward, backward, scale = np.empty_like(p), np.ones_like(p), np.empty(p.shape[:2])
    for t in range(p.shape[1]):
        joint = p[:, t] * (forward[:, t - 1] @ transition if t else initial)
        scale[:, t] = joint.sum(-1)
        forward[:, t] = joint / scale[:, t, None]
    for t in range(p.shape[1] - 2, -1, -1):
        backward[:, t] = (p[:, t + 1] * backward[:, t + 1]) @ transition.T / scale[:, t + 1, None]
    weight = p[:, 1:] * backward[:, 1:] / scale[:, 1:, None]
    counts = transition * np.einsum("nti,ntj->ij", forward[:, :-1], weight, optimize=True)
    return np.sum(np.log(scale) + top[..., 0], -1), forward * backward, counts


def hmm_log_likelihood(ys, initial, transition, *emission) -> np.ndarray:
    """Σ ln P of all sequences."""
    return np.sum(hmm_passes(hmm_log_emissions(ys, *emission), initial, transition)[0])


def hmm_em(data) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Initial, transition and emission parameters after `data.steps` iterations of EM."""
    initial, transition, emission = data.initial, data.transition, data.emission
    for _ in range(data.steps):
        _, states, counts = hmm_passes(hmm_log_emissions(data.ys, *emission), initial, transition)
        initial = states[:, 0].mean(0)
        transition = counts / counts.sum(1, keepdims=True)
        flat, mass = states.reshape(-1, states.shape[-1]), states.sum((0, 1))[:, None]
        if len(emission) == 1:
            table = np.zeros(emission[0].T.shape)
            np.add.at(table, data.ys.ravel(), flat)
            emission = (table.T / mass,)
        else:
            ys = data.ys.reshape(len(flat), -1).astype(np.float64)
            means = flat.T @ ys / mass
            emission = means, np.stack([w @ (ys - m) ** 2 for w, m in zip(flat.T, means, strict=True)]) / mass
    return initial, transition, emission


def hmm_answer(data) -> dict[str, np.ndarray]:
    """What `data.answer` must be."""
    initial, transition, emission = hmm_em(data)
    return data.answer(hmm_log_likelihood(data.ys, initial, transition, *emission), initial, transition, emission)


def hmm_posterior(data) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """ln P and marginals of the first sequence, where EM starts."""
    value, states, _ = hmm_passes(data.log_emissions()[:1].astype(np.float64), data.initial, data.transition)
    return {"ln P": value[0]}, {"marginals": states[0]}


def crf(data) -> dict[str, np.ndarray]:
    """ln Z and the transitions' marginals of linear-chain CRFs, in log space."""
    initial, pairs, states = (np.asarray(a, np.float64) for a in data)
    frames = states.shape[1]
    forward, backward = np.empty_like(states), np.zeros_like(states)
    forward[:, 0] = initial + states[:, 0]
    for t in range(1, frames):
        forward[:, t] = _log_sum_exp(np.swapaxes(forward[:, t - 1, :, None] + pairs[:, t - 1], 1, 2)) + states[:, t]
    for t in range(frames - 2, -1, -1):
        backward[:, t] = _log_sum_exp(pairs[:, t] + (states[:, t + 1] + backward[:, t + 1])[:, None])
    log_z = _log_sum_exp(forward[:, -1])
    after = (states[:, 1:] + backward[:, 1:])[:, :, None]
    marginals = np.exp(forward[:, :-1, :, None] + pairs + after - log_z[:, None, None, None])
    return {"ln Z": log_z, "marginals": marginals}


def ctc(data) -> dict[str, np.ndarray]:
    """CTC losses and their gradients in the logits, in log space; 0 is the blank."""
    logits = np.asarray(data.logits, np.float64)
    count, frames, _ = logits.shape
    log_p = logits - _log_sum_exp(logits)[..., None]
    symbols = np.zeros((count, 2 * data.labels.shape[1] + 1), int)
    symbols[:, 1::2] = data.labels
    skips = np.zeros(symbols.shape, bool)
    skips[:, 3::2] = symbols[:, 3::2] != symbols[:, 1:-2:2]
    emitted = np.take_along_axis(log_p, symbols[:, None], 2)
    forward, backward = np.full(emitted.shape, -np.inf), np.full(emitted.shape, -np.inf)
    forward[:, 0, :2], backward[:, -1, -2:] = emitted[:, 0, :2], 0
    for t in range(1, frames):
        now, before = forward[:, t], forward[:, t - 1]
        now[:] = before
        now[:, 1:] = np.logaddexp(now[:, 1:], before[:, :-1])
        now[:, 2:] = np.logaddexp(now[:, 2:], np.where(skips[:, 2:], before[:, :-2], -np.inf))
        now += emitted[:, t]
    for t in range(frames - 2, -1, -1):
        now, after = backward[:, t], backward[:, t + 1] + emitted[:, t + 1]
        now[:] = after
        now[:, :-1] = np.logaddexp(now[:, :-1], after[:, 1:])
        now[:, :-2] = np.logaddexp(now[:, :-2], np.where(skips[:, 2:], after[:, 2:], -np.inf))
    log_z = np.logaddexp(forward[:, -1, -1], forward[:, -1, -2])
    marginals = np.exp(forward + backward - log_z[:, None, None])
    gradient = np.exp(log_p)
    for b in range(count):
        for s, symbol in enumerate(symbols[b]):
            gradient[b, :, symbol] -= marginals[b, :, s]
    return {"loss": -log_z, "gradient": gradient}
