# cython: annotation_typing=False
"""Extensions: what both ends agree on in the opening handshake, and do to messages (RFC 6455 9).

An ExtensionFactory is an option of connect() and serve(): it negotiates. What comes of it for one
connection is an Extension: it changes the messages that are sent, and changes those that arrive
back. How it does that is its own; a changed message has one of the reserved bits set.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence

from creche.protocol.exceptions import InvalidHeader, NegotiationError
from creche.protocol.handshake import taken
from creche.protocol.headers import TOKEN_CHARACTER

#: The parameters of an extension as they stand in the header: names, and values or None.
Parameters = Sequence[tuple[str, str | None]]

# An extension that gives nothing for what another has given it is asked so often in a row.
_READS_IN_A_ROW = 16

# Of a client's offers so many are looked at.
MAX_OFFERS = 16

_HEADER = "Sec-WebSocket-Extensions"

_TOKEN = f"{TOKEN_CHARACTER}+"
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*({_TOKEN})(?:[ \t]*=[ \t]*(?:({_TOKEN})|"({_TOKEN})"))?')
_NAME = re.compile(rf"[ \t]*({_TOKEN})")
_END = re.compile(r"[ \t]*(?:,|\Z)")


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


class ExtensionFactory:
    """Negotiates an extension in the opening handshake.

    Attributes:
        name: the extension's name, a token.
    """

    name: str

    def offers(self) -> Sequence[Parameters]:
        """What a client offers, the preferred first."""
        raise NotImplementedError

    def agree(self, parameters: Parameters) -> Extension:
        """For a client: the extension, by what the server has chosen.

        Raises:
            NegotiationError: that was not offered, or cannot be.
        """
        raise NotImplementedError

    def choose(self, parameters: Parameters) -> tuple[Parameters, Extension] | None:
        """For a server: the answer to an offer and the extension; None declines it."""
        raise NotImplementedError


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


def parse_extensions(header: str) -> list[tuple[str, Parameters]]:
    """The extensions that stand in a Sec-WebSocket-Extensions header (RFC 6455 9.1).

    Raises:
        InvalidHeader: it is malformed.
    """
    found: list[tuple[str, Parameters]] = []
    position = 0
    while position < len(header):
        name = _NAME.match(header, position)
        if name is None:
            end = _END.match(header, position)
            if end is None:
                raise InvalidHeader(_HEADER, header, ": it is malformed")
            position = end.end()  # an empty element (RFC 9110 5.6.1.2)
            continue
        position = name.end()
        parameters: list[tuple[str, str | None]] = []
        while (parameter := _PARAMETER.match(header, position)) is not None:
            parameters.append((parameter[1], parameter[2] or parameter[3]))
            position = parameter.end()
        end = _END.match(header, position)
        if end is None:
            raise InvalidHeader(_HEADER, header, ": it is malformed")
        position = end.end()
        found.append((name[1], parameters))
    return found


def format_extension(name: str, parameters: Parameters) -> str:
    """One element of a Sec-WebSocket-Extensions header."""
    return "; ".join(
        [name, *(key if value is None else f"{key}={value}" for key, value in parameters)]
    )


def format_offers(factories: Sequence[ExtensionFactory]) -> str:
    """A client's Sec-WebSocket-Extensions header; empty for no header."""
    return ", ".join(
        format_extension(factory.name, parameters)
        for factory in factories
        for parameters in factory.offers()
    )


def agree_on(factories: Sequence[ExtensionFactory], header: str) -> list[Extension]:
    """The client's side: the extensions that the server has chosen, in order.

    Raises:
        NegotiationError: one was not offered, or stands there twice, or they cannot go together.
        InvalidHeader: the header is malformed.
    """
    known = {factory.name: factory for factory in factories}
    agreed: list[Extension] = []
    taken = 0
    for name, parameters in parse_extensions(header):
        factory = known.pop(name, None)
        if factory is None:
            raise NegotiationError(f"the server chose an extension not asked for: {name}")
        extension = factory.agree(parameters)
        if extension.reserved_bits & taken:
            raise NegotiationError(f"the server chose extensions that use the same bit: {header}")
        taken |= extension.reserved_bits
        agreed.append(extension)
    return agreed


def choose_from(factories: Sequence[ExtensionFactory], header: str) -> tuple[str, list[Extension]]:
    """The server's side: the header of the answer, empty for none, and the extensions, in order.

    Raises:
        InvalidHeader: the header is malformed.
    """
    known = {factory.name: factory for factory in factories}
    answers: list[str] = []
    agreed: list[Extension] = []
    taken = 0
    for name, parameters in parse_extensions(header)[:MAX_OFFERS]:
        factory = known.get(name)
        chosen = None if factory is None else factory.choose(parameters)
        if chosen is None or chosen[1].reserved_bits & taken:
            continue
        del known[name]  # its further offers were alternatives
        answer, extension = chosen
        taken |= extension.reserved_bits
        answers.append(format_extension(name, answer))
        agreed.append(extension)
    return ", ".join(answers), agreed


def check_extensions(extensions: Iterable[ExtensionFactory]) -> list[ExtensionFactory]:
    """The option `extensions`, checked.

    Raises:
        TypeError: it is not a sequence of ExtensionFactory.
        ValueError: two have the same name.
    """
    checked = taken("extensions", extensions)
    for factory in checked:
        if not isinstance(factory, ExtensionFactory):
            raise TypeError(
                f"extensions must hold ExtensionFactory objects, not {type(factory).__name__}"
            )
    if len({factory.name for factory in checked}) != len(checked):
        raise ValueError("extensions: two of them have the same name")
    return checked
