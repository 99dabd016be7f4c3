from __future__ import annotations

import pytest

from creche.exceptions import ConnectionClosedError
from creche.handshake.exceptions import (
    InvalidHeader,
    InvalidMessage,
    InvalidRedirect,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    ProxyError,
    Rejection,
)
from creche.handshake.headers import Headers
from creche.handshake.http import Request, Response
from creche.handshake.uri import parse_uri
from creche.options.declared import Attempt
from creche.protocol.closing import Close
from creche.protocol.escaping import MAX_SHOWN, MAX_TEXT, escape, quote
from creche.protocol.exceptions import PayloadTooBig, ProtocolError, WebSocketError

# C0, DEL, C1, separators, bidirectional controls, an invisible one, and half a character.
EVIL = "\n\r\t\0\x1b[2J\x7f\x85\x9b\xa0\u2028\u2029\u202a\u202e\u2066\u2069\u200b\ufeff\ud800"


def test_what_is_not_printable_is_escaped() -> None:
    assert escape("plain é € 😀 \\n") == "plain é € 😀 \\n"
    assert escape("a\nb\x1b\x9b\u202e\ud800") == "a\\nb\\x1b\\x9b\\u202e\\ud800"
    assert escape(EVIL).isprintable()
    assert escape(escape(EVIL)) == escape(EVIL)


def test_a_long_text_is_cut_before_it_grows() -> None:
    assert escape("x" * MAX_SHOWN) == "x" * MAX_SHOWN
    assert escape("x" * (MAX_SHOWN + 1)) == "x" * MAX_SHOWN + "..."
    assert escape("\n" * 5, 2) == "\\n\\n..."
    assert escape("x" * 10_000, None) == "x" * 10_000


def test_a_terminal_keeps_lines_if_it_is_to() -> None:
    assert escape("a\n\tb\x1b", None, keep="\n\t") == "a\n\tb\\x1b"


def test_a_quoted_text_shows_its_ends() -> None:
    assert quote(" a\n") == "' a\\n'"
    assert quote("'" * 1000) == '"' + "'" * MAX_SHOWN + '"...'


@pytest.mark.parametrize(
    "shown",
    [
        Close(1000, EVIL),
        WebSocketError(EVIL),
        ProtocolError(EVIL),
        PayloadTooBig(EVIL),
        InvalidHeader("Upgrade", EVIL, EVIL),
        InvalidUpgrade("Connection", EVIL),
        InvalidMessage(EVIL),
        InvalidRedirect(Response(302), EVIL),
        InvalidURI(EVIL, EVIL),
        NegotiationError(EVIL),
        ProxyError(EVIL),
        Rejection(Response(400, (), f"a{EVIL[:-1]}b")),
    ],
    ids=lambda shown: type(shown).__name__,
)
def test_what_tells_of_a_peer_can_be_logged(shown: object) -> None:
    for text in (str(shown), repr(shown)):
        assert text.isprintable(), text
        assert "2J" in text or isinstance(shown, InvalidRedirect | Rejection)


@pytest.mark.parametrize(
    "shown",
    [
        InvalidHeader("Upgrade", "x" * 100_000, ": it is malformed"),
        InvalidMessage("x" * 100_000),
        Rejection(Response(400, (), "x" * 100_000)),
    ],
    ids=lambda shown: type(shown).__name__,
)
def test_a_text_that_tells_of_a_peer_is_short(shown: object) -> None:
    assert len(str(shown)) < 1010


def test_attributes_have_what_came() -> None:
    assert Close(1000, EVIL).reason == EVIL
    assert InvalidHeader("Upgrade", EVIL).value == EVIL


def test_a_request_shows_its_path_in_a_line() -> None:
    assert repr(Request("/\n\x1b[2J?q", method="G\nT")) == "<Request G\\nT /\\n\\x1b[2J>"


LONG = "\xff" * 2**14


@pytest.mark.parametrize(
    "shown",
    [
        WebSocketError(LONG, LONG, LONG, LONG, LONG, LONG),
        ConnectionClosedError(Close(1000, LONG), None, LONG),
        ProtocolError(LONG),
        PayloadTooBig(LONG),
        InvalidHeader("Upgrade", LONG, LONG),
        InvalidHeader(LONG, LONG, LONG),
        InvalidUpgrade("Connection", LONG),
        InvalidMessage(LONG),
        InvalidRedirect(Response(302), LONG),
        InvalidURI(LONG, LONG),
        NegotiationError(LONG),
        ProxyError(LONG),
        Rejection(Response(400), LONG),
        Request(f"/{LONG}", method="G" * 2**14),
        parse_uri(f"ws://localhost/{LONG}"),
        Headers([("Upgrade", LONG)] * 20),
        Headers([("N" * 2**14, LONG)] * 20),
        Headers({f"X-{number}": "x" for number in range(2**10)}),
        Attempt(1, 2.0, InvalidMessage(LONG)),
    ],
    ids=lambda shown: type(shown).__name__,
)
def test_what_a_peer_has_said_is_cut_also_in_a_repr(shown: object) -> None:
    assert len(repr(shown)) < MAX_TEXT + 100
    assert str(shown).isprintable()


def test_a_repr_is_that_of_an_exception() -> None:
    assert repr(InvalidHeader("Upgrade", "x", "y")) == "InvalidHeader('Upgrade', 'x', 'y')"
    assert repr(ProtocolError("x")) == "ProtocolError('x')"
    assert repr(ProtocolError("x" * 201)) == f"ProtocolError('{'x' * 200}'...)"


def test_fields_that_are_not_shown_are_counted() -> None:
    headers = Headers({f"A{number}": "" for number in range(33)})
    assert repr(headers).endswith("('A31', '***'), 1 more])")
