"""Exercise 9.4: By which name were you called?"""

from __future__ import annotations

import re

from starlette.datastructures import Headers

from deployment.errors import ApiError
from deployment.gate.middleware import Gate


def _check_host(self: Gate, headers: Headers) -> None:
    """Refuse a request that names a host which is not this server's.

    A server on 127.0.0.1 is not safe from the web. A page of evil.example can make its own name lead to 127.0.0.1, and then
    the browser lets it read the answers ("DNS rebinding"). But the browser still sends the name that the page used, in the
    header `host`.

    The name is the part before the port, in lower case: "LocalHost:8000" is "localhost", and "[::1]:8000" is "[::1]". A port
    is a colon and digits at the end. If the header is missing, the name is "".

    Args:
        self: `self._hosts` are the names that are allowed, in lower case; None allows every name.
        headers: the request's headers; use `headers.get("host", "")`.

    Raises:
        ApiError: if the host is not allowed: ApiError(403, message, code="wrong_host"), with the host in the message.
    """
    raise NotImplementedError("Exercise 9.4: compare the host's name")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Right; with a port; IPv6; wrong; similar; missing; everything allowed. A refusal has a status, a code, the host."""
    local = frozenset({"localhost", "127.0.0.1", "[::1]"})

    # `raises` is set at every question, even where nothing is raised, so that an error is recognised with any message.
    def question(what: str, host: str | None, allowed: frozenset[str] | None = local) -> Case:
        gate: Any = SimpleNamespace(_hosts=allowed)
        headers = Headers({} if host is None else {"host": host})
        name = re.sub(r":\d*$", "", host or "").lower()

        def refusal(error: ApiError) -> dict[str, Any]:
            return {
                "status": error.status,
                "code": error.code,
                "the host is in the message": name in error.message.lower(),
            }

        return Case(what, [gate, headers], raises=ApiError, refusal=refusal)

    yield question("localhost", "localhost")
    yield question("127.0.0.1:8000, with a port", "127.0.0.1:8000")
    yield question("LocalHost:8000", "LocalHost:8000")
    yield question("[::1]:8000, whose name has colons in it", "[::1]:8000")
    yield question("[::1] without a port", "[::1]")
    yield question("evil.example", "evil.example:8000")
    yield question("localhost.evil.example, which begins with localhost", "localhost.evil.example")
    yield question("evil-localhost, which ends with localhost", "evil-localhost")
    yield question("localhost:evil, whose end is not a port", "localhost:evil")
    yield question("host, which is a part of localhost", "host")
    yield question("no header", None)
    yield question("any name, when every name is allowed", "evil.example", None)
    yield question("no header, when every name is allowed", None, None)


def _check(self: Any, headers: Headers, **wrong: bool) -> None:
    host = headers.get("host", "")
    if wrong.get("first_colon"):
        host = host.split(":")[0]
    elif wrong.get("last_colon"):
        host = host.rpartition(":")[0] if ":" in host else host
    elif wrong.get("anything_is_a_port"):
        host = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
    elif not wrong.get("with_port"):
        host = re.sub(r":\d*$", "", host)
    host = host if wrong.get("case_matters") else host.lower()
    if self._hosts is None and not wrong.get("none_is_nobody"):
        return
    allowed = host in (self._hosts or ())
    if wrong.get("begins_alike"):
        allowed = any(host.startswith(name) for name in self._hosts)
    if wrong.get("ends_alike"):
        allowed = any(host.endswith(name) for name in self._hosts)
    if wrong.get("a_part"):
        allowed = any(host and host in name for name in self._hosts)
    if wrong.get("missing_allowed"):
        allowed = allowed or not host
    if not allowed and wrong.get("server_error"):
        raise ApiError(500, f"the host name {host!r} is not one of this server's", code="wrong_host")
    if not allowed and wrong.get("no_code"):
        raise ApiError(403, f"the host name {host!r} is not one of this server's")
    if not allowed and wrong.get("no_host"):
        raise ApiError(403, "this host is not one of the server's", code="wrong_host")
    if not allowed and not wrong.get("not_refused"):
        raise ApiError(403, f"the host name {host!r} is not one of this server's", code="wrong_host")


def _mistaken(name: str) -> Callable[..., Any]:
    def _check_host(self: Gate, headers: Headers) -> None:
        _check(self, headers, **{name: True})

    return _check_host


EXERCISE = Exercise(
    stub=_check_host,
    reference="deployment.gate.middleware:Gate._check_host",
    cases=cases,
    in_place=True,
    hints=(
        "There are three steps: get the header, take the name without its port in lower case, and compare.",
        "A port is a colon and digits at the very end: re.sub(r':\\d*$', '', host). IPv6 names have colons, but end with ].",
        "host = re.sub(r':\\d*$', '', headers.get('host', '')).lower(); if self._hosts is not None and host not in "
        "self._hosts: raise ApiError(403, …, code='wrong_host').",
    ),
    mistakes=(
        Mistake(_mistaken("with_port"), "the port is not part of the name"),
        Mistake(_mistaken("case_matters"), "host names are the same in upper and lower case"),
        Mistake(
            _mistaken("first_colon"),
            "an IPv6 address has colons within its brackets: only digits after the last colon are a port",
        ),
        Mistake(
            _mistaken("last_colon"), "[::1] without a port ends with ]: only digits after the last colon are a port"
        ),
        Mistake(_mistaken("not_refused"), "a foreign name is refused with an ApiError"),
        Mistake(_mistaken("begins_alike"), "the whole name must be equal: anybody can register localhost.evil.example"),
        Mistake(_mistaken("ends_alike"), "the whole name must be equal: anybody can register evil-localhost.example"),
        Mistake(_mistaken("a_part"), "the whole name must be equal: `in` between two texts finds any part"),
        Mistake(_mistaken("anything_is_a_port"), "a port has only digits: localhost:evil is no name of this server"),
        Mistake(_mistaken("server_error"), "the status is 403: the client is refused; 500 is a fault of the server"),
        Mistake(_mistaken("no_code"), "the error has the code 'wrong_host', which programs read"),
        Mistake(_mistaken("no_host"), "the message names the host, so that the reader sees what was sent"),
        Mistake(_mistaken("missing_allowed"), "a request without the header is refused too"),
        Mistake(_mistaken("none_is_nobody"), "if self._hosts is None, every name is allowed"),
    ),
)
