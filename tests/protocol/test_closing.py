from __future__ import annotations

from typing import Any

import pytest

from creche.protocol.closing import Close, make_close, parse_close
from creche.protocol.exceptions import ProtocolError

SENDABLE = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
UNSENDABLE = [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.mark.parametrize("code", SENDABLE)
def test_a_code_that_may_be_sent_goes_both_ways(code: int) -> None:
    close = make_close(code, "why ☃")
    assert parse_close(close.payload()) == Close(code, "why ☃")


@pytest.mark.parametrize("code", UNSENDABLE)
def test_a_code_that_may_not_be_sent_is_refused_both_ways(code: int) -> None:
    with pytest.raises(ValueError, match=rf"code {code} may not be sent"):
        make_close(code, "")
    if 0 <= code <= 65535:
        with pytest.raises(ProtocolError, match=f"close code {code} may not be sent"):
            parse_close(code.to_bytes(2, "big"))


@pytest.mark.parametrize(
    ("code", "reason", "kind", "message"),
    [
        (1000, "x" * 124, ValueError, "reason is 124 bytes long"),
        (1000, "é" * 62, ValueError, "reason is 124 bytes long"),
        (1000, b"bytes", TypeError, "reason must be a str, not bytes"),
        ("1000", "", TypeError, "code must be an int, not str"),
        (True, "", TypeError, "code must be an int, not bool"),
    ],
)
def test_misuse_names_the_argument(
    code: Any, reason: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make_close(code, reason)


def test_a_reason_of_123_bytes_fits() -> None:
    assert len(make_close(1000, "x" * 123).payload()) == 125


def test_a_close_frame_without_a_code_stands_for_1005() -> None:
    assert parse_close(b"") == Close(1005)
    assert Close(1005).payload() == b""


def test_a_close_frame_of_one_byte_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="one byte"):
        parse_close(b"\x03")


def test_a_reason_that_is_not_utf_8_is_invalid_data() -> None:
    with pytest.raises(ProtocolError, match="not UTF-8") as caught:
        parse_close(b"\x03\xe8\xff")
    assert caught.value.close_code == 1007


@pytest.mark.parametrize(
    ("close", "text"),
    [
        (Close(1000), "1000 (normal closure)"),
        (Close(1001, "bye"), "1001 (going away) bye"),
        (Close(3000), "3000 (registered)"),
        (Close(4000, "x"), "4000 (private use) x"),
    ],
)
def test_a_close_says_what_its_code_means(close: Close, text: str) -> None:
    assert str(close) == text
