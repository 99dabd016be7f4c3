# cython: annotation_typing=False
"""permessage-deflate: what both ends agree on (RFC 7692 7.1)."""

from __future__ import annotations

from creche.handshake.exceptions import NegotiationError
from creche.handshake.extensions import ExtensionFactory, Parameters
from creche.protocol.deflate import MAX_WINDOW_BITS, MIN_DEFLATE_BITS, Deflate
from creche.protocol.extensions import Extension

_SERVER_NO_TAKEOVER = "server_no_context_takeover"
_CLIENT_NO_TAKEOVER = "client_no_context_takeover"
_SERVER_BITS = "server_max_window_bits"
_CLIENT_BITS = "client_max_window_bits"


class PerMessageDeflate(ExtensionFactory):
    """Compression of messages: an ExtensionFactory for connect() and serve() (RFC 7692).

    Args:
        server_no_context_takeover: whether the server compresses each message by itself, which
            saves its memory between messages.
        client_no_context_takeover: whether the client does.
        server_max_window_bits: the server's window, 9 to 15; None for what the other end wants. A
            server that does not know the parameter uses 15.
        client_max_window_bits: the client's window, 9 to 15; None for what the other end wants.
        level: 1 (quick) to 9 (small).
        memory_level: 1 to 9: 2 ** (memory_level + 9) bytes for what is sent.
        threshold: messages of fewer bytes are sent uncompressed.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: one is out of its range.
    """

    name = "permessage-deflate"

    def __init__(
        self,
        *,
        server_no_context_takeover: bool = False,
        client_no_context_takeover: bool = False,
        server_max_window_bits: int | None = 12,
        client_max_window_bits: int | None = 12,
        level: int = 6,
        memory_level: int = 5,
        threshold: int = 128,
    ) -> None:
        for name, value, least, most in (
            (_SERVER_BITS, server_max_window_bits, MIN_DEFLATE_BITS, MAX_WINDOW_BITS),
            (_CLIENT_BITS, client_max_window_bits, MIN_DEFLATE_BITS, MAX_WINDOW_BITS),
            ("level", level, 1, 9),
            ("memory_level", memory_level, 1, 9),
            ("threshold", threshold, 0, 2**62),
        ):
            if value is None and least == MIN_DEFLATE_BITS:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if not least <= value <= most:
                raise ValueError(f"{name} must be {least} to {most}, not {value}")
        self._server_no_takeover = bool(server_no_context_takeover)
        self._client_no_takeover = bool(client_no_context_takeover)
        self._server_bits = server_max_window_bits
        self._client_bits = client_max_window_bits
        self._level = level
        self._memory_level = memory_level
        self._threshold = threshold

    def offers(self) -> list[Parameters]:
        parameters: list[tuple[str, str | None]] = []
        if self._server_no_takeover:
            parameters.append((_SERVER_NO_TAKEOVER, None))
        if self._client_no_takeover:
            parameters.append((_CLIENT_NO_TAKEOVER, None))
        bits = self._client_bits
        parameters.append((_CLIENT_BITS, None if bits is None else str(bits)))
        if self._server_bits is None:
            return [parameters]
        # Not every server knows windows: what it may fall back on (RFC 7692 7.1.2.1).
        return [[(_SERVER_BITS, str(self._server_bits)), *parameters], parameters]

    def agree(self, parameters: Parameters) -> Extension:
        try:
            chosen = _read(parameters, bits_need_value=True)
        except ValueError as exc:
            raise NegotiationError(f"the server's answer to permessage-deflate: {exc}") from None
        if self._server_no_takeover and _SERVER_NO_TAKEOVER not in chosen:
            raise NegotiationError(f"the server did not accept {_SERVER_NO_TAKEOVER}")
        # Where the server says nothing, its window has 15 bits. Any is one that we have offered.
        server_bits = chosen.get(_SERVER_BITS) or MAX_WINDOW_BITS
        # What the server allows beyond our own choice is not used (RFC 7692 7.1.2.2).
        client_bits = min(
            chosen.get(_CLIENT_BITS) or MAX_WINDOW_BITS, self._client_bits or MAX_WINDOW_BITS
        )
        client_takeover = not (self._client_no_takeover or _CLIENT_NO_TAKEOVER in chosen)
        server_takeover = _SERVER_NO_TAKEOVER not in chosen
        return self._deflate(client_bits, client_takeover, server_bits, server_takeover)

    def choose(self, parameters: Parameters) -> tuple[Parameters, Extension] | None:
        try:
            offer = _read(parameters, bits_need_value=False)
        except ValueError:
            return None  # RFC 7692 7.1
        answer: list[tuple[str, str | None]] = []
        server_no_takeover = self._server_no_takeover or _SERVER_NO_TAKEOVER in offer
        client_no_takeover = self._client_no_takeover or _CLIENT_NO_TAKEOVER in offer
        if server_no_takeover:
            answer.append((_SERVER_NO_TAKEOVER, None))
        if client_no_takeover:
            answer.append((_CLIENT_NO_TAKEOVER, None))
        server_bits = min(
            offer.get(_SERVER_BITS) or MAX_WINDOW_BITS, self._server_bits or MAX_WINDOW_BITS
        )
        if server_bits < MIN_DEFLATE_BITS:
            return None
        if _SERVER_BITS in offer or server_bits < MAX_WINDOW_BITS:
            answer.append((_SERVER_BITS, str(server_bits)))
        client_bits = MAX_WINDOW_BITS
        if _CLIENT_BITS in offer:
            client_bits = min(
                offer[_CLIENT_BITS] or MAX_WINDOW_BITS, self._client_bits or MAX_WINDOW_BITS
            )
            if client_bits < MAX_WINDOW_BITS:
                answer.append((_CLIENT_BITS, str(client_bits)))
        return answer, self._deflate(
            server_bits, not server_no_takeover, client_bits, not client_no_takeover
        )

    def _deflate(
        self, send_bits: int, send_takeover: bool, receive_bits: int, receive_takeover: bool
    ) -> Deflate:
        return Deflate(
            send_bits,
            send_takeover,
            receive_bits,
            receive_takeover,
            self._level,
            self._memory_level,
            self._threshold,
        )


def _read(parameters: Parameters, bits_need_value: bool) -> dict[str, int]:
    """The parameters by name, with window bits or 0 as their values (RFC 7692 7.1).

    Raises:
        ValueError: one is unknown, stands there twice, or has a value that it may not have.
    """
    found: dict[str, int] = {}
    for name, value in parameters:
        if name in found:
            raise ValueError(f"{name} stands there twice")
        if name in (_SERVER_NO_TAKEOVER, _CLIENT_NO_TAKEOVER):
            if value is not None:
                raise ValueError(f"{name} has a value")
            found[name] = 0
        elif name in (_SERVER_BITS, _CLIENT_BITS):
            if value is None:
                if bits_need_value or name == _SERVER_BITS:
                    raise ValueError(f"{name} has no value")
                found[name] = 0
            elif value in _WINDOW_BITS:
                found[name] = int(value)
            else:
                raise ValueError(f"{name}={value} is not 8 to 15")
        else:
            raise ValueError(f"unknown parameter {name}")
    return found


_WINDOW_BITS = frozenset(map(str, range(8, MAX_WINDOW_BITS + 1)))
