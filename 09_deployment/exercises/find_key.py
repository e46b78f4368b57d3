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

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake


class _Hashes(Mapping[str, str]):
    """Names and hashes that count the comparisons in constant time, from the first look at them on."""

    def __init__(self, hashes: Mapping[str, str]):
        self._hashes = dict(hashes)
        self.comparisons = 0

    def _count(self, frame: Any, event: str, argument: Any) -> None:
        if event == "c_call" and getattr(argument, "__name__", "").endswith("compare_digest"):
            self.comparisons += 1

    def __getitem__(self, name: str) -> str:
        sys.setprofile(self._count)
        return self._hashes[name]

    def __iter__(self) -> Iterator[str]:
        sys.setprofile(self._count)
        return iter(self._hashes)

    def __len__(self) -> int:
        return len(self._hashes)


def _found(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    sys.setprofile(None)
    hashes: _Hashes = arguments[1]
    return {"name": result, "hashes compared by compare_digest": min(hashes.comparisons, len(hashes))}


def cases() -> Iterator[Case]:
    """The only key; unknown ones; one of three at each place; a hash presented; beyond ASCII; no keys."""

    def hashes(*names: str) -> _Hashes:
        return _Hashes({name: hash_key(f"key of {name}") for name in names})

    yield Case("the only key", ["key of ann", hashes("ann")], observe=_found)
    yield Case("an unknown key", ["key of eve", hashes("ann", "bob")], observe=_found)
    yield Case("the first of three", ["key of ann", hashes("ann", "bob", "cem")], observe=_found)
    yield Case("the second of three", ["key of bob", hashes("ann", "bob", "cem")], observe=_found)
    yield Case("the last of three", ["key of cem", hashes("ann", "bob", "cem")], observe=_found)
    yield Case("somebody presents the hash itself", [hash_key("key of ann"), hashes("ann")], observe=_found)
    yield Case("a key beyond ASCII", ["clé", hashes("ann")], observe=_found)
    yield Case("the beginning of a key", ["key of an", hashes("ann")], observe=_found)
    yield Case("no key is known", ["key of ann", hashes()], observe=_found)


def _find(presented: str, hashes: Mapping[str, str], **wrong: bool) -> str | None:
    digest = presented if wrong.get("not_hashed") else hash_key(presented)
    found = None
    for name, expected in list(hashes.items()) if wrong.get("early_in_a_list") else hashes.items():
        if wrong.get("plain"):
            same = expected == digest
        elif wrong.get("bytes_compared"):
            same = expected.encode() == digest.encode()
        else:
            same = hmac.compare_digest(digest, expected)
        if wrong.get("hash_accepted"):
            same = same or hmac.compare_digest(presented.encode(), expected.encode())
        if same:
            if wrong.get("early") or wrong.get("early_in_a_list"):
                return name
            found = name
        elif wrong.get("last_wins"):
            found = None
    return found


def _turned_round(presented: str, hashes: Mapping[str, str]) -> str | None:
    names = {expected: name for name, expected in hashes.items()}
    return names.get(hash_key(presented))


def _first_match(presented: str, hashes: Mapping[str, str]) -> str | None:
    digest = hash_key(presented)
    matches = (name for name, expected in hashes.items() if hmac.compare_digest(digest, expected))
    return next(matches, None)


def _mistaken(name: str) -> Callable[..., Any]:
    def find_key(presented: str, hashes: Mapping[str, str]) -> str | None:
        return _find(presented, hashes, **{name: True})

    return find_key


_IN_CONSTANT_TIME = (
    "== stops at the first difference, and its time shows where, for bytes and in a dictionary too: compare each hash by "
    "hmac.compare_digest"
)
_TO_THE_END = "do not stop at the hash that matches: the time would show which one it was"

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
        Mistake(_mistaken("plain"), _IN_CONSTANT_TIME),
        Mistake(_mistaken("bytes_compared"), _IN_CONSTANT_TIME),
        Mistake(_turned_round, _IN_CONSTANT_TIME),
        Mistake(_mistaken("early"), _TO_THE_END),
        Mistake(_mistaken("early_in_a_list"), _TO_THE_END),
        Mistake(_first_match, _TO_THE_END),
        Mistake(_mistaken("last_wins"), "a later hash must not undo a match"),
        Mistake(
            _mistaken("hash_accepted"),
            "a hash is not a key: somebody who steals the file of hashes must not get in with it",
        ),
    ),
)
