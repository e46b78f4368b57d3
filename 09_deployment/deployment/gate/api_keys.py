"""API keys: random, shown once, kept as hashes, compared in constant time.

A password needs a slow hash with salt, because people choose passwords that can be guessed. A key of 256 random bits
cannot be guessed. So one round of SHA-256 is enough, and it does not slow down a server that checks thousands a second.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping

PREFIX = "nullm-"  # with it, scanners recognise a key that was published by mistake


def new_key() -> str:
    """A key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """The hash that the settings hold instead of the key.

    >>> hash_key("abc")[:23]
    'sha256:ba7816bf8f01cfea'
    """
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def find_key(presented: str, hashes: Mapping[str, str]) -> str | None:
    """The name of a key; None if the key is unknown.

    Every hash is compared to its end. So the time does not show which hash was right, or how much of it.

    Args:
        presented: the key that the client sent.
        hashes: the hash of each key, by its name.
    """
    digest = hash_key(presented)
    found = None
    for name, expected in hashes.items():
        if hmac.compare_digest(digest, expected):
            found = name
    return found
