"""What a model's text is made of, and the sink that puts it together while it is parsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Content:
    """The next words of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The next words of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A tool is called; its arguments follow.

    Attributes:
        index: Its place among the calls of this answer, from 0.
        name: The tool's name as written; it need not be one that was offered.
    """

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next part of a call's arguments: a JSON object once joined, if the call ends whole."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call is over.

    Attributes:
        index: Its place.
        is_whole: The arguments are a JSON object. Otherwise they were cut off or are malformed, and
            stand in the parts before as the model wrote them.
    """

    index: int
    is_whole: bool = True


Part: TypeAlias = Content | Reasoning | CallStarted | CallArguments | CallEnded


class Sink:
    """Collects parts; joins neighbours of a kind, and leaves out the white space of the layout.

    White space directly before a call, after one, after reasoning and around the reasoning's text
    belongs to the markup and is dropped. It is held back until what follows is known.
    """

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._run: list[str] = []  # texts of one kind that are one part in the end
        self._kind: type[Content] | type[Reasoning] | int = Content  # a number is a call's index
        self._held = ""
        self._is_after_markup = False
        self._n_calls = 0
        self.is_reasoning = False

    def take(self) -> list[Part]:
        """Return the parts since the last time."""
        self._close_run()
        parts, self._parts = self._parts, []
        return parts

    def content(self, text: str) -> None:
        """Add text of the answer."""
        self._add(text, Content)

    def reasoning(self, text: str) -> None:
        """Add text of the reasoning."""
        self._add(text, Reasoning)

    def enter_reasoning(self) -> None:
        """What follows is reasoning. White space before it was layout."""
        self._held, self._is_after_markup, self.is_reasoning = "", True, True

    def leave_reasoning(self) -> None:
        """What follows is the answer."""
        self._held, self._is_after_markup, self.is_reasoning = "", True, False

    def start_call(self, name: str) -> int:
        """Begin a call and return its index."""
        self._held, self._is_after_markup = "", True
        self._close_run()
        self._n_calls += 1
        self._parts.append(CallStarted(self._n_calls - 1, name))
        return self._n_calls - 1

    def arguments(self, index: int, text: str) -> None:
        """Add to a call's arguments."""
        self._put(text, index)

    def end_call(self, index: int, *, is_whole: bool) -> None:
        """End a call."""
        self._close_run()
        self._parts.append(CallEnded(index, is_whole))

    def finish(self) -> None:
        """Let go of what was held back: no markup follows."""
        self._put(self._held, Reasoning if self.is_reasoning else Content)
        self._held = ""

    def _add(self, text: str, kind: type[Content] | type[Reasoning]) -> None:
        if self._is_after_markup:
            text = text.lstrip()
        body = text.rstrip()
        if not body:
            self._held += text
            return
        self._is_after_markup = False
        self._put(self._held + body, kind)
        self._held = text[len(body) :]

    def _put(self, text: str, kind: type[Content] | type[Reasoning] | int) -> None:
        if not text:
            return
        if kind != self._kind:
            self._close_run()
            self._kind = kind
        self._run.append(text)

    def _close_run(self) -> None:
        text, kind = "".join(self._run), self._kind
        self._run.clear()
        if not text:
            return
        if isinstance(kind, int):
            self._parts.append(CallArguments(kind, text))
        else:
            self._parts.append(kind(text))
