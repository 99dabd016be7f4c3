# cython: annotation_typing=False
"""Header fields of HTTP: case-insensitive names, several values to a name (RFC 9110 5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from creche.protocol.redaction import shown_value

HeadersLike = Mapping[str, str] | Iterable[tuple[str, str]]

_NAME_CHARACTERS = frozenset(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

_VALUE = re.compile("[\t\x20-\x7e\x80-\xff]*")

# Names up to this length are kept, each once for all connections.
_SHORT_NAME = 64


# What packed fields have in their place; `add` replaces both.
_NO_FIELDS: list[tuple[str, str]] = []
_NO_INDEX: dict[str, str] = {}


def _check_name(name: str) -> tuple[str, str]:
    """The name, and the name in small letters.

    Raises:
        ValueError: it is not a token (RFC 9110 5.6.2).
    """
    if not name:
        raise ValueError("header name '' is not a token: it is empty")
    if not _NAME_CHARACTERS.issuperset(name):
        end = next(i for i, character in enumerate(name) if character not in _NAME_CHARACTERS)
        # Behind it there may be a value that was taken for a part of the name.
        raise ValueError(f"header name {name[:end]!r} is not a token: {name[end]!r} follows")
    return name, name.lower()


_checked_name = lru_cache(maxsize=256)(_check_name)


def _type_error(name: object, value: object) -> TypeError:
    """For a name or a value that is not a str."""
    if not isinstance(name, str):
        return TypeError(f"the name of a header must be a str, not {type(name).__name__}")
    return TypeError(f"header {name!r} must have a str as its value, not {type(value).__name__}")


def _check_value(name: str, value: str) -> None:
    """
    Raises:
        ValueError: the value cannot stand in a header (RFC 9110 5.5).
    """
    allowed = _VALUE.match(value)
    assert allowed is not None
    end = allowed.end()
    if end < len(value):
        raise ValueError(
            f"header {name} has a value with forbidden characters: {value[end]!r} at index {end}"
        )


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

    __slots__ = ("_fields", "_index", "_packed")

    def __init__(self, fields: HeadersLike = ()) -> None:
        self._fields: list[tuple[str, str]] = []
        self._index: dict[str, str] = {}  # the values by names in small letters
        self._packed: str | None = None  # all of it in one text, while these two are empty
        if isinstance(fields, Headers):
            fields = fields.fields  # as a mapping it would join those of one name
        elif type(fields) is not list and isinstance(fields, Mapping):
            fields = fields.items()
        for name, value in fields:
            self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Append a field, beside those of the same name."""
        if self._packed is not None:
            self._fields, self._packed = self.fields, None
            self._index = _index_of(self._fields)
        if not isinstance(name, str) or not isinstance(value, str):
            raise _type_error(name, value)
        name, key = _checked_name(name) if len(name) <= _SHORT_NAME else _check_name(name)
        value = value.strip(" \t")
        # Most values are plain text, and need no more than a look.
        if not (value.isascii() and value.isprintable()):
            _check_value(name, value)
        self._fields.append((name, value))
        _add_to(self._index, key, value)

    def add_default(self, name: str, value: str) -> None:
        """Append a field unless there is one of that name."""
        if name not in self:
            self.add(name, value)

    def pack(self) -> None:
        """Take less memory, and some more time whenever a field is looked up: for those of a
        connection that lives long."""
        if self._packed is None:
            # No name and no value has a line feed.
            self._packed = "\n".join([text for field in self._fields for text in field])
            self._fields, self._index = _NO_FIELDS, _NO_INDEX

    def _values(self) -> dict[str, str]:
        return self._index if self._packed is None else _index_of(self.fields)

    def __getitem__(self, name: str) -> str:
        return self._values()[name.lower()]

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a name, `default` if there is none."""
        return self._values().get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def __repr__(self) -> str:
        return f"Headers({[(name, shown_value(name, value)) for name, value in self.fields]!r})"

    def get_all(self, name: str) -> list[str]:
        """The values of every field of this name, in order; an empty list if there is none."""
        key = name.lower()
        return [value for name, value in self.fields if name.lower() == key]

    def get_tokens(self, name: str) -> list[str]:
        """The comma-separated elements of every field of this name (RFC 9110 5.6.1)."""
        elements = self._values().get(name.lower(), "").split(",")
        return [element.strip(" \t") for element in elements if element.strip(" \t")]

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Every field as (name, value), as it came."""
        if self._packed is None:
            return list(self._fields)
        texts = self._packed.split("\n") if self._packed else []
        return list(zip(texts[::2], texts[1::2], strict=True))


def _index_of(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    index: dict[str, str] = {}
    for name, value in fields:
        _add_to(index, name.lower(), value)
    return index


def _add_to(index: dict[str, str], key: str, value: str) -> None:
    before = index.get(key)
    index[key] = value if before is None else f"{before}, {value}"
