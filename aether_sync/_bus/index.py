"""Who has which patterns, found by namespace, without a look at those who have others.

A tree of tokens holds them: a namespace is looked for along the branches of its own tokens, of ``*`` and of ``>``. The
tree knows patterns as the server does (:attr:`~aether_sync.patterns.Pattern.subject_pattern`): a token glob is a ``*``
there, so more may be found than matches.
"""

from collections.abc import Sequence
from itertools import count
from typing import Generic, TypeVar

__all__ = ["Index", "Tree"]

T = TypeVar("T")


class Tree(Generic[T]):
    """A node, and what grows on it."""

    __slots__ = ("branches", "holders", "state")

    def __init__(self) -> None:
        self.branches: dict[str, Tree[T]] = {}  # by token
        self.holders: dict[T, int] = {}  # of the pattern that ends here, with their places in the order of coming
        self.state: object = None  # of the index, when this was its root

    def add(self, pattern: str, holder: T, place: int) -> None:
        """Let a holder be found by a pattern."""
        node = self
        for token in pattern.split("."):
            branch = node.branches.get(token)
            if branch is None:
                branch = node.branches[token] = Tree()
            node = branch
        node.holders[holder] = place

    def remove(self, pattern: str, holder: T) -> None:
        """Let it be found no more, and cut off what holds nobody now. Idempotent."""
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
        """Return each holder of a pattern that matches once, in the order of coming."""
        found: dict[T, int] = {}
        nodes = [self]
        for token in namespace.split("."):
            for node in nodes:
                if (rest := node.branches.get(">")) is not None:
                    found |= rest.holders
            names = token, "*"
            nodes = [branch for node in nodes for name in names if (branch := node.branches.get(name)) is not None]
        for node in nodes:
            found |= node.holders
        return sorted(found, key=found.__getitem__)


class Index(Generic[T]):
    """Holders of patterns. Called under a guard.

    A signal handler may let others in between any two steps here, or raise. So what counts is a dict, changed in one
    step. The tree, which takes many, is believed only while it bears the mark of the last change; whoever needs it and
    finds another mark grows a new one.
    """

    def __init__(self) -> None:
        self._all: dict[T, tuple[int, Sequence[str]]] = {}  # places and patterns
        self._places = count()
        self._tree: Tree[T] = Tree()
        self.state: object = None  #: another one after each change

    def add(self, holder: T, patterns: Sequence[str]) -> None:
        """Let a holder be found by its patterns."""
        place, state, before = next(self._places), object(), self.state
        self._all[holder] = place, patterns
        self.state = state
        if (tree := self._tree).state is before:
            for pattern in patterns:
                tree.add(pattern, holder, place)
            tree.state = state

    def remove(self, holder: T, patterns: Sequence[str]) -> None:
        """Let it be found no more. Idempotent."""
        state, before = object(), self.state
        self._all.pop(holder, None)
        self.state = state
        if (tree := self._tree).state is before:
            for pattern in patterns:
                tree.remove(pattern, holder)
            tree.state = state

    def find(self, namespace: str) -> list[T]:
        """Return those of whom a pattern matches a namespace, or does on the server, in the order of coming."""
        if self._tree.state is not self.state:
            self._grow()
        return self._tree.find(namespace)

    def everyone(self) -> list[T]:
        """Return all holders, in the order of coming. Needs no guard."""
        places = {holder: place for holder, (place, _) in self._all.copy().items()}
        return sorted(places, key=places.__getitem__)

    def _grow(self) -> None:
        state, tree = self.state, Tree[T]()
        for holder, (place, patterns) in self._all.copy().items():
            for pattern in patterns:
                tree.add(pattern, holder, place)
        tree.state = state
        self._tree = tree
