"""Stopping at a string, wherever the tokens happen to be cut.

A stop string may begin in one token and end in another, and a streamed text cannot be taken back. So the
end of the text that might become a stop string is held back until it is decided.
"""

from __future__ import annotations

from collections.abc import Sequence

from groundwork.user_errors import require_texts


class StopSequences:
    """Passes text on until one of the strings occurs; the string itself is not passed on.

    >>> stop = StopSequences(["\\nUser:"])
    >>> stop.push("Hello.\\nUs"), stop.push("age\\nUse"), stop.push("r: hi")
    ('Hello.', '\\nUsage', '')
    >>> stop.stopped
    True

    Args:
        strings: what to stop at; none of them empty.

    Raises:
        ValueError: an empty string, or one string instead of a list.
    """

    def __init__(self, strings: Sequence[str]):
        require_texts(strings)
        if any(not string for string in strings):
            raise ValueError("a stop string must not be empty: it would stop before the first character")
        self._strings = tuple(strings)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Take the next piece of text; return what is certain not to be part of a stop string."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [position for string in self._strings if (position := text.find(string)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The text has ended: return what was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that `string` begins with."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0
