"""Uvicorn's HTTP protocol with a deadline for headers.

A client can open many connections and send one byte of its headers from time to time ("slow loris"). This costs the
client nothing and keeps the server's connections busy. Uvicorn limits the size of headers and the pause between
requests, but not the time that headers take.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol


class GuardedProtocol(H11Protocol):
    """Closes a connection when the headers of the next request are not complete in time; see `with_deadline`."""

    header_seconds: ClassVar[float] = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._deadline = self.loop.call_later(self.header_seconds, self._too_slow)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self._deadline is None:  # the first bytes of the next request
            self._deadline = self.loop.call_later(self.header_seconds, self._too_slow)
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_clock()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()


def with_deadline(header_seconds: float) -> type[GuardedProtocol]:
    """The protocol with a deadline.

    Args:
        header_seconds: time for the headers of a request.
    """
    return type("GuardedProtocol", (GuardedProtocol,), {"header_seconds": header_seconds})
