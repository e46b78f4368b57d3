"""Regular expressions of `tokenizer.json`, which are in the syntax of Oniguruma, for the `regex` package.

The two look alike and often mean different things: `^` is the beginning of every line for Oniguruma, `(?m:.)` takes new
lines, `\\h` is a hexadecimal digit, `[a[bc]]` is one set, `\\w` has no zero-width joiner. So a pattern
is read part by part, and only parts that are known to mean the same go through. Parts with another meaning are rewritten,
in a way that both understand, so that a pattern can be written into a `tokenizer.json` again. All others are refused by name.

What no translation can change: which characters are letters depends on the version of Unicode. Oniguruma's is older, and has
none of the characters that were added since.
"""

from __future__ import annotations

import unicodedata
from typing import Any

import regex

from tokenizer.interface import TokenizerError

_WORD = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"
_WORD_ALONE = _WORD + "²³¹¼½¾"  # outside brackets, Oniguruma has more
_HEX = "0-9A-Fa-f"
_ANY = r"[\s\S]"  # new lines too
_BOUNDARY = f"(?<=[{_WORD_ALONE}])(?![{_WORD_ALONE}])|(?<![{_WORD_ALONE}])(?=[{_WORD_ALONE}])"
# Places in a text, by what is around them.
_ANCHORS = {
    "^": f"(?:(?<!{_ANY})|(?<=\\n)(?={_ANY}))",
    "$": r"(?![^\n])",
    r"\A": f"(?<!{_ANY})",
    r"\z": f"(?!{_ANY})",
    r"\Z": f"(?=\\n?(?!{_ANY}))",
    r"\b": f"(?:{_BOUNDARY})",
    r"\B": f"(?!{_BOUNDARY})",
}
_CHARACTERS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
_SETS = {"w": _WORD, "word": _WORD, "h": _HEX, "xdigit": _HEX}  # with other characters than for `regex`
_POSIX = {
    "alnum": r"\p{Alphabetic}\p{Nd}",
    "alpha": r"\p{Alphabetic}",
    "blank": r"\p{Zs}\t",
    "cntrl": r"\p{Cc}",
    "digit": r"\p{Nd}",
    "graph": "[:graph:]",
    "lower": r"\p{Lowercase}",
    "print": "[:print:]",
    "punct": r"\p{P}\p{S}",
    "space": r"\s",
    "upper": r"\p{Uppercase}",
    "word": _WORD,
    "xdigit": _HEX,
}
_PROPERTY = regex.compile(
    "l[ultmo]?|m[nce]?|n[dlo]?|p[cdseifo]?|s[mcko]?|z[slp]?|c[cfon]?|letter|mark|number|punctuation|symbol|separator|other"
    "|any|assigned|alphabetic|lowercase|uppercase|whitespace|emoji|han|hiragana|katakana|hangul|bopomofo|latin|greek"
    "|cyrillic|armenian|georgian|hebrew|arabic|devanagari|bengali|tamil|telugu|thai|lao|tibetan|myanmar|khmer|ethiopic"
    "|common|inherited"
)
_GROUP = regex.compile(r"\((?:\?(?:(?P<look><?[=!]|>)|(?P<on>[im]*)(?:-(?P<off>[im]*))?:))?")
_REPEAT = regex.compile(r"(?P<plain>[?*+][?+]?)|\{(?P<least>\d*)(?P<comma>,?)(?P<most>\d*)\}(?P<after>[?+]?)")
_ESCAPE = regex.compile(
    r"\\(?:[pP]\{(?P<not>\^?)(?P<property>[\w -]+)\}|x\{(?P<wide>[0-9A-Fa-f]{1,6})\}|x(?P<narrow>[0-7][0-9A-Fa-f])"
    r"|u(?P<four>[0-9A-Fa-f]{4})|(?P<one>[\s\S]))"
)
_POSIX_SET = regex.compile(r"\[:(?P<not>\^?)(?P<name>[a-z]+):\]")
# Without regard to case, Oniguruma takes some pairs of letters for one character, such as st for U+FB06.
_JOINED = regex.compile("(?i)ss|ff|fi|fl|st")


def translate(pattern: str) -> str:
    """The pattern as `regex` and Oniguruma both read it.

    >>> translate(r"\\h+|(?m:.)"), translate(r" ?\\p{L}+|\\s+(?!\\S)")
    ('[0-9A-Fa-f]+|(?:[\\\\s\\\\S])', ' ?\\\\p{L}+|\\\\s+(?!\\\\S)')

    Raises:
        TokenizerError: it has a part that is not known to mean the same in both, or it matches where there is nothing.
    """
    try:
        translated = _Translator(pattern).whole()
        compiled = regex.compile(translated)
    except RecursionError:
        raise TokenizerError(f"its pattern of {len(pattern)} characters is too deep") from None
    except regex.error as error:
        raise TokenizerError(f"its pattern {pattern!r} cannot be read: {error}") from None
    if compiled.fullmatch(""):
        raise TokenizerError(f"its pattern {pattern!r} matches where there is nothing, which is not supported")
    return translated


def pattern_text(pattern: dict[str, str]) -> str:
    """The regular expression of `{"Regex": …}` or `{"String": …}`."""
    if "Regex" in pattern:
        return translate(pattern["Regex"])
    if not pattern["String"]:
        raise TokenizerError("an empty text to look for is not supported")
    return regex.escape(pattern["String"])


def compile_pattern(pattern: dict[str, str]) -> Any:
    """The same, compiled."""
    return regex.compile(pattern_text(pattern))


class _Translator:
    """Reads a pattern from left to right. `fold`: without regard to case; `dot_all`: `.` takes new lines."""

    def __init__(self, pattern: str):
        self.pattern, self.place = pattern, 0
        self.letters = ""  # in a row

    def whole(self) -> str:
        if self.pattern.startswith("(?i)"):  # later in a pattern, it means something else
            self.place = 4
            translated = f"(?i:{self.alternatives(True, False)})"
        else:
            translated = self.alternatives(False, False)
        if self.place < len(self.pattern):
            raise self.refusal(")")
        return translated

    def refusal(self, part: str) -> TokenizerError:
        return TokenizerError(f"its pattern {self.pattern!r} has {part!r}, which is not supported")

    def alternatives(self, fold: bool, dot_all: bool) -> str:
        """Up to the end, or to the bracket that closes the group."""
        parts: list[str] = []
        while self.place < len(self.pattern) and self.pattern[self.place] != ")":
            start = self.place
            if self.pattern[start] == "|":
                self.place += 1
                parts.append("|")
                self.letters = ""
                continue
            atom, repeatable = self.atom(fold, dot_all)
            parts.append(self.repeated(atom, repeatable))
        return "".join(parts)

    def atom(self, fold: bool, dot_all: bool) -> tuple[str, bool]:
        """One part, and whether it may be repeated."""
        character = self.pattern[self.place]
        if character == "(":
            return self.group(fold, dot_all)
        if character == "[":
            return self.one_set(fold), True
        if character == "\\":
            return self.escape(fold)
        if character in "?*+":
            raise self.refusal(f"{character} after nothing that it could repeat")
        if character == "{" and _REPEAT.match(self.pattern, self.place):
            raise self.refusal("{ after nothing that it could repeat")
        self.place += 1
        if character in "^$.":
            self.letters = ""
        if character in "^$":
            return _ANCHORS[character], False
        if character == ".":
            return _ANY if dot_all else ".", True
        return self.literal(character, fold, "\\" + character if character in "{}]" else character), True

    def literal(self, character: str, fold: bool, written: str) -> str:
        if not fold:
            return written
        self.check_case(character)
        self.letters += character
        if _JOINED.search(self.letters):
            raise self.refusal(f"(?i) with {self.letters[-2:]}")
        return "(?-i:[iI])" if character in "iI" else written  # for `regex`, İ and ı are the same letter

    def check_case(self, character: str) -> None:
        if not character.isascii() and not _has_no_case(character):
            raise self.refusal(f"(?i) with {character}")

    def group(self, fold: bool, dot_all: bool) -> tuple[str, bool]:
        match = _GROUP.match(self.pattern, self.place)
        if match is None or self.pattern[match.end() :].startswith("?"):
            raise self.refusal(self.pattern[self.place : self.place + 4])
        self.place = match.end()
        opening = match.group()
        if match["on"] is not None:
            on, off = match["on"], match["off"] or ""
            if set(on) & set(off):
                raise self.refusal(opening)
            fold, dot_all = (fold or "i" in on) and "i" not in off, (dot_all or "m" in on) and "m" not in off
            opening = "(?i:" if "i" in on else "(?-i:" if "i" in off else "(?:"
        inside = self.alternatives(fold, dot_all)
        if self.place == len(self.pattern):
            raise self.refusal(f"{match.group()} without an end")
        self.place += 1
        return f"{opening}{inside})", match["look"] in (None, ">")

    def repeated(self, atom: str, repeatable: bool) -> str:
        match = _REPEAT.match(self.pattern, self.place)
        if (
            match is None or match["least"] == match["most"] == ""
        ):  # {} and {,} are characters and do not repeat anything
            return atom
        after = match["after"]
        if not repeatable or (match["comma"] == "" and after == "?"):
            raise self.refusal(match.group())
        self.place = match.end()
        if _REPEAT.match(self.pattern, self.place):
            raise self.refusal(f"{match.group()}{self.pattern[self.place]}")
        if match["plain"]:
            return atom + match["plain"]
        counts = f"{{{match['least'] or 0}{match['comma']}{match['most']}}}"
        return f"(?:{atom}{counts})+" if after == "+" else atom + counts + after

    def escape(self, fold: bool) -> tuple[str, bool]:
        match = _ESCAPE.match(self.pattern, self.place)
        if match is not None and (anchor := _ANCHORS.get(match.group())):
            self.place, self.letters = match.end(), ""
            return anchor, False
        text, character, is_others = self.escaped(fold)
        if character is not None:
            return self.literal(character, fold, text), True
        self.letters = ""
        if text not in (_WORD, _HEX):
            return text, True
        return f"[{'^' * is_others}{_WORD_ALONE if text == _WORD else text}]", True

    def escaped(self, fold: bool) -> tuple[str, str | None, bool]:
        """What a backslash begins, within brackets or not: its text; the character, if it is one; all *other* characters?"""
        match = _ESCAPE.match(self.pattern, self.place)
        if match is None:
            raise self.refusal(self.pattern[self.place : self.place + 4])
        self.place = match.end()
        one = match["one"]
        if match["property"]:
            name = regex.sub("[ _-]", "", match["property"].lower())
            is_others = match.group().startswith(r"\P") != bool(match["not"])
            if fold or not (name in _SETS or _PROPERTY.fullmatch(name)):
                raise self.refusal(f"(?i) with {match.group()}" if fold else match.group())
            if name in _SETS:
                return _SETS[name], None, is_others
            return rf"\{'P' if is_others else 'p'}{{{match['property']}}}", None, False
        if one is None:
            code = int(match["wide"] or match["narrow"] or match["four"], 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise self.refusal(match.group())
            return regex.escape(chr(code), literal_spaces=True), chr(code), False
        if one in _CHARACTERS:
            character = _CHARACTERS[one]
            return (match.group() if one in "nrtf" else f"\\x{ord(character):02x}"), character, False
        if one in "wWhH" and not fold:
            return _SETS[one.lower()], None, one.isupper()
        if one in "sSdD":
            return match.group(), None, False
        if one.isalnum() and one.isascii():
            raise self.refusal(match.group())
        return (match.group() if one.isascii() else one), one, False

    def one_set(self, fold: bool) -> str:
        """A set in brackets, as something that matches one character."""
        start = self.place
        self.place, self.letters = start + 1, ""
        negated = self.pattern.startswith("^", self.place)
        self.place += negated
        unions = [_Union()]
        first = True
        while True:
            if self.place >= len(self.pattern):
                raise self.refusal(f"{self.pattern[start:]} without an end")
            if self.pattern.startswith("]", self.place) and not (first and "]" in self.pattern[self.place + 1 :]):
                break
            if self.pattern.startswith("&&", self.place):
                self.place += 2
                unions.append(_Union())
            else:
                self.item(unions[-1], fold)
            first = False
        self.place += 1
        source = self.pattern[start : self.place]
        if fold and (negated or len(unions) > 1 or unions[0].others):
            raise self.refusal(f"(?i) with {source}")
        if not all(union.items or union.others for union in unions):
            raise self.refusal(source)
        if fold and regex.search("[iI]", "".join(unions[0].characters)):
            return "(?-i:" + _folded(unions[0].characters) + ")"
        if len(unions) == 1 and not unions[0].others:
            return f"[{'^' * negated}{unions[0].items}]"
        *tests, last = [union.text() for union in unions]
        both = "".join(f"(?={test})" for test in tests) + last
        return f"(?:(?!{both}){_ANY})" if negated else f"(?:{both})"

    def item(self, union: _Union, fold: bool) -> None:
        """Read one part of a set."""
        if match := _POSIX_SET.match(self.pattern, self.place):
            if match["name"] not in _POSIX or fold:
                raise self.refusal(f"(?i) with {match.group()}" if fold else match.group())
            self.place = match.end()
            union.add(_POSIX[match["name"]], bool(match["not"]))
            return
        if self.pattern.startswith("[", self.place):
            nested = self.one_set(fold)
            if nested.startswith("[") and not nested.startswith("[^"):
                union.items += nested[1:-1]
            else:
                union.others.append(nested)
            return
        begin = self.place
        text, character, is_others = self.member(fold)
        if character is None:
            if self.pattern.startswith("-", self.place) and not self.pattern.startswith("-]", self.place):
                raise self.refusal(self.pattern[begin : self.place + 2])
            union.add(text, is_others)
            return
        end = character
        if self.pattern.startswith("-", self.place) and not self.pattern.startswith(("-]", "-["), self.place):
            self.place += 1
            last, other, _ = self.member(fold)
            if other is None or other < character or self.pattern.startswith("-", self.place):
                raise self.refusal(self.pattern[begin : self.place])
            text, end = f"{text}-{last}", other
        if fold:
            union.characters += map(chr, range(ord(character), ord(end) + 1))
            for one in union.characters:
                self.check_case(one)
        # Some characters mean something for `regex` where they come twice.
        union.items += "\\" * (text in ("|", "~", "-", "&") and union.items[-1:] == text) + text

    def member(self, fold: bool) -> tuple[str, str | None, bool]:
        """A character of a set, or a set that a backslash begins; see `escaped`."""
        if self.pattern.startswith("\\b", self.place):
            self.place += 2
            return r"\x08", "\b", False
        if self.pattern.startswith("\\", self.place):
            return self.escaped(fold)
        character = self.pattern[self.place : self.place + 1]
        if character in ("", "["):
            raise self.refusal(self.pattern)
        self.place += 1
        return ("\\]" if character == "]" else character), character, False


class _Union:
    """What a set has between its brackets: items as they are written there, and other sets."""

    def __init__(self) -> None:
        self.items = ""
        self.others: list[str] = []
        self.characters: list[str] = []  # where case does not count

    def add(self, items: str, is_others: bool) -> None:
        if is_others:
            self.others.append(f"[^{items}]")
        else:
            self.items += items

    def text(self) -> str:
        sets = [*([f"[{self.items}]"] if self.items else []), *self.others]
        return sets[0] if len(sets) == 1 else f"(?:{'|'.join(sets)})"


def _has_no_case(character: str) -> bool:
    plain = unicodedata.category(character)[0] in "PSZN"
    return plain and character.lower() == character == character.upper()


def _folded(characters: list[str]) -> str:
    both = {case for character in characters for case in (character.lower(), character.upper())}
    both |= {"ſ"} if "s" in both else set()
    both |= {"\u212a"} if "k" in both else set()  # the sign of kelvin
    return f"[{''.join(regex.escape(character, literal_spaces=True) for character in sorted(both))}]"
