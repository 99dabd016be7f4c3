# cython: annotation_typing=False
"""Extensions: what they do to messages (RFC 6455 9).

What comes of an ExtensionFactory for one connection is an Extension: it changes the messages that
are sent, and changes those that arrive back. How it does that is its own; a changed message has
one of the reserved bits set.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

# An extension that gives nothing for what another has given it is asked so often in a row.
_READS_IN_A_ROW = 16


class Extension:
    """An extension that was agreed on for one connection.

    A message is given to `encode` whole. One that arrives is given to `feed` in pieces between
    `begin` and `finish`, and taken from `read` in pieces, so that nothing is kept that nobody has
    asked for.

    Attributes:
        reserved_bits: one of RSV1, RSV2 and RSV3: the first frame of a changed message has it.
        sharing: where `encode_alone` is there, what makes its result the same: connections whose
            extensions have an equal value here share it. None, the default, for no sharing.
    """

    RSV1 = 0x40
    RSV2 = 0x20
    RSV3 = 0x10

    reserved_bits: int
    sharing: Hashable = None

    def encode(self, payload: bytes | memoryview) -> bytes | None:
        """The payload to send instead; None to leave the message as it is."""
        raise NotImplementedError

    def encode_alone(self, payload: bytes) -> bytes | None:
        """As `encode`, for many connections: by no state of this one."""
        raise NotImplementedError

    def sent_alone(self) -> None:
        """What `encode_alone` has changed, of this or another connection, is sent next."""

    def begin(self) -> None:
        """A message that the peer's extension has changed begins to arrive."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Some of its payload; `read` has given b"" before.

        Raises:
            ProtocolError: it is broken. So may `finish` and `read`.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """Its payload is complete."""
        raise NotImplementedError

    def read(self, limit: int) -> bytes | None:
        """At most `limit` bytes of the message; b"" if more has to be fed, or at its end.

        None stands for "not yet": so much work was done for nothing that others get their turn
        before the next call. A peer may send what takes long and gives no bytes.
        """
        raise NotImplementedError


_RESERVED = (Extension.RSV1, Extension.RSV2, Extension.RSV3)


class Chain(Extension):
    """Several extensions that have changed one message; the last that did comes first."""

    def __init__(self, extensions: Sequence[Extension]) -> None:
        self._extensions = extensions
        self._finishing = 0  # those before this one have been told of the end

    def begin(self) -> None:
        self._finishing = -1
        for extension in self._extensions:
            extension.begin()

    def feed(self, data: bytes) -> None:
        self._extensions[0].feed(data)

    def finish(self) -> None:
        self._extensions[0].finish()
        self._finishing = 0

    def read(self, limit: int) -> bytes | None:
        return self._read(len(self._extensions) - 1, limit)

    def _read(self, place: int, limit: int) -> bytes | None:
        extension = self._extensions[place]
        for _ in range(_READS_IN_A_ROW):
            data = extension.read(limit)
            if data or data is None or place == 0:
                return data
            data = self._read(place - 1, limit)
            if data:
                extension.feed(data)
            elif data is None:
                return None
            elif self._finishing == place - 1:
                extension.finish()
                self._finishing = place
            else:
                return b""
        return None


def combined_bits(extensions: Sequence[Extension]) -> int:
    """The reserved bits of all of them (RFC 6455 5.2).

    Raises:
        ValueError: one has not a single reserved bit, or two have the same.
    """
    bits = 0
    for extension in extensions:
        bit = extension.reserved_bits
        if bit not in _RESERVED or bit & bits:
            raise ValueError(
                f"{type(extension).__name__}: reserved_bits must be one of RSV1, RSV2 and RSV3, "
                f"and no other extension's, not {bit!r}"
            )
        bits |= bit
    return bits
