# cython: annotation_typing=False
"""Header fields of HTTP: case-insensitive names, several values to a name (RFC 9110 5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

HeadersLike = Mapping[str, str] | Iterable[tuple[str, str]]

_NAME_CHARACTERS = frozenset(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

_VALUE = re.compile("[\t\x20-\x7e\x80-\xff]*")

# Their values are told to nobody in a text.
_SECRET = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})


# Names up to this length are kept, each once for all connections.
_SHORT_NAME = 64


def _check_name(name: str) -> tuple[str, str]:
    """The name, and the name in small letters.

    Raises:
        ValueError: it is not a token (RFC 9110 5.6.2).
    """
    if not name or not _NAME_CHARACTERS.issuperset(name):
        raise ValueError(f"header name {name!r} is not a token")
    return name, name.lower()


_checked_name = lru_cache(maxsize=256)(_check_name)


def _shown(name: str, value: str) -> str:
    return "..." if name.lower() in _SECRET else value


class Headers(Mapping[str, str]):
    """The header fields of a request or a response, in order.

    As a mapping it is case-insensitive, and several fields of one name are one value, joined by
    commas (RFC 9110 5.3). `get_all` gives them apart, `fields` gives everything as it came.

    Args:
        fields: a mapping, or pairs of name and value.

    Raises:
        TypeError: a name or a value is not a str.
        ValueError: a name is not a token, or a value has CR, LF, NUL or characters beyond
            Latin-1.
    """

    __slots__ = ("_fields", "_index")

    def __init__(self, fields: HeadersLike = ()) -> None:
        self._fields: list[tuple[str, str]] = []
        self._index: dict[str, str] = {}
        for name, value in fields.items() if isinstance(fields, Mapping) else fields:
            self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Append a field, beside those of the same name."""
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"header {name!r}: {value!r} must be two str")
        name, key = _checked_name(name) if len(name) <= _SHORT_NAME else _check_name(name)
        value = value.strip(" \t")
        if _VALUE.fullmatch(value) is None:
            shown = _shown(name, repr(value))
            raise ValueError(f"header {name} has a value with forbidden characters: {shown}")
        self._fields.append((name, value))
        before = self._index.get(key)
        self._index[key] = value if before is None else f"{before}, {value}"

    def add_default(self, name: str, value: str) -> None:
        """Append a field unless there is one of that name."""
        if name not in self:
            self.add(name, value)

    def __getitem__(self, name: str) -> str:
        return self._index[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"Headers({[(name, _shown(name, value)) for name, value in self._fields]!r})"

    def get_all(self, name: str) -> list[str]:
        """The values of every field of this name, in order; an empty list if there is none."""
        key = name.lower()
        return [value for name, value in self._fields if name.lower() == key]

    def get_tokens(self, name: str) -> list[str]:
        """The comma-separated elements of every field of this name (RFC 9110 5.6.1)."""
        elements = self._index.get(name.lower(), "").split(",")
        return [element.strip(" \t") for element in elements if element.strip(" \t")]

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Every field as (name, value), as it came."""
        return list(self._fields)
