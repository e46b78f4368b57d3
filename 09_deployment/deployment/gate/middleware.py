"""The layers that every request passes in and out, the outer one first: `RequestContext`, `Gate`, `BodyGuard`.

Each is plain ASGI: a function of scope, receive and send. Starlette's `BaseHTTPMiddleware` would run the route in a
separate task and pass every piece of a stream through a queue.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployment.errors import ApiError, shown, unexpected
from deployment.gate.api_keys import find_key
from deployment.gate.rate_limiting import RateLimiter
from deployment.metrics import Metrics
from deployment.settings import Limits, ServerSettings, is_loopback

REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# A browser must load these paths before the user can type a key. /health says whether the process is alive.
OPEN_PATHS = frozenset({"/", "/health", "/favicon.ico"})
UNCOUNTED_PATHS = OPEN_PATHS | {"/ready", "/metrics"}  # machines ask for these all the time
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# FastAPI's documentation page has an inline script and loads Swagger UI from a content delivery network.
DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; img-src 'self' data: https://fastapi.tiangolo.com; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def is_open(path: str) -> bool:
    """Whether a path needs no key and is not counted."""
    return path in OPEN_PATHS or path.startswith("/static/")


class RequestContext:
    """Gives a request its id, its log line, its security headers, and an answer if everything else fails.

    Args:
        app: the layer inside.
        metrics: where answers are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        request_id = offered if REQUEST_ID.fullmatch(offered) else secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                add_security_headers(MutableHeaders(scope=message), scope["path"])
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # an error in the server, or a body that was cut off
            answer = error if isinstance(error, ApiError) else unexpected(error)
            if status == 0:
                await answer.response()(scope, receive, send_with_headers)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or ("/static" if is_open(scope["path"]) else "unknown")
            self._metrics.answered(path, status)
            structlog.get_logger().info(
                "request",
                method=shown(scope["method"]),
                path=shown(scope["path"], 200),
                status=status,
                seconds=round(time.perf_counter() - started, 4),
                client=scope["client"][0] if scope.get("client") else None,
                key=scope["state"].get("key_name"),
            )


def add_security_headers(headers: MutableHeaders, path: str) -> None:
    """Tell the browser to run no foreign code, to guess no content type, and to show the answer in no frame."""
    headers["Content-Security-Policy"] = DOCS_POLICY if path == "/docs" else PAGE_POLICY
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Cross-Origin-Opener-Policy"] = "same-origin"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    if not path.startswith("/static/"):
        headers["Cache-Control"] = "no-store"


class Gate:
    """Lets a request in if it has the right host name, a valid key where keys are set, and stays within the rate.

    Args:
        app: the layer inside.
        settings: hosts and keys.
        limiter: counts requests.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, limiter: RateLimiter):
        self._app, self._keys, self._limiter = app, settings.api_keys, limiter
        self._hosts: frozenset[str] | None = None
        if settings.allowed_hosts is not None:
            self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        elif is_loopback(settings.host):
            self._hosts = frozenset({"localhost", "127.0.0.1", "[::1]", settings.host.lower()})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            path = scope["path"]
            if self._keys and not is_open(path):
                scope["state"]["key_name"] = await self._check_key(scope, headers)
            counted = {} if path in UNCOUNTED_PATHS or is_open(path) else await self._limiter.charge_request(scope)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return

        async def send_with_counts(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(counted)
            await send(message)

        await self._app(scope, receive, send_with_counts if counted else send)

    def _check_host(self, headers: Headers) -> None:
        """Refuse a page of another site that makes its name lead to 127.0.0.1 (DNS rebinding): it sends that name."""
        host = re.sub(r":\d*$", "", headers.get("host", "")).lower()
        if self._hosts is not None and host not in self._hosts:
            raise ApiError(
                403,
                f"the host name {host[:100]!r} is not one of this server's; add it to allowed_hosts",
                code="wrong_host",
            )

    async def _check_key(self, scope: Scope, headers: Headers) -> str:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError(401, "an API key is needed, in the header Authorization: Bearer KEY", code="missing_api_key")
        name = find_key(key.strip(), self._keys)
        if name is None:
            await self._limiter.charge_wrong_key(scope)
            raise ApiError(401, "the API key is not one of this server's", code="invalid_api_key")
        return name


class BodyGuard:
    """Limits the size of the body and the time to send it.

    Args:
        app: the layer inside.
        limits: the limits of the server.
    """

    def __init__(self, app: ASGIApp, limits: Limits):
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        largest, declared = self._limits.max_body_bytes, Headers(scope=scope).get("content-length", "0")
        too_large = ApiError(413, f"the body is larger than this server's limit of {largest:,} bytes")
        # isdigit() alone is true for ², where int() fails.
        if not (declared.isascii() and declared.isdecimal()) or int(declared) > largest:
            await _close(too_large, scope, receive, send)
            return
        packing = Headers(scope=scope).get("content-encoding", "identity").strip().lower()
        if packing != "identity":
            message = f"Content-Encoding {shown(packing)} is not supported: send the body as it is, not compressed"
            await _close(ApiError(415, message), scope, receive, send)
            return
        received, complete = 0, False
        deadline = asyncio.get_running_loop().time() + self._limits.body_seconds

        async def bounded() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()  # there is no deadline for waiting until the client goes away
            try:
                message = await asyncio.wait_for(receive(), deadline - asyncio.get_running_loop().time())
            except TimeoutError:
                raise ApiError(
                    408, f"the body took longer than {self._limits.body_seconds:g} seconds to send"
                ) from None
            received += len(message.get("body", b""))
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            if received > largest:
                raise too_large
            return message

        await self._app(scope, bounded, send)


async def _close(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse, and end the connection, because the rest of the refused body follows on it."""
    response = error.response()
    response.headers["Connection"] = "close"
    await response(scope, receive, send)
