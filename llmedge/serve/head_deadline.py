"""A bound on the time that a client takes for the head of a request.

Uvicorn bounds the time between two requests of a connection only; a client that sends its first
head a byte a minute, or nothing at all, would hold its connection for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.h11_impl import H11Protocol


def protocol_with_head_deadline(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP protocol, which ends connections whose next head takes longer."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class DeadlineProtocol(H11Protocol):
        """One connection."""

        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head_timer = self.loop.call_later(seconds, self._end)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._head_timer is None:
                if _waits_for_head(self):
                    self._head_timer = self.loop.call_later(seconds, self._end)
            elif not _waits_for_head(self):
                self._head_timer.cancel()
                self._head_timer = None

        def _end(self) -> None:
            self._head_timer = None
            if _waits_for_head(self):
                self.transport.close()

    return DeadlineProtocol


def _waits_for_head(protocol: H11Protocol) -> bool:
    return not protocol.cycle or protocol.cycle.response_complete
