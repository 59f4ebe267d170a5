"""How much of a prompt a step may take along without making running streams wait."""

from __future__ import annotations

_WEIGHT = 0.2  # of a new measurement: about the last ten count
_OUTLIER = 4.0  # a page fault or a busy machine teaches no more than this times what is known
_STALE_STEPS = 64


class Pace:
    """Learns what steps cost, from steps.

    A step that only continues streams is the measure; one that takes prompt tokens along may last
    `stretch` times as long. Its cost grows with the number of streams, so it is learned for each
    power of two of them; where nothing is known, or what is known is old, one step goes without.

    Args:
        n_batch: Tokens of one step.
        stretch: How much longer than a plain step one with prompt tokens may take.
        n_min: Prompt tokens that a step takes along in any case, so that prompts get on.
    """

    def __init__(self, n_batch: int, stretch: float = 1.9, n_min: int = 8) -> None:
        self._n_batch = n_batch
        self._stretch = stretch
        self._n_min = n_min
        self._plain_s: dict[int, float] = {}
        self._ages: dict[int, int] = {}
        self._token_s: float | None = None

    def limit(self, n_streams: int) -> int:
        """Return how many prompt tokens the next step may take along with so many streams."""
        room = self._n_batch - n_streams
        if n_streams == 0:
            return room
        size = n_streams.bit_length()
        plain_s = self._plain_s.get(size)
        if plain_s is None or self._ages[size] >= _STALE_STEPS:
            return 0
        if not self._token_s:
            return min(self._n_min, room)
        wanted = int(plain_s * (self._stretch - 1) / self._token_s)
        return max(min(wanted, room), min(self._n_min, room))

    def learn(self, n_streams: int, n_prompt: int, seconds: float) -> None:
        """Take a measured step into account."""
        size = n_streams.bit_length()
        if n_prompt == 0:
            self._plain_s[size] = _blend(self._plain_s.get(size), seconds)
            self._ages[size] = 0
            return
        plain_s = 0.0
        if n_streams:
            plain_s = self._plain_s.get(size, 0.0)
            self._ages[size] = self._ages.get(size, 0) + 1
        # A few tokens beside streams say little about one; zero would lift the limit.
        least_s = 0.05 * seconds
        self._token_s = _blend(self._token_s, max(seconds - plain_s, least_s) / n_prompt)


def _blend(known: float | None, measured: float) -> float:
    if known is None:
        return measured
    return known + _WEIGHT * (min(measured, _OUTLIER * known) - known)
