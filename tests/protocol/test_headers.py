from __future__ import annotations

from typing import Any

import pytest

from creche.protocol.headers import Headers


def test_names_are_case_insensitive_and_values_are_kept_in_order() -> None:
    headers = Headers([("Set-Cookie", "a"), ("X", "1"), ("set-cookie", "b")])
    assert headers["SET-COOKIE"] == "a, b"
    assert headers.get_all("Set-cookie") == ["a", "b"]
    assert headers.get_all("none") == []
    assert headers.fields == [("Set-Cookie", "a"), ("X", "1"), ("set-cookie", "b")]
    assert list(headers) == ["set-cookie", "x"]
    assert len(headers) == 2
    assert "x" in headers
    assert not headers.__contains__(1)
    assert headers.get("none") is None
    assert repr(Headers({"Upgrade": "b"})) == "Headers([('Upgrade', 'b')])"
    assert repr(Headers({"Cookie": "b"})) == "Headers([('Cookie', '***')])"


def test_a_mapping_is_taken_too_and_white_space_around_values_is_not() -> None:
    assert Headers({"A": " b\t"}).fields == [("A", "b")]


@pytest.mark.parametrize("fields", [[], [("Set-Cookie", "a"), ("X", ""), ("set-cookie", "b\xff")]])
def test_packed_fields_say_the_same(fields: list[tuple[str, str]]) -> None:
    headers, packed = Headers(fields), Headers(fields)
    packed.pack()
    packed.pack()
    assert packed.fields == headers.fields == fields
    assert dict(packed) == dict(headers)
    assert len(packed) == len(headers)
    assert packed == headers
    assert repr(packed) == repr(headers)
    assert packed.get_all("set-cookie") == headers.get_all("set-cookie")
    assert packed.get_tokens("x") == []
    for each in headers, packed:
        each.add("X", "1")
        each.add_default("x", "2")
    assert packed.fields == headers.fields == [*fields, ("X", "1")]
    assert packed["x"] == headers["x"]
    assert Headers().fields == []


def test_a_default_is_added_once() -> None:
    headers = Headers()
    headers.add_default("Server", "a")
    headers.add_default("server", "b")
    assert headers.fields == [("Server", "a")]


def test_lists_are_split_across_fields() -> None:
    headers = Headers([("Connection", "keep-alive, Upgrade"), ("connection", " ,x")])
    assert headers.get_tokens("Connection") == ["keep-alive", "Upgrade", "x"]
    assert headers.get_tokens("none") == []


@pytest.mark.parametrize(
    ("name", "value", "kind", "message"),
    [
        ("X-Y", "a\r\nB: c", ValueError, "header X-Y has a value with forbidden characters"),
        ("X-Y", "a\nb", ValueError, "header X-Y"),
        ("X-Y", "a\0b", ValueError, "header X-Y"),
        ("X-Y", "a\x7fb", ValueError, "header X-Y"),
        ("X-Y", "☃", ValueError, "header X-Y"),
        ("X Y", "a", ValueError, "header name 'X' is not a token: ' ' follows"),
        ("X\r\n", "a", ValueError, "is not a token"),
        ("", "a", ValueError, "is not a token"),
        ("X", 1, TypeError, "header 'X' must have a str as its value, not int"),
        (b"X", "a", TypeError, "the name of a header must be a str, not bytes"),
    ],
)
def test_what_cannot_stand_in_a_header_is_refused(
    name: Any, value: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Headers([(name, value)])


def test_a_copy_keeps_each_field_and_is_one_of_its_own() -> None:
    headers = Headers([("Set-Cookie", "a"), ("set-cookie", "b")])
    copied = Headers(headers)
    copied.add("X", "y")
    assert headers.fields == [("Set-Cookie", "a"), ("set-cookie", "b")]
    assert copied.fields == [*headers.fields, ("X", "y")]
