"""Names of types that say more to a reader than to a type checker."""

from typing import Any

PyTree = Any
"""Nested containers of arrays, of any kind that `jax.tree` knows."""
