"""Exercise 9.3: Check an API key, and give nothing away."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from deployment.gate.api_keys import hash_key


def find_key(presented: str, hashes: Mapping[str, str]) -> str | None:
    """The name of a key; None if it is unknown.

    The server keeps `hash_key(key)`, never the key. An ordinary comparison stops at the first character that differs. From
    the time this takes, an attacker could find a hash piece by piece. So compare with `hmac.compare_digest(a, b)`, whose
    time does not depend on the contents, and compare with *every* hash, even after one has matched.

    Args:
        presented: what the client sent.
        hashes: the hash of each name.
    """
    raise NotImplementedError("Exercise 9.3: compare all, in constant time")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake


class _Watched(str):
    """A hash that notices an ordinary comparison."""

    compared = False

    def __eq__(self, other: object) -> bool:
        self.compared = True
        return str.__eq__(self, other)

    __hash__ = str.__hash__


class _Hashes(dict[str, str]):
    """Names and hashes that count how many of them are looked at."""

    looked_at = 0

    def items(self) -> Any:
        """Yield them one after the other, and count them."""
        for name, value in super().items():
            self.looked_at += 1
            yield name, value

    def __getitem__(self, name: str) -> str:
        self.looked_at += 1
        return super().__getitem__(name)

    def values(self) -> Any:
        """Yield them one after the other, and count them."""
        for value in super().values():
            self.looked_at += 1
            yield value


def _found(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    hashes: _Hashes = arguments[1]
    return {
        "name": result,
        "hashes looked at": hashes.looked_at,
        "compared with ==": any(value.compared for value in dict.values(hashes) if isinstance(value, _Watched)),
    }


def cases() -> Iterator[Case]:
    """The only key; an unknown one; the first of three; a hash presented; beyond ASCII."""

    def hashes(*names: str) -> _Hashes:
        return _Hashes({name: _Watched(hash_key(f"key of {name}")) for name in names})

    yield Case("the only key", ["key of ann", hashes("ann")], observe=_found)
    yield Case("an unknown key", ["key of eve", hashes("ann", "bob")], observe=_found)
    yield Case("the first of three", ["key of ann", hashes("ann", "bob", "cem")], observe=_found)
    yield Case("the last of three", ["key of cem", hashes("ann", "bob", "cem")], observe=_found)
    yield Case("somebody presents the hash itself", [hash_key("key of ann"), hashes("ann")], observe=_found)
    yield Case("a key beyond ASCII", ["clé", hashes("ann")], observe=_found)


def _find(presented: str, hashes: Mapping[str, str], **wrong: bool) -> str | None:
    digest = presented if wrong.get("not_hashed") else hash_key(presented)
    found = None
    for name, expected in hashes.items():
        same = expected == digest if wrong.get("plain") else hmac.compare_digest(digest, expected)
        if wrong.get("hash_accepted"):
            same = same or hmac.compare_digest(presented.encode(), expected.encode())
        if same:
            if wrong.get("early"):
                return name
            found = name
        elif wrong.get("last_wins"):
            found = None
    return found


def _mistaken(name: str) -> Callable[..., Any]:
    def find_key(presented: str, hashes: Mapping[str, str]) -> str | None:
        return _find(presented, hashes, **{name: True})

    return find_key


EXERCISE = Exercise(
    stub=find_key,
    reference="deployment.gate.api_keys:find_key",
    cases=cases,
    in_place=True,
    hints=(
        "Hash what was presented, once. Then write a loop over all the hashes that never ends early.",
        "Remember the name in a variable where hmac.compare_digest says True, and go on.",
        "digest = hash_key(presented); found = None; for name, expected in hashes.items(): if hmac.compare_digest(digest, "
        "expected): found = name; return found.",
    ),
    mistakes=(
        Mistake(_mistaken("not_hashed"), "the server knows hashes only: compare hash_key(presented)"),
        Mistake(
            _mistaken("plain"), "== stops at the first difference, and its time shows where: use hmac.compare_digest"
        ),
        Mistake(_mistaken("early"), "do not stop at the hash that matches: the time would show which one it was"),
        Mistake(_mistaken("last_wins"), "a later hash must not undo a match"),
        Mistake(
            _mistaken("hash_accepted"),
            "a hash is not a key: somebody who steals the file of hashes must not get in with it",
        ),
    ),
)
