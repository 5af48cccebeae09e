"""Data for the demos and benchmarks: small sets bundled here (`data/README.md`), and MNIST from a file of yours."""

import gzip
from pathlib import Path
from typing import NamedTuple
from zipfile import is_zipfile

import numpy as np

_DATA = Path(__file__).parent / "data"


def faithful() -> np.ndarray:
    """Old Faithful: (eruption, waiting) in minutes, float64 [272, 2]."""
    return np.loadtxt(_DATA / "faithful.csv", delimiter=",", skiprows=1, usecols=(1, 2))


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits of 8 x 8 pixels: images float64 [1797, 64] in 0..16, labels int [1797]."""
    with np.load(_DATA / "digits.npz", allow_pickle=False) as file:
        return file["images"].astype(np.float64), file["labels"].astype(int)


def earthquakes() -> tuple[np.ndarray, np.ndarray]:
    """Earthquakes of magnitude 7 and more: years int [107], 1900 to 2006, and counts int [107]."""
    table = np.loadtxt(_DATA / "earthquakes.csv", delimiter=",", skiprows=1, dtype=int)
    return table[:, 0], table[:, 1]


def nile() -> tuple[np.ndarray, np.ndarray]:
    """Flow of the Nile: years int [100], 1871 to 1970, and 10⁸ m³ a year, float64 [100]."""
    table = np.loadtxt(_DATA / "nile.csv", delimiter=",", skiprows=1)
    return table[:, 1].astype(int), table[:, 2]


class Speech(NamedTuple):
    """Recordings of single words: `waves` float32 in [-1, 1), one array each; the others have one entry for each."""

    waves: list[np.ndarray]
    labels: np.ndarray  # int, the digit
    is_test: np.ndarray  # bool
    speaker: np.ndarray  # int
    rate: int  # samples a second


def spoken_digits(path: str | Path | None = None) -> Speech:
    """Spoken digits: 500 of one speaker, or all of an npz file with `wave`, `offsets`, `labels`, `is_test`, …"""
    path = _DATA / "spoken_digits.npz" if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"spoken digits: no file {path}; expected an npz with wave, offsets, labels, is_test")
    with np.load(path, allow_pickle=False) as file:
        wave, offsets = file["wave"].astype(np.float32) / 32768, file["offsets"]
        waves = [wave[a:b] for a, b in zip(offsets, offsets[1:], strict=False)]
        return Speech(
            waves,
            file["labels"].astype(int),
            file["is_test"].astype(bool),
            file["speaker_id"].astype(int),
            int(file["sample_rate"]),
        )


class Sentences(NamedTuple):
    """Sentences as indices of tags: int [N, T], -1 in the padding, and their lengths, int [N]."""

    tags: np.ndarray
    lengths: np.ndarray


class Tags(NamedTuple):
    """Universal parts of speech of the English Web Treebank, sentences of up to 40 tokens."""

    names: tuple[str, ...]  # 17
    train: Sentences  # 11,991 sentences
    dev: Sentences
    test: Sentences


def tags() -> Tags:
    """The 17 universal parts of speech of UD English EWT: sentences of up to 40 tokens, with punctuation (PUNCT)."""
    with np.load(_DATA / "ud_ewt_tags.npz", allow_pickle=False) as file:
        arrays = dict(file)
    parts = [_padded(arrays[f"{part}_tags"], arrays[f"{part}_lengths"]) for part in ("train", "dev", "test")]
    return Tags(tuple(arrays["names"].tolist()), *parts)


def short_trees() -> dict[str, list[str]]:
    """Constituency trees of GUM with up to 10 tokens: train, dev and test, in brackets, one string a tree.

    Punctuation and function labels are left out, and in place of each word stands its universal part of speech.
    """
    trees: dict[str, list[str]] = {}
    for line in gzip.decompress((_DATA / "gum_short_trees.txt.gz").read_bytes()).decode().splitlines():
        if line.startswith("# "):
            part = trees.setdefault(line[2:], [])
        else:
            part.append(line)
    return trees


def _padded(flat: np.ndarray, lengths: np.ndarray) -> Sentences:
    """Sentences that lie one after the other, as rows."""
    lengths = lengths.astype(int)
    rows = np.full((len(lengths), lengths.max()), -1)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = flat
    return Sentences(rows, lengths)


def shakespeare(path: str | Path | None = None) -> str:
    """Plays of Shakespeare as one text of 299,869 characters, 62 kinds of them; or any text file in ASCII of yours."""
    if path is None:
        return gzip.decompress((_DATA / "shakespeare.txt.gz").read_bytes()).decode("ascii")
    return Path(path).read_text(encoding="ascii")


class Mnist(NamedTuple):
    """MNIST: images float32 in [0, 1], one row each; labels int 0..9."""

    train: np.ndarray  # [60000, 784]
    test: np.ndarray  # [10000, 784]
    train_labels: np.ndarray  # [60000]
    test_labels: np.ndarray  # [10000]


def mnist(path: str | Path) -> Mnist:
    """MNIST from an npz file with uint8 `x_train` [60000, 28, 28], `y_train` [60000], and `x_test`, `y_test`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"MNIST: no file {path}; expected an npz with x_train, y_train, x_test, y_test")
    if not is_zipfile(path):
        raise ValueError(f"MNIST: {path} is not an npz file")
    shapes = {"x_train": (60000, 28, 28), "y_train": (60000,), "x_test": (10000, 28, 28), "y_test": (10000,)}
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in shapes if key in file}
    for key, shape in shapes.items():
        if key not in arrays:
            raise ValueError(f"MNIST: {path} has no array {key}")
        got = arrays[key]
        if got.shape != shape or got.dtype != np.uint8:
            raise ValueError(f"MNIST: {key} is {got.dtype} {list(got.shape)}, expected uint8 {list(shape)}")
    return Mnist(
        train=_unit(arrays["x_train"]),
        test=_unit(arrays["x_test"]),
        train_labels=arrays["y_train"].astype(int),
        test_labels=arrays["y_test"].astype(int),
    )


def _unit(images: np.ndarray) -> np.ndarray:
    """Rows of pixels in [0, 1], float32 [N, 784]."""
    return images.reshape(len(images), -1).astype(np.float32) / 255
