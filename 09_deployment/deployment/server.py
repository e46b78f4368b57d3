"""How the server listens, and how it stops in an orderly way.

After SIGTERM or Ctrl-C the server is no longer ready and accepts no new work. Running requests have `drain_seconds` to
finish. Then the server ends their streams with an error event. Its exit status is 0. A second Ctrl-C ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from deployment.gate.http_protocol import with_deadlines
from deployment.server_state import ServerState
from deployment.settings import ServerSettings

CUT_SECONDS = 5  # from the end of draining to the end of the process


def uvicorn_config(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    """The configuration of Uvicorn that follows from the settings of the server."""
    limits = settings.limits
    return uvicorn.Config(
        app,
        http=with_deadlines(limits.header_seconds, limits.write_seconds),
        ws="none",
        log_config=None,
        access_log=False,
        h11_max_incomplete_event_size=limits.max_header_bytes,
        limit_concurrency=limits.max_connections,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_seconds) + CUT_SECONDS,
    )


def listen(host: str, port: int) -> socket.socket:
    """Open the socket to listen on. Uvicorn would end the process with a traceback if the port is taken.

    Raises:
        ValueError: the port is taken, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port") from None


class StoppingServer(uvicorn.Server):
    """Uvicorn's server, but it tells streams when they are cut, and its exit status after SIGTERM is 0.

    Args:
        config: configuration of Uvicorn.
        state: state of the application.
    """

    def __init__(self, config: uvicorn.Config, state: ServerState):
        super().__init__(config)
        self._state = state
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See Uvicorn."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """See Uvicorn. The signal calls this."""
        if not self._state.desk.draining and self._loop is not None:
            self._state.desk.draining = True
            desk, seconds = self._state.desk, self._state.settings.drain_seconds
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, desk.cancel_all)
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See Uvicorn, which raises the signal again at the end. Here, stopping after a signal counts as success."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
