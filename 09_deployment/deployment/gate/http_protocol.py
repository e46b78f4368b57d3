"""Uvicorn's HTTP protocol with deadlines for headers and for answers.

A client can open many connections and send one byte of its headers from time to time ("slow loris"), or ask for much
and read nothing. This costs the client nothing and keeps the server's connections busy. Uvicorn limits the size of
headers and the pause between requests, but not the time that headers take or that an answer waits to be read.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_READ = 16_384  # bytes of a request at once; 2 MB in chunks of one byte, read at once, would keep others waiting
LEAST_TAKEN = 32_768  # bytes that a client must take within the deadline, or all that there are
LOOKS = 10  # within the deadline


class DeadlineTransport:
    """A transport that breaks the connection when the other side does not take what was written.

    The deadline is for progress, not for the whole answer: a long answer may take long on a slow line.

    Args:
        transport: writes to the connection.
        loop: its event loop.
        seconds: time to take the next `LEAST_TAKEN` bytes.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, seconds: float):
        self._transport, self._loop, self._seconds = transport, loop, seconds
        self._written = self._goal = 0  # bytes
        self._deadline = 0.0
        self._next_look: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """See `asyncio.WriteTransport`."""
        self._transport.write(data)
        self._written += len(data)
        if self._next_look is None and self._transport.get_write_buffer_size():
            self._expect_more()

    def stop_looking(self) -> None:
        """The connection is closed."""
        if self._next_look is not None:
            self._next_look.cancel()

    def _expect_more(self) -> None:
        left = self._transport.get_write_buffer_size()
        self._goal = self._written - left + min(left, LEAST_TAKEN)
        self._deadline = self._loop.time() + self._seconds
        self._look_later()

    def _look_later(self) -> None:
        self._next_look = self._loop.call_later(self._seconds / LOOKS, self._look)

    def _look(self) -> None:
        self._next_look = None
        left = self._transport.get_write_buffer_size()
        if not left:
            return
        if self._written - left >= self._goal:
            self._expect_more()
        elif self._loop.time() < self._deadline:
            self._look_later()
        else:
            self._transport.abort()  # to close it would wait until the rest is taken


class GuardedProtocol(H11Protocol):
    """Ends a connection whose headers are not complete in time, or whose answers are not taken; see `with_deadlines`."""

    header_seconds: ClassVar[float] = 10.0
    write_seconds: ClassVar[float] = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._watched = DeadlineTransport(transport, self.loop, self.write_seconds)  # type: ignore[arg-type]
        with contextlib.suppress(AttributeError):  # uvloop reads as much as it likes
            transport.max_size = MOST_READ  # type: ignore[attr-defined]
        super().connection_made(self._watched)  # type: ignore[arg-type]
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
        self._watched.stop_looking()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()


def with_deadlines(header_seconds: float, write_seconds: float) -> type[GuardedProtocol]:
    """The protocol with its deadlines.

    Args:
        header_seconds: time for the headers of a request.
        write_seconds: time in which a client must take 32 KiB of an answer, or all that is ready.
    """
    deadlines = {"header_seconds": header_seconds, "write_seconds": write_seconds}
    return type("GuardedProtocol", (GuardedProtocol,), deadlines)
