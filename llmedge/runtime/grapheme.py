"""Text for a reader: never half a character, nor half of what is read as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import regex

from llmedge.runtime.vocab import Detokenizer

if TYPE_CHECKING:
    import re

# Code points of one cluster; a family of emoji has ten. Beyond it nobody reads one sign, and a
# model that repeats a combining mark would be silent to its end.
_MAX_HELD = 64
_CLUSTER = cast("re.Pattern[str]", cast("Any", regex).compile(r"\X"))  # it has no types


class GraphemeDetokenizer:
    """Joins pieces into text and holds back the last grapheme cluster until the next has begun.

    What has been shown never changes its look by what follows. The joined text is that of
    `Detokenizer`. Source: Unicode Standard Annex 29, extended grapheme clusters.
    """

    def __init__(self) -> None:
        self._characters = Detokenizer()
        self._held = ""

    def feed(self, piece: bytes) -> str:
        """Take the next bytes and return the clusters that are complete."""
        new = self._characters.feed(piece)
        if not new:
            return ""
        self._held += new
        cut = self._last_cluster()
        if len(self._held) - cut > _MAX_HELD:
            cut = len(self._held)
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """Return what is left, complete or not."""
        shown, self._held = self._held + self._characters.finish(), ""
        return shown

    def _last_cluster(self) -> int:
        """Return where the last cluster begins. What is held begins with a cluster."""
        begin = 0
        for found in _CLUSTER.finditer(self._held):
            begin = found.start()
        return begin
