"""What depends on the platform: the form of a computation that suits it, and jaxlib versions that are wrong on CPUs."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jaxlib

WRONG_NUMBERS = ("0.10.2", "0.11.0", "0.11.1", "0.11.2")
"""jaxlib versions that miscompile a dot with a constant operand on the CPU (jax issue 39103)."""

REMEDY = "--xla_cpu_experimental_ynn_fusion_type="
"""In XLA_FLAGS, takes out the part of XLA that does so."""


def warn_if_unsound(version: str = jaxlib.__version__, flags: str | None = None) -> None:
    """Warns when the installed jaxlib is known to give silently wrong numbers on the CPU, and says what to do.

    Args:
      version: of jaxlib.
      flags: XLA's; by default the environment's XLA_FLAGS.

    >>> warn_if_unsound("0.9.2")
    """
    flags = os.environ.get("XLA_FLAGS", "") if flags is None else flags
    if version in WRONG_NUMBERS and REMEDY not in flags.split():
        warnings.warn(
            f"jaxlib {version} silently gives wrong numbers on the CPU (a dot with a constant operand, fused into a "
            "reduction; jax issue 39103). Install another version: "
            'pip install "jax>=0.9.2,<0.10.2" "jaxlib>=0.9.2,<0.10.2", '
            f"or set XLA_FLAGS={REMEDY} before JAX starts.",
            RuntimeWarning,
            stacklevel=3,
        )


def by_platform(*args: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """cpu(*args) on a CPU, default(*args) elsewhere; both give the same numbers.

    That is `jax.lax.platform_dependent`, but where CPUs are what JAX runs on, the other form is not even traced: that
    takes as long as the rest of a step. A program that is exported from there to an accelerator has the CPU's form.

    >>> by_platform(2.0, cpu=lambda x: x + x, default=lambda x: 2 * x)
    4.0
    """
    if jax.default_backend() == "cpu":
        return cpu(*args)
    return jax.lax.platform_dependent(*args, cpu=cpu, default=default)
