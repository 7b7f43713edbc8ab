"""Finds the holders of the patterns that a namespace matches, without looking at the other patterns.

The patterns are kept in a tree of tokens. A namespace is looked up along the branches of its own tokens, of ``*`` and
of ``>``. The tree has patterns as the server knows them (:attr:`~aether_sync.patterns.Pattern.subject_pattern`), where
a glob within a token is a ``*``, so it may find more holders than the namespace matches.
"""

from collections.abc import Sequence
from itertools import count
from typing import Generic, TypeVar

__all__ = ["Index", "Tree"]

T = TypeVar("T")


class Tree(Generic[T]):
    """A node of the tree, and everything below it."""

    __slots__ = ("branches", "holders", "state")

    def __init__(self) -> None:
        self.branches: dict[str, Tree[T]] = {}  # by token
        self.holders: dict[T, int] = {}  # of the pattern that ends here, each with its place in the order of adding
        self.state: object = None  # at the root, the state of the index that the tree shows

    def add(self, pattern: str, holder: T, place: int) -> None:
        """Add a holder of a pattern."""
        node = self
        for token in pattern.split("."):
            branch = node.branches.get(token)
            if branch is None:
                branch = node.branches[token] = Tree()
            node = branch
        node.holders[holder] = place

    def remove(self, pattern: str, holder: T) -> None:
        """Remove a holder of a pattern, and the branches that have no holder any more. Idempotent."""
        node, way = self, []
        for token in pattern.split("."):
            branch = node.branches.get(token)
            if branch is None:
                return
            way.append((node, token, branch))
            node = branch
        node.holders.pop(holder, None)
        for stem, token, branch in reversed(way):
            if branch.holders or branch.branches:
                return
            del stem.branches[token]

    def find(self, namespace: str) -> list[T]:
        """Return the holders of the patterns that a namespace matches, each once, in the order of adding."""
        found: dict[T, int] = {}
        nodes = [self]
        for token in namespace.split("."):
            below = []
            for node in nodes:
                branches = node.branches
                if (rest := branches.get(">")) is not None:
                    found |= rest.holders
                if (branch := branches.get(token)) is not None:
                    below.append(branch)
                if (branch := branches.get("*")) is not None:
                    below.append(branch)
            if not below:  # as most often, where namespaces are ever new
                return sorted(found, key=found.__getitem__) if found else []
            nodes = below
        for node in nodes:
            found |= node.holders
        return sorted(found, key=found.__getitem__)


class Index(Generic[T]):
    """Holders of patterns. The caller holds a lock.

    A signal handler may raise between any two steps here, or let other threads in. So the truth is in a dict, which is
    changed in one step. Changing the tree takes many steps. The tree is used only while it carries the mark of the last
    change; a search that finds another mark makes a new tree.
    """

    def __init__(self) -> None:
        self._all: dict[T, tuple[int, Sequence[str]]] = {}  # by holder, its place and its patterns
        self._places = count()
        self._tree: Tree[T] = Tree()
        self.state: object = None  #: the mark of the last change, another object each time

    def add(self, holder: T, patterns: Sequence[str]) -> None:
        """Add a holder with its patterns."""
        place, state, before = next(self._places), object(), self.state
        self._all[holder] = place, patterns
        self.state = state
        if (tree := self._tree).state is before:
            for pattern in patterns:
                tree.add(pattern, holder, place)
            tree.state = state

    def remove(self, holder: T, patterns: Sequence[str]) -> None:
        """Remove a holder with its patterns. Idempotent."""
        state, before = object(), self.state
        self._all.pop(holder, None)
        self.state = state
        if (tree := self._tree).state is before:
            for pattern in patterns:
                tree.remove(pattern, holder)
            tree.state = state

    def find(self, namespace: str) -> list[T]:
        """Return the holders of the patterns that a namespace matches on the server, in the order of adding."""
        if self._tree.state is not self.state:
            self._make_tree()
        return self._tree.find(namespace)

    def everyone(self) -> list[T]:
        """Return all holders, in the order of adding. The caller need not hold the lock."""
        places = {holder: place for holder, (place, _) in self._all.copy().items()}
        return sorted(places, key=places.__getitem__)

    def _make_tree(self) -> None:
        state, tree = self.state, Tree[T]()
        for holder, (place, patterns) in self._all.copy().items():
            for pattern in patterns:
                tree.add(pattern, holder, place)
        tree.state = state
        self._tree = tree
