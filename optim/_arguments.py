"""What is given where a model, an optimiser, a rule or parameters are expected, told apart from one another."""

from typing import Any

import numpy as np
import optax

from elbo import Model, Params
from elbo.numerics import require_number

from ._rule import Rule


def require_model(model: Any) -> None:
    """Raises unless model is an `elbo.Model`."""
    if not isinstance(model, Model):
        raise TypeError(
            f"model: got {_kind(model)}, expected an elbo.Model(log_joint, encoder), such as models.mixture.model(2)"
        )


def require_optimizer(optimizer: Any) -> None:
    """Raises unless optimizer is one of optax's."""
    if isinstance(optimizer, Rule) or not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer: got {_kind(optimizer)}, expected an optax optimiser, such as optax.adam(1e-3); what is made "
            "of rules is made by chain, repeat, restrict, minibatches and damp"
        )


def require_rule(name: str, rule: Any) -> None:
    """Raises unless rule is a `Rule`."""
    if isinstance(rule, Rule):
        return
    cure = "expected a Rule, such as em_step(model) or Rule(init, update)"
    if isinstance(rule, optax.GradientTransformation):
        cure += "; make one of an optimiser by eg_step(model, optimizer) or vae_step(model, optimizer)"
    elif isinstance(rule, Model):
        cure += "; make one of a model by em_step(model), eg_step, vem_step or vae_step"
    raise TypeError(f"{name}: got {_kind(rule)}, {cure}")


def require_params(params: Any) -> None:
    """Raises unless params is an `elbo.Params`."""
    if not isinstance(params, Params):
        raise TypeError(
            f"params: got {_kind(params)}, expected elbo.Params(theta, psi); where the encoder is exact that is "
            "elbo.Params.tied(theta)"
        )


def require_count(name: str, value: Any, least: int = 1) -> None:
    """Raises unless value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: got {_kind(value)} {value}, expected a whole number >= {least}")
    if value < least:
        raise ValueError(f"{name}: got {value}, expected a whole number >= {least}")


def require_tolerance(tolerance: Any) -> None:
    """Raises unless tolerance is None or a number >= 0."""
    if tolerance is not None:
        require_number("tolerance", tolerance, lambda value: value >= 0, "a number >= 0, or None: run all steps")


def _kind(value: Any) -> str:
    return "an optax optimiser" if isinstance(value, optax.GradientTransformation) else type(value).__name__
