"""Exercise 3.9: Stop strings in a stream."""

from __future__ import annotations

from transformer.stop_sequences import StopSequences


def push(self: StopSequences, piece: str) -> str:
    """Take the next piece of a text; return the part that is certainly not part of a stop string.

    Text that has been shown cannot be taken back. So if the end of the text may be the beginning of a stop string, hold it
    back until this is decided. With the stop string "User:":

        push("Hello. Us")  →  "Hello. "      "Us" may become "User:"
        push("age: Use")   →  "Usage: "      it did not; now "Use" may
        push("r: hi")      →  ""             here it is; drop it and all that follows, and set self.stopped to True

    Return as much as possible at each call. After the stop, return nothing, and `_held` is "". If there are two stop
    strings, the one that begins first in the text counts.

    Args:
        self: `self._strings` are the stop strings, `self._held` is the text that was held back so far ("" at first),
            `self.stopped` is False at first. Keep the last two up to date.
        piece: the next piece.
    """
    raise NotImplementedError("Exercise 3.9: hold back what may become a stop string")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def _after(strings: Sequence[str], *pieces: str) -> StopSequences:
    stop = StopSequences(strings)
    for piece in pieces:
        stop.push(piece)
    return stop


def _returned_and_kept(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    stop: StopSequences = arguments[0]
    return {"returned": result, "held back": stop._held, "stopped": stop.stopped}


def cases() -> Iterator[Case]:
    """No match; a match; a match over two pieces; a false alarm; two strings; overlap; after the stop."""
    questions: list[tuple[str, list[str], list[str], str]] = [
        ("nothing looks like 'User:'", ["User:"], [], "Hello."),
        ("the stop string in the middle of a piece", ["User:"], [], "Hello. User: hi"),
        ("a piece that ends with the beginning 'Us'", ["User:"], [], "Hello. Us"),
        ("held back 'Us', then 'er: hi'", ["User:"], ["Hello. Us"], "er: hi"),
        ("held back 'Us', then 'age': a false alarm", ["User:"], ["Hello. Us"], "age"),
        ("held back 'Us', then 'U': a false alarm, then a new beginning", ["User:"], ["Us"], "U"),
        ("two stop strings; the second in the list occurs first", ["b", "a"], [], "xaybz"),
        ("two stop strings; a long beginning of one and a short beginning of the other", ["abcd", "bx"], [], "zab"),
        ("'aab' in 'aa': the longest possible beginning", ["aab"], [], "aa"),
        ("'aab', held back 'aa', then 'ab'", ["aab"], ["aa"], "ab"),
        ("after the stop", ["User:"], ["User:"], "more"),
        ("no stop strings at all", [], [], "anything"),
        ("the stop string twice in one piece: the first counts", ["User:"], [], "a User: b User: c"),
        ("two stop strings that begin at the same place", ["ab", "abc"], [], "xabc"),
        ("a stop string within a longer one", ["xbz", "b"], [], "axbz"),
        ("'aab' in 'aaab', the first 'a' is not part of it", ["aab"], [], "aaab"),
        ("a stop string of one character", ["\n"], [], "one"),
        ("a stop string of one character, in the piece", ["\n"], ["one"], "two\nthree"),
        ("an empty piece, while 'Us' is held back", ["User:"], ["Us"], ""),
        ("held back 'Use', and 'r' comes", ["User:"], ["Use"], "r"),
        ("held back 'ab', which a longer beginning replaces", ["abcd", "bcx"], ["ab"], "c"),
        ("held back 'abc', a false alarm that leaves a shorter beginning", ["abcd", "bcx"], ["abc"], "x"),
        ("the whole stop string as one piece", ["User:"], [], "User:"),
        ("an empty piece after the stop", ["User:"], ["User:"], ""),
    ]
    for what, strings, before, piece in questions:
        yield Case(what, [_after(strings, *before), piece], observe=_returned_and_kept)


def _overlap(text: str, string: str, shortest_first: bool = False) -> int:
    lengths = range(1, min(len(text), len(string) - 1) + 1)
    found = [length for length in lengths if text.endswith(string[:length])]
    return (min(found) if shortest_first else max(found)) if found else 0


def _variant(self: StopSequences, piece: str, **wrong: bool) -> str:
    if self.stopped and not wrong.get("goes_on"):
        return ""
    text = piece if wrong.get("forgets") else self._held + piece
    found = [place for string in self._strings if (place := text.find(string)) >= 0]
    if found:
        self.stopped, self._held = True, self._held if wrong.get("still_holds") else ""
        return text[: found[0] if wrong.get("first_in_list") else min(found)]
    if wrong.get("holds_all"):
        keep = min(len(text), max((len(string) - 1 for string in self._strings), default=0))
    elif wrong.get("holds_nothing"):
        keep = 0
    else:
        shortest = wrong.get("shortest", False)
        keep = max((_overlap(text, string, shortest) for string in self._strings), default=0)
    self._held = text[len(text) - keep :]
    return text[: len(text) - keep]


def _mistaken(name: str) -> Callable[..., Any]:
    def push(self: StopSequences, piece: str) -> str:
        return _variant(self, piece, **{name: True})

    return push


EXERCISE = Exercise(
    stub=push,
    reference="transformer.stop_sequences:StopSequences.push",
    cases=cases,
    hints=(
        "Put the text that was held back in front of the piece, and treat both as one text. Is a stop string in it?",
        "If there is one, cut at the earliest place. If not, find the longest end of the text that some stop string begins "
        "with. Hold it back and return the rest.",
        "For each string, find the largest n below len(string) with text.endswith(string[:n]). Hold back the largest n over "
        "all strings. Use text[len(text) - n:], not text[-n:], which is everything for n = 0.",
    ),
    mistakes=(
        Mistake(_mistaken("holds_all"), "too much is held back: hold back only an end that a stop string begins with"),
        Mistake(_mistaken("holds_nothing"), "an end that may become a stop string must be held back"),
        Mistake(_mistaken("forgets"), "the text that was held back belongs in front of the new piece"),
        Mistake(
            _mistaken("first_in_list"), "cut at the stop string that occurs first in the text, not first in the list"
        ),
        Mistake(_mistaken("shortest"), "hold back the longest end that a stop string begins with"),
        Mistake(
            _mistaken("still_holds"), 'at the stop, the text that was held back is decided too: `_held` becomes ""'
        ),
        Mistake(_mistaken("goes_on"), "after the stop, nothing more is returned"),
    ),
)
