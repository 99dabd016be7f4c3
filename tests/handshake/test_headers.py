from __future__ import annotations

import sys
from typing import Any

import pytest

from creche.handshake.headers import Headers
from support import assert_linear, count_cost


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
    with pytest.raises(KeyError, match="none"):
        headers["none"]
    assert repr(Headers({"Upgrade": "b"})) == "Headers([('Upgrade', 'b')])"
    assert repr(Headers({"Cookie": "b"})) == "Headers([('Cookie', '***')])"


def test_a_mapping_is_taken_too_and_white_space_around_values_is_not() -> None:
    assert Headers({"A": " b\t"}).fields == [("A", "b")]


@pytest.mark.parametrize(
    "fields", [[], [("Set-Cookie", "a"), ("X", ""), ("x", "c"), ("Y", ""), ("set-cookie", "b\xff")]]
)
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
    assert packed.get_tokens("y") == []
    for name in ("set-cookie", "x", "none") * 2:
        assert packed.get(name) == headers.get(name)
        assert (name in packed) is (name in headers)
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


def many(size: int) -> list[tuple[str, str]]:
    """Fields of as many names, and of one name."""
    return [(f"x-{i:06}" if i % 2 else "X-Same", "value") for i in range(size)]


def packed(size: int) -> Headers:
    headers = Headers(many(size))
    headers.pack()
    return headers


def look_up(headers: Headers) -> None:
    assert headers["x-same"] is headers.get("X-Same")
    assert headers["X-000001"] == "value"
    assert headers.get("x") is None
    assert "x-same" in headers
    assert "x-none" not in headers
    assert len(headers) > 50
    assert headers.get_all("X-000003") == headers.get_tokens("X-000003") == ["value"]


@pytest.mark.parametrize("pack", [False, True])
def test_a_look_up_costs_the_same_however_many_fields_there_are(pack: bool) -> None:
    costs = []
    for size in (128, 128 * 64):
        headers = Headers(many(size))
        if pack:
            headers.pack()
        look_up(headers)  # the first may look at everything
        costs.append(count_cost(lambda headers=headers: look_up(headers)))  # type: ignore[misc]
    few, many_ = costs
    assert many_.instructions < 3 * few.instructions  # by bisection: six steps more
    assert many_.allocated <= few.allocated + 1024


@pytest.mark.parametrize(
    "use",
    [
        dict,
        repr,
        lambda headers: headers == dict(headers),
        lambda headers: headers.get_all("x-same"),
        lambda headers: headers.get_tokens("x-same"),
        lambda headers: headers.add("a", "b"),
        lambda headers: [headers[name] for name in headers],
    ],
)
@pytest.mark.parametrize("pack", [False, True])
def test_what_looks_at_every_field_costs_in_proportion(use: Any, pack: bool) -> None:
    assert_linear(packed if pack else lambda size: Headers(many(size)), use, 250)


@pytest.mark.parametrize("name", ["x", "x-{}"])
def test_fields_are_taken_in_proportion(name: str) -> None:
    fields = [(name.format(i), "value " * 5) for i in range(2000)]

    def take(some: list[tuple[str, str]]) -> None:
        assert ", ".join(Headers(some).values())

    assert_linear(lambda size: fields[:size], take, 500)


def test_packed_fields_take_little_memory_also_once_looked_up() -> None:
    headers = packed(4000)
    look_up(headers)
    kept = [getattr(headers, name) for name in Headers.__slots__]
    text = sum(len(name) + len(value) + 2 for name, value in headers.fields)
    joined = sum(len(value) for value in kept[2].values())
    assert sum(map(sys.getsizeof, kept)) + joined < text + joined + 4 * 4000 + 1024
    assert not any(isinstance(what, list | dict) and len(what) > 1 for what in kept)
