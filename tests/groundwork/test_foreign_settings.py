"""A field of another program's file is obeyed, is known to be harmless, or is refused by name."""

from __future__ import annotations

import pytest

from groundwork.foreign_settings import ForeignSettings
from groundwork.user_errors import UserError


def settings(**content: object) -> ForeignSettings:
    return ForeignSettings(content, "config.json")


def test_fields_are_read_with_their_defaults():
    read = settings(layers=2, theta=10**6, tied=True, window=None, rope={"factor": 4})
    assert (read.whole("layers"), read.number("theta"), read.flag("tied")) == (2, 1e6, True)
    assert (read.whole("heads", 8), read.whole("window", None), read.flag("bias", False)) == (8, None, False)
    assert read.one_of("activation", "silu", "gelu") == "silu"
    assert read.section("rope").number("factor") == 4.0
    assert not read.section("none") and read.section("rope")
    read.refuse_others(())


@pytest.mark.parametrize(
    ("content", "read", "message"),
    [
        ({}, lambda s: s.whole("n"), "config.json lacks n"),
        ({"n": "2"}, lambda s: s.whole("n"), "config.json has n: '2'; it should be a whole number"),
        ({"n": True}, lambda s: s.whole("n"), "n: true; it should be a whole number"),
        ({"n": 1.5}, lambda s: s.whole("n", None), "n: 1.5; it should be a whole number"),
        ({"n": None}, lambda s: s.whole("n", 3), "n: null; it should be a whole number"),
        ({"n": float("nan")}, lambda s: s.number("n"), "n: nan; it should be a finite number"),
        ({"n": 10**400}, lambda s: s.number("n"), "it should be a finite number"),
        ({"n": 0}, lambda s: s.flag("n"), "n: 0; it should be true or false"),
        ({"n": [1]}, lambda s: s.section("n"), r"n: \[1\]; it should be an object"),
        ({"n": {}}, lambda s: s.one_of("n", None, 1.0), r"n: \{\}; only null or 1.0 is supported"),
        ({"n": {"a": "x"}}, lambda s: s.section("n").number("a"), "config.json's n has a: 'x'"),
    ],
)
def test_a_field_of_another_type_is_named(content, read, message: str):
    with pytest.raises(UserError, match=message):
        read(settings(**content))


def test_what_nobody_read_is_refused_unless_it_is_harmless_or_off():
    read = settings(layers=2, cache=True, scale=2.0, zero=0, off=False, nothing=None, empty=[], text="", table={})
    read.whole("layers")
    with pytest.raises(UserError, match=r"config.json has scale: 2.0, zero: 0, which is not supported and may change"):
        read.refuse_others({"cache"})
    read.refuse_others({"cache", "scale", "zero"})


def test_a_message_stays_one_short_line():
    many = {f"{'long ' * 1000}{index}\n": "x" * 100_000 for index in range(10)}
    with pytest.raises(UserError, match="and 7 more") as caught:
        settings(**many).refuse_others(())
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)
