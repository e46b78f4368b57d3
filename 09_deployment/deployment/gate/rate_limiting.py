"""Requests and tokens per minute, for each API key and for each address.

The window slides. A fixed window would let through twice the rate where one minute ends and the next begins. For this,
`limits` keeps two counters for each window, in this process or in Redis, where several servers count together.
"""

from __future__ import annotations

import math
import time
from typing import Any

import structlog
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from starlette.types import Scope

from deployment.errors import ApiError
from deployment.settings import RateLimits, SettingsFileError


class RateLimiter:
    """Counts what each client uses.

    Args:
        settings: the rates.

    Raises:
        SettingsFileError: the storage is unknown, or needs a package that is not there.
    """

    def __init__(self, settings: RateLimits):
        self.requests = _per_minute(settings.requests_per_minute)
        self.tokens = _per_minute(settings.tokens_per_minute)
        self.wrong_keys = _per_minute(settings.wrong_keys_per_minute)
        shared = settings.storage.startswith("redis")
        options: dict[str, Any] = {"socket_connect_timeout": 2, "socket_timeout": 2} if shared else {}
        try:
            if shared and not storage_from_string(settings.storage, **options).check():
                raise ConfigurationError("nothing answers there")
            options |= {"implementation": "redispy"} if shared else {}
            storage = storage_from_string(f"async+{settings.storage}", wrap_exceptions=True, **options)
            self._window = SlidingWindowCounterRateLimiter(storage)
        except (ConfigurationError, ValueError, ImportError) as error:
            raise SettingsFileError(f"rate_limits.storage {settings.storage!r} cannot be used: {error}") from None

    async def charge_request(self, scope: Scope) -> dict[str, str]:
        """Count a request.

        Returns:
            Headers that tell the client what is left, with OpenAI's names.

        Raises:
            ApiError: the client is over the rate.
        """
        return await self._charge(self.requests, "requests", scope, 1)

    async def charge_tokens(self, scope: Scope, tokens: int) -> None:
        """Count tokens.

        Raises:
            ApiError: the client is over the rate, or asks for more than the rate ever allows.
        """
        await self._charge(self.tokens, "tokens", scope, tokens)

    async def charge_wrong_key(self, scope: Scope) -> None:
        """Count a key that is not one of the server's. A right key from the same address is never refused for it.

        Raises:
            ApiError: too many wrong keys came from the address.
        """
        await self._charge(self.wrong_keys, "wrong keys", scope, 1)

    async def _charge(self, rate: RateLimitItem | None, what: str, scope: Scope, cost: int) -> dict[str, str]:
        if rate is None:
            return {}
        if cost > rate.amount:
            raise ApiError(
                400, f"the request may take {cost:,} {what}, and {rate.amount:,} a minute is the most: ask for less"
            )
        clients = _clients(scope)
        try:
            for client in clients:
                if not await self._window.hit(rate, what, client, cost=cost):
                    reset, _ = await self._window.get_window_stats(rate, what, client)
                    raise ApiError(
                        429,
                        f"more than {rate.amount:,} {what} a minute",
                        code="rate_limit_exceeded",
                        retry_after=max(1, math.ceil(reset - time.time())),
                    )
            _, remaining = await self._window.get_window_stats(rate, what, clients[0])
        except StorageError as error:  # without the count every request would get in, so none does
            structlog.get_logger().error("rate_limits.storage", error=str(error))
            raise ApiError(503, "requests cannot be counted now; try again", retry_after=5) from None
        return {
            f"x-ratelimit-limit-{what}": str(rate.amount),
            f"x-ratelimit-remaining-{what}": str(max(0, remaining)),
        }


def _per_minute(amount: int | None) -> RateLimitItem | None:
    return None if amount is None else RateLimitItemPerMinute(amount)


def _clients(scope: Scope) -> list[str]:
    """The names under which a request is counted: the key if there is one, and the address.

    The key comes first. When it is over its rate, the request is not counted for the others at its address.
    """
    address = scope["client"][0] if scope.get("client") else "unknown"
    key = scope.get("state", {}).get("key_name")
    return [f"address:{address}"] if key is None else [f"key:{key}", f"address:{address}"]
