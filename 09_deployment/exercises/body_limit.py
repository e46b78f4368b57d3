"""Exercise 9.5: A limit on what a client may send."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from deployment.errors import ApiError
from deployment.gate.middleware import BodyGuard


async def __call__(self: BodyGuard, scope: Scope, receive: Receive, send: Send) -> None:
    """Pass a request on to the app, with a bound on its body's size and on the time it takes.

    An ASGI app is called with a scope (a dictionary), `await receive()` for the next message from the client, and `await
    send(message)`. A middleware calls the app, and may give it another `receive`, which looks at each message before it
    passes the message on. Raise an `ApiError(status, message)` if a limit is exceeded:

    1. Pass on what is not HTTP (scope["type"] != "http") without a change.
    2. Status 413 at once, without calling the app, if the header `content-length` is there and is above the limit or has
       any character other than the digits 0 to 9: `Headers(scope=scope).get("content-length", "0")`.
    3. Status 413 as soon as more bytes have come than the limit, whatever the header said. The bytes of a message are in
       `message.get("body", b"")`.
    4. Status 408 if a message has not come `body_seconds` after the beginning of the call: `asyncio.wait_for(receive(),
       seconds)` raises asyncio.TimeoutError. After the body is complete (message.get("more_body", False) is False), there
       is no time limit.

    Args:
        self: `self._app` is the app; `self._limits.max_body_bytes` and `self._limits.body_seconds` are the limits.
        scope: the scope of the request.
        receive: gives the client's messages.
        send: takes the answer.
    """
    raise NotImplementedError("Exercise 9.5: count what comes in")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from deployment.settings import Limits
from learn.exercise import Case, Exercise, Mistake


class _Exchange:
    """A client that sends pieces, an app that reads them all and answers 200, and a record of what happened."""

    def __init__(self, pieces: Sequence[bytes | None], pauses: Sequence[float]):
        self.pieces, self.pauses, self.sent = list(pieces), list(pauses), 0
        self.read = 0
        self.calls = 0
        self.status = 0

    async def receive(self) -> Message:
        """Return the next piece; after the last, the client goes away."""
        index, self.sent = self.sent, self.sent + 1
        await asyncio.sleep(self.pauses[index] if index < len(self.pauses) else 0)
        if index >= len(self.pieces):
            return {"type": "http.disconnect"}
        if self.pieces[index] is None:
            return {"type": "http.request"}  # without bytes, and the last one
        return {"type": "http.request", "body": self.pieces[index], "more_body": index + 1 < len(self.pieces)}

    async def send(self, message: Message) -> None:
        """Note the status."""
        self.status = message.get("status", self.status)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then wait for the client to go away, as a stream does."""
        self.calls += 1
        more = True
        while more:
            message = await receive()
            self.read += len(message.get("body", b""))
            more = message.get("more_body", False)
        if scope.get("path") == "/stream":
            await receive()
        await send({"type": "http.response.start", "status": 200})


def _happened(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    exchange: _Exchange = arguments[3].__self__
    status = 0
    try:
        asyncio.run(result)
    except ApiError as error:
        status = error.status
    return {
        "status": status or exchange.status,
        "calls of the app": exchange.calls,
        "bytes that the app read": exchange.read,
    }


def cases() -> Iterator[Case]:
    """Small; at the limit; above it, declared and undeclared; a false length; slow in three ways; not HTTP."""

    def question(
        what: str, pieces: Sequence[bytes | None], declared: str | None = None, pauses: Sequence[float] = (), kind: str = "http",
        path: str = "/", seconds: float = 20.0,
    ) -> Case:  # fmt: skip
        exchange = _Exchange(pieces, pauses)
        guard = BodyGuard(exchange.app, Limits(max_body_bytes=10, body_seconds=seconds))
        headers = [] if declared is None else [(b"content-length", declared.encode("latin-1"))]
        scope = {"type": kind, "headers": headers, "path": path}
        return Case(what, [guard, scope, exchange.receive, exchange.send], observe=_happened)

    yield question("5 bytes when 10 are allowed", [b"12345"], "5")
    yield question("exactly 10 bytes in two pieces, length not declared", [b"12345", b"67890"])
    yield question("exactly 10 bytes, declared as 10", [b"1234567890"], "10")
    yield question("no body, declared as 0", [b""], "0")
    yield question("declared as 11 bytes", [b"12345678901"], "11")
    yield question("a declared length of -1", [b"1"], "-1")
    yield question("a declared length of ², for which isdigit() is true", [b"1"], "²")
    yield question("a declared length of +5, which int() reads", [b"1"], "+5")
    yield question("11 bytes in one piece, length not declared", [b"12345678901"])
    yield question("11 bytes in three pieces, length not declared", [b"1234", b"5678", b"901"])
    yield question("11 bytes, and one more piece that is not read", [b"12345678901", b"2"])
    yield question("12 bytes, declared as 4", [b"123456", b"789012"], "4")
    yield question(
        "the second piece does not come for 0.4 seconds, when 0.2 are allowed",
        [b"1", b"2"],
        None,
        [0.0, 0.4],
        seconds=0.2,
    )
    yield question(
        "a body whose last message has no `body` and no `more_body`; then the client waits for a stream",
        [b"1", None],
        None,
        [0.0, 0.0, 0.4],
        path="/stream",
        seconds=0.25,
    )
    yield question(
        "three pieces, each 0.2 seconds after the one before, when 0.35 are allowed for all",
        [b"1", b"2", b"3"],
        None,
        [0.2] * 3,
        seconds=0.35,
    )
    yield question("a lifespan message, which is not HTTP", [b"12345678901234"], None, kind="lifespan")


async def _guard(self: Any, scope: Scope, receive: Receive, send: Send, **wrong: bool) -> None:
    if scope["type"] != "http" and not wrong.get("everything_guarded"):
        await self._app(scope, receive, send)
        if not wrong.get("not_returned"):
            return
    largest, declared = self._limits.max_body_bytes, Headers(scope=scope).get("content-length", "0")
    if wrong.get("not_validated"):
        bad = int(declared) > largest
    else:
        digits = declared.isdigit() if wrong.get("superscripts") else declared.isascii() and declared.isdecimal()
        bad = not digits or int(declared) > largest
    if wrong.get("declared_limit_refused"):
        bad = bad or int(declared) >= largest
    if wrong.get("read_by_int"):
        try:
            bad = not 0 <= int(declared) <= largest
        except ValueError:
            bad = True
    if bad and not wrong.get("header_ignored"):
        raise ApiError(413, "too large")
    received, complete = 0, False
    deadline = asyncio.get_running_loop().time() + self._limits.body_seconds

    async def bounded() -> Message:
        nonlocal received, complete
        if complete and not wrong.get("always_timed"):
            return await receive()
        if wrong.get("not_timed"):
            message = await receive()
        else:
            left = deadline - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(
                    receive(), self._limits.body_seconds if wrong.get("timed_anew") else left
                )
            except TimeoutError:
                raise ApiError(408, "too slow") from None
        size = len(message["body"] if wrong.get("always_a_body") else message.get("body", b""))
        received = size if wrong.get("piece_alone") else received + size
        complete = not message.get("more_body", False)
        limit = largest - 1 if wrong.get("one_less") else largest + 1 if wrong.get("one_more") else largest
        if wrong.get("counted_late"):
            limit += size
        if received > limit and not wrong.get("header_trusted"):
            raise ApiError(413, "too large")
        return message

    await self._app(scope, bounded, send)


def _mistaken(name: str) -> Callable[..., Any]:
    async def __call__(self: BodyGuard, scope: Scope, receive: Receive, send: Send) -> None:
        await _guard(self, scope, receive, send, **{name: True})

    return __call__


EXERCISE = Exercise(
    stub=__call__,
    reference="deployment.gate.middleware:BodyGuard.__call__",
    cases=cases,
    in_place=True,
    hints=(
        "Steps 1 and 2 do not need your own receive. For 3 and 4 write an inner async function that calls the outer receive, "
        "looks at the message, and returns it.",
        "The inner function keeps its count in a variable of the outer one: `nonlocal received`. Set a deadline at the "
        "beginning; the time left is the deadline minus asyncio.get_running_loop().time().",
        "async def bounded(): message = await asyncio.wait_for(receive(), deadline - now); received += "
        "len(message.get('body', b'')); raise ApiError(413, …) if received > largest; complete = not "
        "message.get('more_body', False); return message. Then await self._app(scope, bounded, send).",
    ),
    mistakes=(
        Mistake(_mistaken("one_more"), "one byte above the limit is refused: received > limit"),
        Mistake(
            _mistaken("counted_late"), "count a message before you compare: here the last one is not in the sum yet"
        ),
        Mistake(_mistaken("declared_limit_refused"), "a declared length that equals the limit is allowed"),
        Mistake(_mistaken("read_by_int"), "int() also reads +5 and 1_0: only the digits 0 to 9 are a length"),
        Mistake(_mistaken("one_less"), "the limit itself is allowed: refuse only what is above it"),
        Mistake(
            _mistaken("header_ignored"),
            "a length that is declared above the limit is refused at once, before the app is called",
        ),
        Mistake(_mistaken("not_validated"), "the header is text from an unknown client: only digits are a length"),
        Mistake(
            _mistaken("superscripts"), "isdigit() is true for ², but int() fails on it: use isascii() and isdecimal()"
        ),
        Mistake(_mistaken("header_trusted"), "the header may be missing or false: count the bytes that come"),
        Mistake(_mistaken("piece_alone"), "the bytes of all pieces together count"),
        Mistake(
            _mistaken("not_timed"), "a client that sends slowly occupies the server: wait no longer than body_seconds"
        ),
        Mistake(
            _mistaken("always_timed"),
            "after the body there is no time limit: the app waits for the client to go away while it streams",
        ),
        Mistake(
            _mistaken("timed_anew"),
            "use one deadline for the whole body, not one for each message: a byte now and then would hold the connection "
            "for ever",
        ),
        Mistake(_mistaken("always_a_body"), "a message may have no bytes: message.get('body', b'')"),
        Mistake(_mistaken("not_returned"), "the app is called once: return after what is not HTTP"),
        Mistake(_mistaken("everything_guarded"), "what is not HTTP is passed on without a change"),
    ),
)
