"""Errors in the shape of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from finetuning.data.chat_format import ConversationError
from optimization.engine.events import EngineFullError, PromptError, RequestError
from tokenizer.interface import TokenizerError

CODES = {  # status → OpenAI's type
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
}


LONGEST_MESSAGE = 500  # characters


def shown(value: object, longest: int = 100) -> str:
    r"""What a client sent, as part of a message or a log line: cut, and with escapes for what cannot be seen.

    Control characters could move the cursor of a terminal, and half of a surrogate pair cannot be sent at all.

    >>> shown("a\x1b[2J" + "b" * 9, longest=8)
    'a\\x1b[2Jbbb…'

    Args:
        value: a name, a path.
        longest: characters of the value that are kept.
    """
    text = str(value)
    kept = text if len(text) <= longest else text[:longest] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in kept)


class ErrorDetail(BaseModel):
    """The error itself."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """The body of every answer with a status of 400 or more."""

    error: ErrorDetail


class ApiError(HTTPException):
    """An answer other than success.

    It is a Starlette exception, because FastAPI lets only those pass where it reads bodies.

    Args:
        status: HTTP status.
        message: one line that names the value, the limit and the way out; cut if it is very long.
        param: the field at fault.
        code: for programs.
        retry_after: seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        message = shown(message, LONGEST_MESSAGE)
        super().__init__(status, message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def body(self) -> dict[str, Any]:
        """As JSON."""
        kind = CODES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP answer for this error."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def check_limit(param: str, value: int, limit: int, unit: str = "") -> None:
    """Check a number against one of the server's limits.

    Raises:
        ApiError: it is over.
    """
    if value > limit:
        what = f"{value:,} {unit}".strip()
        raise ApiError(400, f"{param}: {what} is more than this server's limit of {limit:,}", param)


def as_api_error(error: Exception) -> ApiError | None:
    """The answer to an error of the engine, the tokenizer or the chat format; None for any other error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineFullError):
        return ApiError(429, f"the server is busy: {error}", code="queue_full", retry_after=1)
    if isinstance(error, (PromptError, RequestError, TokenizerError, ConversationError)):
        too_long = isinstance(error, PromptError) and "context" in str(error)
        return ApiError(400, str(error), code="context_length_exceeded" if too_long else None)
    return None


def install_error_handlers(app: FastAPI) -> None:
    """Give this shape to every error of an application."""

    async def known(_: Request, error: Exception) -> JSONResponse:
        answer = as_api_error(error)
        assert answer is not None
        return answer.response()

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        """The first problem in one line, instead of a nested list that also repeats the input."""
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            message = f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
            return ApiError(400, message).response()
        places = [*first["loc"][1:], *([first["ctx"]["name"]] if first["type"] == "unknown_field" else [])]
        param = ".".join(shown(place) for place in places)
        if not param and isinstance(error.body, bytes):
            message = "the body must be JSON, with the header Content-Type: application/json"
        return ApiError(400, f"{param}: {message}" if param else message, param or None).response()

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = str(error.detail)
        if isinstance(error.__cause__, UnicodeDecodeError):  # FastAPI only says that there was an error
            bad = error.__cause__
            message = f"the body is not UTF-8: byte {bad.object[bad.start]:#04x} at {bad.start:,}; JSON is always UTF-8"
        response = ApiError(error.status_code, message).response()
        response.headers.update(error.headers or {})
        return response

    for kind in (ApiError, EngineFullError, PromptError, RequestError, TokenizerError, ConversationError):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def unexpected(error: Exception) -> ApiError:
    """The answer to an error in the server itself. The details go into the log, not to the client."""
    structlog.get_logger().error("unexpected error", exc_info=error)
    return ApiError(500, "something went wrong in the server; the log has the details under this request id")
