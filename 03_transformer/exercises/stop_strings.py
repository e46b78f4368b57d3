"""Exercise 3.9: Stop strings in a stream."""

from __future__ import annotations

from transformer.stop_sequences import StopSequences


def push(self: StopSequences, piece: str) -> str:
    """Take the next piece of a text; return what is certain not to be part of a stop string.

    Text that has been shown cannot be taken back. So an end of the text that might be the beginning of a stop string is
    held back until it is decided. With the stop string "User:":

        push("Hello. Us")  →  "Hello. "      "Us" may become "User:"
        push("age: Use")   →  "Usage: "      it did not; now "Use" may
        push("r: hi")      →  ""             there it is: everything from it on is dropped, and self.stopped is True

    As much as possible is returned at each call. After the stop, nothing is, and `_held` is "". Of two stop strings, the
    one that begins first in the text counts.

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
        ("held back 'Us', then 'U': a false alarm and a new beginning", ["User:"], ["Us"], "U"),
        ("two stop strings, the later one of the list occurs first", ["b", "a"], [], "xaybz"),
        ("two stop strings, a long beginning of one and a short one of the other", ["abcd", "bx"], [], "zab"),
        ("'aab' in 'aa': the longest possible beginning", ["aab"], [], "aa"),
        ("'aab', held back 'aa', then 'ab'", ["aab"], ["aa"], "ab"),
        ("after the stop", ["User:"], ["User:"], "more"),
        ("no stop strings at all", [], [], "anything"),
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
    in_place=True,
    hints=(
        "Put what was held back in front of the piece, and forget that there were pieces. Is a stop string in it?",
        "If one is, cut at the earliest place. If not, find the longest end of the text that some stop string begins with; "
        "hold it back and return the rest.",
        "For a string: the largest n below len(string) with text.endswith(string[:n]). The largest over all strings is what "
        "to hold back; text[len(text) - n:] rather than text[-n:], which for n = 0 is everything.",
    ),
    mistakes=(
        Mistake(_mistaken("holds_all"), "too much is held back: only an end that a stop string begins with"),
        Mistake(_mistaken("holds_nothing"), "an end that may become a stop string must be held back"),
        Mistake(_mistaken("forgets"), "what was held back belongs in front of the new piece"),
        Mistake(
            _mistaken("first_in_list"), "cut at the stop string that occurs first in the text, not first in the list"
        ),
        Mistake(_mistaken("shortest"), "hold back the longest end that a stop string begins with"),
        Mistake(_mistaken("still_holds"), 'at the stop, what was held back is settled too: `_held` becomes ""'),
        Mistake(_mistaken("goes_on"), "after the stop, nothing more is returned"),
    ),
)
