"""Parse trees: probabilistic context-free grammars."""

from .parse import Parse, Spans
from .posterior import TreePosterior, tree

__all__ = ["Parse", "Spans", "TreePosterior", "tree"]
