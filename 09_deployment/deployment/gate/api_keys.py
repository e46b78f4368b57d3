"""API keys: random, shown once, kept as hashes, compared in constant time.

A password needs a slow hash with salt because people choose guessable ones. A key of 256 random bits cannot be guessed,
so one round of SHA-256 is enough, and a server that checks thousands a second is not slowed down.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping

PREFIX = "nullm-"  # lets scanners recognise a key that was published by mistake


def new_key() -> str:
    """A key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What the settings hold in place of the key.

    >>> hash_key("abc")[:23]
    'sha256:ba7816bf8f01cfea'
    """
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def find_key(presented: str, hashes: Mapping[str, str]) -> str | None:
    """The name of a key; None where it is unknown.

    Every hash is compared to its end, so that the time says nothing about which one, or how much of it, was right.

    Args:
        presented: what the client sent.
        hashes: name to hash.
    """
    digest = hash_key(presented)
    found = None
    for name, expected in hashes.items():
        if hmac.compare_digest(digest, expected):
            found = name
    return found
