# cython: annotation_typing=False
"""permessage-deflate: messages compressed by DEFLATE (RFC 7692).

What a context costs, in bytes: for what is sent, 2 ** (window_bits + 2) + 2 ** (memory_level + 9);
for what arrives, 2 ** window_bits and some 7 KiB. It is made with the first compressed message.
"""

from __future__ import annotations

import zlib
from typing import Any

from creche.protocol.exceptions import NegotiationError, ProtocolError
from creche.protocol.extensions import Extension, ExtensionFactory, Parameters

# What ends each message and is not sent (RFC 7692 7.2.1).
_TAIL = b"\x00\x00\xff\xff"

# Each final block ends a stream of DEFLATE, and another decompressor begins the next: so many
# blocks are read before others get a turn. A peer can fit one into every two bytes.
_BLOCKS_IN_A_ROW = 16

# So much is given to a decompressor at once, and to one that follows a final block: what is behind
# the next one has to be copied.
_MOST_INPUT = 2**14
_LEAST_INPUT = 2**6

_MAX_WINDOW_BITS = 15
# zlib inflates a window of 8 bits, but cannot deflate with one.
_MIN_DEFLATE_BITS = 9

_SERVER_NO_TAKEOVER = "server_no_context_takeover"
_CLIENT_NO_TAKEOVER = "client_no_context_takeover"
_SERVER_BITS = "server_max_window_bits"
_CLIENT_BITS = "client_max_window_bits"


class Deflate(Extension):
    """permessage-deflate of one connection.

    Args:
        send_window_bits: of what is sent; 8 for no compression at all.
        send_takeover: whether what was sent before helps to compress.
        receive_window_bits: of what arrives.
        receive_takeover: whether the peer refers to what it sent before.
        level: zlib's compression level, 1 to 9.
        memory_level: zlib's memLevel, 1 to 9.
        threshold: messages of fewer bytes are not compressed.
    """

    reserved_bits = Extension.RSV1

    def __init__(
        self,
        send_window_bits: int,
        send_takeover: bool,
        receive_window_bits: int,
        receive_takeover: bool,
        level: int,
        memory_level: int,
        threshold: int,
    ) -> None:
        self._send_window_bits = send_window_bits
        self._send_takeover = send_takeover
        self._receive_window_bits = receive_window_bits
        self._receive_takeover = receive_takeover
        self._level = level
        self._memory_level = memory_level
        self._threshold = threshold
        self.sharing = ("deflate", send_window_bits, level, memory_level, threshold)
        self._compressor: Any = None
        self._decompressor: Any = None
        self._input = b""
        self._position = 0  # what of it was read
        self._step = _MOST_INPUT
        self._more = False  # whether there may be output without further input
        self._finishing = False
        self._at_boundary = False  # whether the last input ended a final block, and no more came

    def encode(self, payload: bytes | memoryview) -> bytes | None:
        if self._leaves(payload):
            return None
        compressor = self._compressor or self._new_compressor()
        if self._send_takeover:
            self._compressor = compressor
        return self._compress(compressor, payload)

    def encode_alone(self, payload: bytes) -> bytes | None:
        return None if self._leaves(payload) else self._compress(self._new_compressor(), payload)

    def sent_alone(self) -> None:
        # What is compressed next refers to nothing before it: the peer's window has moved on, by
        # what our compressor does not know.
        self._compressor = None

    def _leaves(self, payload: bytes | memoryview) -> bool:
        """Whether a message is sent as it is."""
        return len(payload) < self._threshold or self._send_window_bits < _MIN_DEFLATE_BITS

    def _new_compressor(self) -> Any:
        return zlib.compressobj(
            self._level, zlib.DEFLATED, -self._send_window_bits, self._memory_level
        )

    @staticmethod
    def _compress(compressor: Any, payload: bytes | memoryview) -> bytes:
        compressed: bytes = compressor.compress(payload)
        rest: bytes = compressor.flush(zlib.Z_SYNC_FLUSH)
        return (compressed + rest)[: -len(_TAIL)]

    def begin(self) -> None:
        if self._decompressor is None:
            self._new_decompressor()

    def _new_decompressor(self) -> None:
        self._decompressor = zlib.decompressobj(-self._receive_window_bits)

    def feed(self, data: bytes) -> None:
        self._input = data
        self._position = 0
        self._more = True

    def finish(self) -> None:
        # A peer that ended its message with a final block needs no tail, unless it has sent the
        # beginning of another one (RFC 7692 7.2.3.4).
        if not self._at_boundary:
            self.feed(_TAIL)
        self._at_boundary = False
        self._finishing = True

    def read(self, limit: int) -> bytes | None:
        blocks = _BLOCKS_IN_A_ROW
        while self._more:
            if self._decompressor is None:
                if blocks == 0:
                    return None
                blocks -= 1
                self._new_decompressor()
            data = self._inflate(limit)
            if data:
                return data
        if self._finishing:
            self._finishing = False
            if not self._receive_takeover:
                self._decompressor = None
        return b""

    def _inflate(self, limit: int) -> bytes:
        """Give the decompressor some of the input; returns at most `limit` bytes, or none."""
        decompressor = self._decompressor
        some = self._input[self._position : self._position + self._step]
        try:
            data: bytes = decompressor.decompress(some, limit)
        except zlib.error as exc:
            self._input = b""
            self._more = False
            raise ProtocolError(f"a compressed message that is broken: {exc}", 1007) from None
        if decompressor.eof:
            self._position += len(some) - len(decompressor.unused_data)
            self._decompressor = None
            self._step = _LEAST_INPUT
            self._more = self._position < len(self._input)
            self._at_boundary = not self._more
        else:
            self._position += len(some) - len(decompressor.unconsumed_tail)
            self._step = min(2 * self._step, _MOST_INPUT)
            # Where the limit is reached, zlib may keep output back though it has all input.
            self._more = self._position < len(self._input) or len(data) == limit
            self._at_boundary = False
        return data


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
            (_SERVER_BITS, server_max_window_bits, _MIN_DEFLATE_BITS, _MAX_WINDOW_BITS),
            (_CLIENT_BITS, client_max_window_bits, _MIN_DEFLATE_BITS, _MAX_WINDOW_BITS),
            ("level", level, 1, 9),
            ("memory_level", memory_level, 1, 9),
            ("threshold", threshold, 0, 2**62),
        ):
            if value is None and least == _MIN_DEFLATE_BITS:
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
        server_bits = chosen.get(_SERVER_BITS) or _MAX_WINDOW_BITS
        # What the server allows beyond our own choice is not used (RFC 7692 7.1.2.2).
        client_bits = min(
            chosen.get(_CLIENT_BITS) or _MAX_WINDOW_BITS, self._client_bits or _MAX_WINDOW_BITS
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
            offer.get(_SERVER_BITS) or _MAX_WINDOW_BITS, self._server_bits or _MAX_WINDOW_BITS
        )
        if server_bits < _MIN_DEFLATE_BITS:
            return None
        if _SERVER_BITS in offer or server_bits < _MAX_WINDOW_BITS:
            answer.append((_SERVER_BITS, str(server_bits)))
        client_bits = _MAX_WINDOW_BITS
        if _CLIENT_BITS in offer:
            client_bits = min(
                offer[_CLIENT_BITS] or _MAX_WINDOW_BITS, self._client_bits or _MAX_WINDOW_BITS
            )
            if client_bits < _MAX_WINDOW_BITS:
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


_WINDOW_BITS = frozenset(map(str, range(8, _MAX_WINDOW_BITS + 1)))
