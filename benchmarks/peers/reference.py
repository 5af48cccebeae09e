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
