"""Versions of jaxlib whose CPU compiler gives wrong numbers."""

import warnings

import jaxlib

WRONG_NUMBERS = ("0.10.2",)
"""jaxlib versions that miscompile a dot with a constant operand on the CPU (jax issue 39103)."""


def warn_if_unsound(version: str = jaxlib.__version__) -> None:
    """Warns when the installed jaxlib is known to give silently wrong numbers on the CPU, and says what to do.

    >>> warn_if_unsound("0.9.2")
    """
    if version in WRONG_NUMBERS:
        warnings.warn(
            f"jaxlib {version} silently gives wrong numbers on the CPU (a dot with a constant operand, fused into a "
            "reduction; jax issue 39103). Install another version: "
            'pip install "jax>=0.9.2,!=0.10.2" "jaxlib>=0.9.2,!=0.10.2"',
            RuntimeWarning,
            stacklevel=3,
        )
