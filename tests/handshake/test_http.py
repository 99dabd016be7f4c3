from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from creche.handshake.headers import Headers
from creche.handshake.http import Request, Response
from creche.handshake.reading import HeadReader, HeadTooLarge, NotHTTP
from creche.handshake.start_lines import JUDGED_BYTES, may_be_request_line, may_be_status_line


def test_a_head_is_complete_with_its_empty_line_wherever_it_is_cut() -> None:
    data = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest"
    for cut in range(len(data)):
        reader = HeadReader(1000, may_be_request_line)
        first = reader.receive_data(data[:cut])
        if first is None:
            assert reader.receive_data(data[cut:]) == data
        else:
            assert cut >= len(data) - 4
            assert first == data[:cut]


@pytest.mark.parametrize(
    ("data", "in_first_line"),
    [(b"GET /" + b"x" * 100 + b" HTTP/1.1", True), (b"GET / HTTP/1.1\r\nX: " + b"x" * 100, False)],
)
@pytest.mark.parametrize("tail", [b"", b"\r\n\r\n"])
def test_a_head_is_bounded_whole_or_incomplete(
    data: bytes, in_first_line: bool, tail: bytes
) -> None:
    with pytest.raises(HeadTooLarge, match="more than 64 bytes") as caught:
        HeadReader(64, may_be_request_line).receive_data(data + tail)
    assert caught.value.in_first_line is in_first_line


def test_what_follows_the_head_does_not_count() -> None:
    data = b"GET / HTTP/1.1\r\n\r\n"
    assert HeadReader(len(data), may_be_request_line).receive_data(data + b"x" * 100) is not None


STATUS_LINES = [b"HTTP/1.1 101 Switching Protocols\r\n", b"HTTP/1.0 404\n", b"HTTP/2.0 200 OK\r\n"]
REQUEST_LINES = [
    *(
        b"GET / HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.0\n",
        b"PRI * HTTP/2.0\r\n",
        b"g-t! x HTTP/10.20\n",
    ),
    *(b"GET http://h/%s?x#y HTTP/1.1\r\n", b"GET /" + b"x" * 2 * JUDGED_BYTES + b" HTTP/1.1\r\n"),
]


@pytest.mark.parametrize(
    ("may_begin", "line"),
    [(may_be_status_line, line) for line in STATUS_LINES]
    + [(may_be_request_line, line) for line in REQUEST_LINES],
)
@pytest.mark.parametrize("empty", [b"", b"\r\n", b"\n"])
def test_a_first_line_is_taken_wherever_it_is_cut(
    may_begin: Callable[[bytes], bool], line: bytes, empty: bytes
) -> None:
    data = empty + line
    for cut in range(len(data)):
        reader = HeadReader(1000, may_begin)
        assert reader.receive_data(data[:cut]) is None
        assert reader.receive_data(data[cut:]) is None
        assert reader.receive_data(b"\r\n") == data + b"\r\n"
    reader = HeadReader(1000, may_begin)
    for i in range(len(data)):
        assert reader.receive_data(data[i : i + 1]) is None


# What is told from an answer by so many bytes, and what it is taken for.
OTHER_ANSWERS = [
    (b"SSH-2.0-OpenSSH_9.6\r\n", 1, "SSH"),
    (b"220 mail.example ESMTP Postfix\r\n", 1, "SMTP"),
    (b"220 (vsFTPd 3.0.3)\r\n", 1, "FTP"),
    (b"554 no service\r\n", 1, "SMTP or FTP"),
    (b"+OK POP3 ready\r\n", 1, "POP3"),
    (b"* OK IMAP4rev1\r\n", 1, "IMAP"),
    (b"-ERR unknown command 'GET'\r\n", 1, "Redis"),
    (b"\x15\x03\x01\x00\x02\x02\x46", 1, "TLS"),
    (b"\x16\x03\x03\x00\x7a\x02", 1, "TLS"),
    (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80", 1, "HTTP/2"),
    (b"\x00\x00\x08\x07\x00\x00\x00\x00\x00", 1, "HTTP/2"),
    (b"PRI * HTTP/2.0\r\n\r\n", 1, "HTTP/2"),
    (b"\x05\xff", 1, "SOCKS"),
    (b"\x00\x5b\x00\x00", 1, "SOCKS"),
    (b"J\x00\x00\x00\x0a8.0.36\x00", 1, "MySQL"),
    (b"AMQP\x00\x00\x09\x01", 1, "AMQP"),
    (b"RTSP/1.0 400 Bad Request\r\n", 1, "RTSP"),
    (b"RFB 003.008\n", 1, "VNC"),
    (b'INFO {"server_id":"x"}\r\n', 1, "NATS"),
    (b"<!DOCTYPE html>", 1, "HTTP/0.9"),
    (b"HTTP 200 OK\r\n", 5, ""),
    (b"HTTP/1.1 OK\r\n", 10, ""),
    (b"HTTP/1.1 2000\r\n", 13, ""),
    (b"http/1.1 200 OK\r\n", 1, ""),
    (b"ICY 200 OK\r\n", 1, ""),
    (b"HTTP/1.1\r\n", 9, ""),
    (b"\x80", 1, ""),
]

OTHER_REQUESTS = [
    (b"\x16\x03\x01\x02\x00", 1, "TLS"),
    (b"\x05\x01\x00", 1, "SOCKS"),
    (b"\x04\x01\x00\x50", 1, "SOCKS"),
    (b"\x03\x00\x00\x13", 1, "RDP"),
    (b"SSH-2.0-OpenSSH_9.6\r\n", 20, "SSH"),
    (b"SSH-2.0-OpenSSH_9.6 Debian-1\r\n", 29, "SSH"),
    (b"EHLO client.example\r\n", 20, "SMTP or FTP"),
    (b"GET /\r\n", 6, "HTTP/0.9"),
    (b"GET /" + b"x" * 2 * JUDGED_BYTES + b"\r\n", 7 + 2 * JUDGED_BYTES, "HTTP/0.9"),
    (b"*1\r\n$4\r\nPING\r\n", 3, ""),
    (b"GET / HTTP/1.1 \r\n", 15, ""),
    (b"GET  / HTTP/1.1\r\n", 5, ""),
    (b"GET /\xc3\xa9 HTTP/1.1\r\n", 6, ""),
    (b"G\0", 2, ""),
    (b" GET", 1, ""),
    (b"NICK x\r\n", 7, ""),
]


@pytest.mark.parametrize(
    ("may_begin", "data", "size", "protocol"),
    [(may_be_status_line, *other) for other in OTHER_ANSWERS]
    + [(may_be_request_line, *other) for other in OTHER_REQUESTS],
)
def test_what_is_not_http_is_told_by_its_first_bytes(
    may_begin: Callable[[bytes], bool], data: bytes, size: int, protocol: str
) -> None:
    with pytest.raises(NotHTTP) as caught:
        HeadReader(1000, may_begin).receive_data(data)
    assert caught.value.protocol == protocol
    reader = HeadReader(1000, may_begin)
    assert reader.receive_data(data[: size - 1]) is None
    with pytest.raises(NotHTTP):
        reader.receive_data(data[size - 1 : size])
    reader = HeadReader(1000, may_begin)
    for i in range(size - 1):
        assert reader.receive_data(data[i : i + 1]) is None
    with pytest.raises(NotHTTP):
        reader.receive_data(data[size - 1 : size])


def test_what_a_peer_has_said_is_quoted_escaped_and_short() -> None:
    for data, quoted in (
        (b"SSH-2.0-x\r\nmore", ", it seems to be SSH: 'SSH-2.0-x'"),
        (b"\x1b[31mred\x9b\xff\n", r": '\x1b[31mred\x9b\xff'"),
        (b"\n\n\n", r": '\n'"),
        (b"x" * 1000, f": '{'x' * JUDGED_BYTES}'"),
        (b"GET /?token=secret HTTP/1.1\r\n", ", it seems to be an echo of the request"),
        (b"HTTP/1.1 secret\r\n", ""),
    ):
        with pytest.raises(NotHTTP) as caught:
            HeadReader(10_000, may_be_status_line, b"GET").receive_data(data)
        assert str(caught.value) == f"not HTTP/1.1{quoted}"
        with pytest.raises(NotHTTP) as caught:
            HeadReader(10_000, may_be_status_line).receive_data(data)
        assert not caught.value.quoted  # what a client says is not


def test_a_line_that_comes_in_pieces_is_judged_at_a_cost_that_is_linear() -> None:
    judged = 0

    def may_begin(line: bytes) -> bool:
        nonlocal judged
        judged += len(line)
        return True

    reader = HeadReader(2**20, may_begin)
    for _ in range(10_000):
        reader.receive_data(b"x")
    assert judged <= 10_000 * JUDGED_BYTES
    reader.receive_data(b"\n")
    reader.receive_data(b"x\n")
    assert judged <= 10_000 * JUDGED_BYTES + 10_001


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
