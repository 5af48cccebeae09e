"""A front end for speech: a waveform as a sequence of log-mel spectra."""

import functools

import numpy as np

BANDS = 24
WINDOW, HOP = 0.025, 0.0125  # seconds
RANGE = 1e-6  # of the loudest band of an utterance, 60 dB: what is weaker counts as this


def log_mel(wave: np.ndarray, rate: int = 8000, bands: int = BANDS, normalize: bool = True) -> np.ndarray:
    """Log energies in mel bands, float32 [T, bands]: Hann windows of 25 ms, one every 12.5 ms.

        ln(max(Σ_f w_bf |FFT_f|², 1e-6 · the largest)),   T = 1 + ⌈max(0, n − 25 ms) / 12.5 ms⌉

    The mel scale is 1127 ln(1 + Hz / 700), its bands are triangles that overlap by half, from 60 Hz to rate / 2.

    Args:
      wave: mono [n], any unit; the end is padded with zeros to whole windows.
      rate: samples a second.
      bands: how many.
      normalize: mean 0 and variance 1 of each band over the utterance; a constant band is 0.

    >>> log_mel(np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000), normalize=False).argmax(1).tolist()[:3]
    [10, 10, 10]
    """
    wave = np.asarray(wave, np.float32)
    if wave.ndim != 1 or wave.size == 0:
        raise ValueError(f"wave: got an array of shape {list(wave.shape)}, expected mono samples [n], n >= 1")
    window, hop = round(WINDOW * rate), round(HOP * rate)
    count = frames(wave.size, rate)
    wave = np.pad(wave, (0, (count - 1) * hop + window - wave.size))
    cut = np.lib.stride_tricks.sliding_window_view(wave, window)[::hop] * np.hanning(window).astype(np.float32)
    weights = _triangles(rate, bands, 1 << (window - 1).bit_length())
    energy = np.abs(np.fft.rfft(cut, 2 * (weights.shape[0] - 1))) ** 2 @ weights
    log = np.log(np.maximum(energy, RANGE * energy.max() + np.finfo(np.float32).tiny)).astype(np.float32)
    if normalize:
        log -= log.mean(0)
        log /= np.maximum(log.std(0), 1e-3)
    return log


def frames(samples: int, rate: int = 8000) -> int:
    """How many frames `log_mel` makes of so many samples."""
    window, hop = round(WINDOW * rate), round(HOP * rate)
    return 1 + -(-max(0, samples - window) // hop)


@functools.cache
def _triangles(rate: int, bands: int, size: int) -> np.ndarray:
    """Weights of the frequencies of an FFT of `size` points in each band, [size / 2 + 1, bands]."""
    mel = lambda hz: 1127 * np.log1p(hz / 700)
    edges = np.linspace(mel(60.0), mel(rate / 2), bands + 2)
    at = mel(np.fft.rfftfreq(size, 1 / rate))[:, None]
    rise, fall = (at - edges[:-2]) / (edges[1:-1] - edges[:-2]), (edges[2:] - at) / (edges[2:] - edges[1:-1])
    return np.maximum(np.minimum(rise, fall), 0)
