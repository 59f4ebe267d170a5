"""How much of a prompt a step may take along without making running streams wait."""

from __future__ import annotations

_WEIGHT = 0.2  # of a new measurement: about the last ten count
_OUTLIER = 4.0  # a page fault or a busy machine teaches no more than this times what is known
_STALE_STEPS = 64
_N_ROWS = 4  # llama.cpp's repacked kernels compute so many tokens at the price of fewer
_N_ALONE = 32  # fewer tokens without streams cost as much each as those beside them
_ALONE_S = 0.25
_SHORT_WAIT_S = 0.12  # is over in two or three steps anyway
_LONG_WAIT_S = 0.5


class Pace:
    """Learns what steps cost, from steps.

    A step that only continues streams is the measure; one that takes prompt tokens along may last
    `stretch` times as long, or as long as nobody notices. Both costs change with the number of
    streams, so they are learned for each power of two of them; where nothing is known, or what is
    known is old, one step goes without prompt tokens.

    Where prompts wait beside few streams, small shares hold up many for the sake of few, and leave
    later steps fewer streams to compute at once: there every other step is the prompts' alone. One
    long prompt does not get that.

    Args:
        n_batch: Tokens of one step.
        stretch: How much longer than a plain step one with prompt tokens may take.
        unnoticed_s: What a step may last in any case: text comes faster than it is read.
        n_min: Prompt tokens that a step takes along in any case, so that prompts get on.
    """

    def __init__(
        self, n_batch: int, stretch: float = 1.6, unnoticed_s: float = 0.04, n_min: int = _N_ROWS
    ) -> None:
        self._n_batch = n_batch
        self._stretch = stretch
        self._unnoticed_s = unnoticed_s
        self._n_min = n_min
        self._plain_s: dict[int, float] = {}
        self._ages: dict[int, int] = {}
        self._token_s: dict[int, float] = {}
        self._alone_s: float | None = None
        self._is_streams_turn = False

    def alone(self, n_streams: int, n_prompts: int, n_tokens: int) -> int:
        """Return how many of the prompts' tokens the next step takes without the streams; or 0."""
        if n_streams == 0 or self._is_streams_turn or self._alone_s is None:
            return 0
        wait_s = n_tokens * self._alone_s
        if wait_s < _SHORT_WAIT_S or 4 * n_prompts < n_streams:
            return 0
        if n_prompts == 1 and wait_s > _LONG_WAIT_S:
            return 0
        n = min(int(_ALONE_S / self._alone_s), self._n_batch)
        return n if n >= _N_ALONE else 0

    def limit(self, n_streams: int) -> int:
        """Return how many prompt tokens the next step may take along with so many streams."""
        room = self._n_batch - n_streams
        if n_streams == 0:
            return room
        size = n_streams.bit_length()
        plain_s = self._plain_s.get(size)
        if plain_s is None or self._ages[size] >= _STALE_STEPS:
            return 0
        # A prompt's token costs less than a stream's, which pays for reading the weights, too.
        token_s = self._token_s.get(size, plain_s / n_streams)
        spare_s = max(self._stretch * plain_s, self._unnoticed_s) - plain_s
        wanted = min(int(spare_s / token_s), room) if token_s else 0
        wanted -= (n_streams + wanted) % _N_ROWS
        return max(wanted, min(self._n_min, room))

    def learn(self, n_streams: int, n_prompt: int, seconds: float) -> None:
        """Take a measured step into account."""
        self._is_streams_turn = n_streams == 0
        if n_streams == 0:
            if n_prompt >= _N_ALONE:
                self._alone_s = _blend(self._alone_s, seconds / n_prompt)
            return
        size = n_streams.bit_length()
        if n_prompt == 0:
            self._plain_s[size] = _blend(self._plain_s.get(size), seconds)
            self._ages[size] = 0
            return
        self._ages[size] = self._ages.get(size, 0) + 1
        # A few tokens beside streams say little about one; zero would lift the limit.
        more_s = max(seconds - self._plain_s.get(size, 0.0), 0.05 * seconds)
        self._token_s[size] = _blend(self._token_s.get(size), more_s / n_prompt)


def _blend(known: float | None, measured: float) -> float:
    if known is None:
        return measured
    return known + _WEIGHT * (min(measured, _OUTLIER * known) - known)
