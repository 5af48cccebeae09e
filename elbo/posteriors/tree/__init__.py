"""Parse trees: probabilistic context-free grammars."""

from .parse import Parse, Spans
from .posterior import Tree, tree

__all__ = ["Parse", "Spans", "Tree", "tree"]
