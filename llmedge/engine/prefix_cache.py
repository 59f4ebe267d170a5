"""Finds what begins like a prompt: a trie over tokens, its edges as long as they can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from collections.abc import Sequence as Tokens

T = TypeVar("T", bound="Hashable")
K = TypeVar("K", bound="Hashable")


def common_prefix(left: Tokens[int], right: Tokens[int], offset: int = 0) -> int:
    """Return how many tokens `left` shares with `right` from `offset` on."""
    n = min(len(left), len(right) - offset)
    if left[:n] == right[offset : offset + n]:
        return n
    same = 0
    # Slices are compared in C: halving costs about as much as one pass.
    while n - same > 1:
        middle = (same + n) // 2
        if left[same:middle] == right[offset + same : offset + middle]:
            same = middle
        else:
            n = middle
    return same


class _Node(Generic[K, T]):
    """Where an edge ends. All but a root hold values, or have two children at least."""

    __slots__ = ("children", "edge", "key", "parent", "values")

    def __init__(self, key: K, parent: _Node[K, T] | None, edge: list[int]) -> None:
        self.key = key
        self.parent = parent
        self.edge = edge
        self.children: dict[int, _Node[K, T]] = {}
        self.values: set[T] = set()


class PrefixTrie(Generic[K, T]):
    """Values, each at the end of a run of tokens; runs of different keys do not know each other."""

    def __init__(self) -> None:
        self._roots: dict[K, _Node[K, T]] = {}
        self._places: dict[T, tuple[_Node[K, T], int]] = {}

    def __contains__(self, value: T) -> bool:
        return value in self._places

    def __len__(self) -> int:
        return len(self._places)

    def length(self, value: T) -> int:
        """Return the number of a value's tokens."""
        return self._places[value][1]

    def add(self, value: T, key: K, tokens: list[int]) -> None:
        """Put a new value at the end of some tokens."""
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = _Node(key, None, [])
        self._place(value, self._grow(root, tokens), len(tokens))

    def extend(self, value: T, tokens: list[int]) -> None:
        """Move a value further down."""
        node, length = self._places[value]
        node.values.discard(value)
        if node.parent is not None and not node.values and not node.children:
            node.edge.extend(tokens)
            end = node
        else:
            end = self._grow(node, tokens)
        self._place(value, end, length + len(tokens))
        self._prune(node)

    def remove(self, value: T) -> None:
        """Forget a value, and the tokens that nobody else has."""
        node, _ = self._places.pop(value)
        node.values.discard(value)
        self._prune(node)

    def cut(self, value: T, n: int) -> None:
        """Leave a value its first `n` tokens."""
        if n < self.length(value):
            key, tokens = self.path(value)
            self.remove(value)
            self.add(value, key, tokens[:n])

    def path(self, value: T) -> tuple[K, list[int]]:
        """Return a value's key and its tokens."""
        node: _Node[K, T] | None = self._places[value][0]
        key, parts = node.key, list[list[int]]()
        while node is not None:
            parts.append(node.edge)
            node = node.parent
        return key, [token for edge in reversed(parts) for token in edge]

    def others_below(self, value: T) -> Iterator[T]:
        """Yield the other values whose tokens begin with all of this one's."""
        node, _ = self._places[value]
        return (other for other in self._subtree(node, None) if other != value)

    def matches(self, key: K, tokens: Tokens[int]) -> Iterator[tuple[int, T]]:
        """Yield each value of a key with the number of first tokens it shares, most first."""
        node = self._roots.get(key)
        if node is None:
            return
        depth, path = 0, [(0, node)]
        while depth < len(tokens) and (child := node.children.get(tokens[depth])) is not None:
            same = common_prefix(child.edge, tokens, depth)
            depth += same
            path.append((depth, child))
            if same < len(child.edge):
                break
            node = child
        visited: _Node[K, T] | None = None
        for depth, node in reversed(path):
            for value in self._subtree(node, visited):
                yield depth, value
            visited = node

    def check_integrity(self) -> None:
        """Raise `AssertionError` where the trie is not well formed; for tests."""
        found: dict[T, int] = {}
        stack = [(0, root) for root in self._roots.values()]
        while stack:
            depth, node = stack.pop()
            found.update(dict.fromkeys(node.values, depth))
            if not node.values and len(node.children) < (2 if node.parent else 1):
                raise AssertionError(f"a node at depth {depth} has no reason to be")
            for token, child in node.children.items():
                if child.parent is not node or child.edge[0] != token or child.key != node.key:
                    raise AssertionError(f"a child at depth {depth} is misplaced")
                stack.append((depth + len(child.edge), child))
        if found != {value: length for value, (_, length) in self._places.items()}:
            raise AssertionError("values are not where they are said to be")

    def _place(self, value: T, node: _Node[K, T], length: int) -> None:
        node.values.add(value)
        self._places[value] = node, length

    def _grow(self, node: _Node[K, T], tokens: Tokens[int]) -> _Node[K, T]:
        """Return the node that some tokens below another lead to, made where it is not there."""
        depth = 0
        while depth < len(tokens):
            child = node.children.get(tokens[depth])
            if child is None:
                child = _Node(node.key, node, list(tokens[depth:]))
                node.children[tokens[depth]] = child
                return child
            same = common_prefix(child.edge, tokens, depth)
            depth += same
            node = child if same == len(child.edge) else _split(child, same)
        return node

    def _prune(self, node: _Node[K, T]) -> None:
        """Remove what a value that left has no more use for."""
        while not node.values:
            parent = node.parent
            if parent is None:
                if not node.children:
                    self._roots.pop(node.key, None)
                return
            if len(node.children) > 1:
                return
            if node.children:
                self._merge(node, parent)
                return
            del parent.children[node.edge[0]]
            node = parent

    def _merge(self, node: _Node[K, T], parent: _Node[K, T]) -> None:
        (child,) = node.children.values()
        parent.children[node.edge[0]] = child
        child.edge = node.edge + child.edge
        child.parent = parent

    def _subtree(self, top: _Node[K, T], without: _Node[K, T] | None) -> Iterator[T]:
        stack = [top]
        while stack:
            node = stack.pop()
            yield from node.values
            stack.extend(child for child in node.children.values() if child is not without)


def _split(node: _Node[K, T], n: int) -> _Node[K, T]:
    """Put a node after the first `n` tokens of a node's edge."""
    parent = node.parent
    if parent is None:
        raise ValueError("a root has no edge")
    upper = _Node(node.key, parent, node.edge[:n])
    parent.children[upper.edge[0]] = upper
    node.edge = node.edge[n:]
    node.parent = upper
    upper.children[node.edge[0]] = node
    return upper
