from __future__ import annotations

import copy
from typing import Any

import pytest

from creche.protocol.headers import Headers
from creche.protocol.http import HeadReader, HeadTooLarge, Request, Response


def test_a_head_is_complete_with_its_empty_line_wherever_it_is_cut() -> None:
    data = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest"
    for cut in range(len(data)):
        reader = HeadReader(1000)
        first = reader.receive_data(data[:cut])
        if first is None:
            assert reader.receive_data(data[cut:]) == data
        else:
            assert cut >= len(data) - 4
            assert first == data[:cut]


@pytest.mark.parametrize(
    ("data", "in_first_line"),
    [(b"GET /" + b"x" * 100, True), (b"GET / HTTP/1.1\r\nX: " + b"x" * 100, False)],
)
@pytest.mark.parametrize("tail", [b"", b"\r\n\r\n"])
def test_a_head_is_bounded_whole_or_incomplete(
    data: bytes, in_first_line: bool, tail: bytes
) -> None:
    with pytest.raises(HeadTooLarge, match="more than 64 bytes") as caught:
        HeadReader(64).receive_data(data + tail)
    assert caught.value.in_first_line is in_first_line


def test_what_follows_the_head_does_not_count() -> None:
    data = b"GET / HTTP/1.1\r\n\r\n"
    assert HeadReader(len(data)).receive_data(data + b"x" * 100) is not None


def test_a_request_does_not_show_its_query_in_logs() -> None:
    request = Request("/path?token=secret", {"A": "b"})
    assert repr(request) == "<Request GET /path>"
    assert repr(Request("/")) == "<Request GET />"
    assert request.headers["a"] == "b"
    assert request.state == {}


def test_a_request_tells_what_is_known_of_the_connection() -> None:
    request = Request("/", extra_attributes={"peer": lambda: "1.2.3.4"})
    assert request.extra("peer") == "1.2.3.4"
    assert request.extra("tls", None) is None
    with pytest.raises(LookupError, match="does not know"):
        request.extra("tls")


def test_a_response_with_text_says_so() -> None:
    response = Response(200, body="é")
    assert response.body == b"\xc3\xa9"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert repr(response) == "<Response 200 OK>"
    assert Response(599).reason_phrase == ""
    assert Response(200, {"Content-Type": "text/html"}, "x").headers.get_all("content-type") == [
        "text/html"
    ]


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (100, b"", ValueError, "status 100"),
        (600, b"", ValueError, "status 600"),
        ("200", b"", TypeError, "status must be an int, not str"),
        (200, 1, TypeError, "body must be str or bytes, not int"),
    ],
)
def test_a_bad_response_names_the_argument(
    status: Any, body: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Response(status, (), body)


def test_a_response_does_not_change_the_headers_that_it_is_made_from() -> None:
    headers = Headers({"X-A": "b"})
    response = Response(200, headers, "text")
    assert "Content-Type" in response.headers
    assert headers.fields == [("X-A", "b")]


def test_a_copy_of_a_response_has_headers_of_its_own() -> None:
    response = Response(200, {"X-A": "b"}, "text")
    copied = copy.copy(response)
    copied.headers.add("X-B", "c")
    assert (copied.status, copied.body) == (200, b"text")
    assert "X-B" not in response.headers
