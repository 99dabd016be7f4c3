# cython: annotation_typing=False
"""Extensions: what both ends agree on in the opening handshake (RFC 6455 9.1).

An ExtensionFactory is an option of connect() and serve(): it negotiates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from creche.handshake.exceptions import InvalidHeader, NegotiationError
from creche.handshake.headers import TOKEN_CHARACTER
from creche.handshake.rules import taken
from creche.protocol.extensions import Extension

#: The parameters of an extension as they stand in the header: names, and values or None.
Parameters = Sequence[tuple[str, str | None]]

# Of a client's offers so many are looked at.
MAX_OFFERS = 16

_HEADER = "Sec-WebSocket-Extensions"

_TOKEN = f"{TOKEN_CHARACTER}+"
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*({_TOKEN})(?:[ \t]*=[ \t]*(?:({_TOKEN})|"({_TOKEN})"))?')
_NAME = re.compile(rf"[ \t]*({_TOKEN})")
_END = re.compile(r"[ \t]*(?:,|\Z)")


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


def check_extensions(extensions: Iterable[ExtensionFactory] | None) -> list[ExtensionFactory]:
    """The option `extensions`, checked; None for none.

    Raises:
        TypeError: it is not a sequence of ExtensionFactory.
        ValueError: two have the same name.
    """
    checked = [] if extensions is None else taken("extensions", extensions)
    for factory in checked:
        if not isinstance(factory, ExtensionFactory):
            raise TypeError(
                f"extensions must hold ExtensionFactory objects, not {type(factory).__name__}"
            )
    if len({factory.name for factory in checked}) != len(checked):
        raise ValueError("extensions: two of them have the same name")
    return checked
