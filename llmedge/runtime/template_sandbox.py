"""jinja2's immutable sandbox, with a budget: no template runs long or makes large values.

jinja2 keeps a template away from the interpreter. What it leaves open is work without end (nested
loops, recursion that doubles) and values without bound (`a + a` in a loop, padded formats). Here
every loop round and every call counts against one budget a rendering, and every operation that
makes text is bounded before it runs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sized
from typing import TYPE_CHECKING, Any, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_STEPS = 200_000
MAX_TEXT = 4 << 20
_MAX_WIDTH = 1000
_MAX_BITS = 4096
_COUNT = "llmedge_count"
# A width or a precision of five digits and more, in `%` formats and in `{}` formats.
_WIDE_FORMAT = re.compile(r"\d{5,}|\*|\{[^{}]*\{")
# Filters that pad or wrap to any width; no template in use needs them.
_REMOVED_FILTERS = ("center", "wordwrap", "urlize", "xmlattr", "pprint", "format", "batch", "slice")


class BudgetSpent(SecurityError):  # noqa: N818 - jinja2's own name for such errors
    """A rendering took more steps than any honest template needs."""


class BudgetSandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Renders one template at a time; `start` before each rendering."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, extensions: list[type[jinja2.ext.Extension]]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self._steps = 0
        filters: dict[str, Any] = self.filters
        functions: dict[str, Any] = self.globals
        for name in _REMOVED_FILTERS:
            filters.pop(name, None)
        functions.pop("lipsum", None)
        filters[_COUNT] = self._count
        filters["indent"] = _bounded(filters["indent"], _indent_size)
        filters["replace"] = _bounded(filters["replace"], _replace_size)
        filters["join"] = _bounded(filters["join"], _join_size)

    def start(self) -> None:
        """Begin a rendering with a full budget."""
        self._steps = 0

    def compile_counted(self, source: str) -> jinja2.Template:
        """Compile a template whose loops and joins count."""
        return self.from_string(_Counted().visit(self.parse(source)))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Run an operation, unless it would make a large value."""
        if _is_number(left) and _is_number(right):
            bits = _bits(left) * right if operator == "**" else _bits(left) + _bits(right)
            if bits > _MAX_BITS:
                raise SecurityError(f"`{operator}` would make a large number")
        elif operator == "%":
            _check_format(left)
        elif operator == "*":
            value, n = (left, right) if isinstance(right, int) else (right, left)
            _check_size(_length(value) * n if isinstance(n, int) else 0)
        elif operator == "+":
            _check_size(_length(left) + _length(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function, which takes a step; methods of texts may pad or repeat little."""
        self._step()
        owner = getattr(target, "__self__", None)
        if isinstance(owner, str):
            name = getattr(target, "__name__", "")
            if name == "replace" and len(args) >= 2:
                _check_size(_replace_size(owner, *args[:2]))
            if name == "join" and args:
                _check_size(_join_size(args[0], owner))
            if name in ("format", "format_map"):
                _check_format(owner)
            if any(isinstance(arg, int) and abs(arg) > _MAX_WIDTH for arg in args):
                raise SecurityError("a text's method was called with a large number")
        return super().call(context, target, *args, **kwargs)

    def _count(self, items: Iterable[Any]) -> Iterable[Any]:
        # A loop wants the length of what has one.
        if isinstance(items, Sized):
            self._step(len(items))
            return items
        return self._counted(items)

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._step()
            yield item

    def _step(self, n: int = 1) -> None:
        self._steps += n
        if self._steps > MAX_STEPS:
            raise BudgetSpent(f"it takes more than {MAX_STEPS} steps")


class _Counted(NodeTransformer):
    """Rewrites a template: what loops run over is counted, `a ~ b` becomes a bounded `+`."""

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.Node:  # noqa: N802 - jinja2's
        self.generic_visit(node)
        node.iter = _filter(node.iter, _COUNT)
        return node

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:  # noqa: N802
        self.generic_visit(node)
        joined: jinja2.nodes.Expr = _filter(node.nodes[0], "string")
        for part in node.nodes[1:]:
            joined = jinja2.nodes.Add(joined, _filter(part, "string"), lineno=node.lineno)
        return joined


def _filter(node: jinja2.nodes.Node, name: str) -> jinja2.nodes.Expr:
    expression = cast("jinja2.nodes.Expr", node)
    return jinja2.nodes.Filter(expression, name, [], [], None, None, lineno=node.lineno)


def _bounded(original: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
    """Wrap a filter so that the size of what it makes is checked first."""
    takes = [
        name
        for name in ("jinja_pass_arg",)
        if hasattr(original, name)  # jinja2's mark for filters that want the environment first
    ]

    def guarded(*args: Any, **kwargs: Any) -> Any:
        own = args[1:] if takes else args
        _check_size(size(*own, **kwargs))
        return original(*args, **kwargs)

    for name in takes:
        setattr(guarded, name, getattr(original, name))
    return guarded


def _indent_size(text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    step = width if isinstance(width, int) else _length(width)
    return _length(text) + (str(text).count("\n") + 1) * abs(step)


def _replace_size(text: Any, old: Any, new: Any, *_: Any, **__: Any) -> int:
    text, old = str(text), str(old)
    return len(text) + (text.count(old) if old else len(text) + 1) * _length(new)


def _join_size(items: Any, separator: Any = "", *_: Any, **__: Any) -> int:
    if not isinstance(items, Collection):
        return 0
    parts = cast("Collection[Any]", items)
    return sum(_length(part) for part in parts) + len(parts) * _length(separator)


def _length(value: Any) -> int:
    return len(cast("Sized", value)) if isinstance(value, str | list | tuple) else 1


def _check_size(n: int) -> None:
    if n > MAX_TEXT:
        raise SecurityError("it would make a large value")


def _check_format(text: Any) -> None:
    if isinstance(text, str) and _WIDE_FORMAT.search(text):
        raise SecurityError("a format would make a large value")


def _bits(value: float) -> float:
    return value.bit_length() if isinstance(value, int) else 64


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
