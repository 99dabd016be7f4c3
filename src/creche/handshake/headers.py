# cython: annotation_typing=False
"""Header fields of HTTP: case-insensitive names, several values to a name (RFC 9110 5)."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from creche.handshake.redaction import shown_value
from creche.protocol.escaping import MAX_TEXT, escape, quote

HeadersLike = Mapping[str, str] | Iterable[tuple[str, str]]

#: A character of a token, as a regular expression (RFC 9110 5.6.2).
TOKEN_CHARACTER = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"

_NAME_CHARACTERS = frozenset(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

_VALUE = re.compile("[\t\x20-\x7e\x80-\xff]*")

# Names up to this length are kept, each once for all connections.
_SHORT_NAME = 64

# A repr shows so many fields.
_MAX_SHOWN_FIELDS = 32


# What packed fields have in their place; `add` replaces both.
_NO_FIELDS: list[tuple[str, str]] = []
_NO_INDEX: dict[str, list[str]] = {}


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
        raise ValueError(f"header name {quote(name[:end])} is not a token: {name[end]!r} follows")
    return name, name.lower()


_checked_name = lru_cache(maxsize=256)(_check_name)


def _type_error(name: object, value: object) -> TypeError:
    """For a name or a value that is not a str.

    Raises:
        ValueError: the name is not a token; a value may stand in it, and it is not shown.
    """
    if not isinstance(name, str):
        return TypeError(f"the name of a header must be a str, not {type(name).__name__}")
    _check_name(name)
    return TypeError(
        f"header {quote(name)} must have a str as its value, not {type(value).__name__}"
    )


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
            f"header {escape(name)} has a value with forbidden characters: "
            f"{value[end]!r} at index {end}"
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

    # Once they are packed, all fields are one text. A name is found by bisection then, among the
    # places where the fields begin, sorted by name: 4 bytes for each field, where an index by names
    # takes 200. That is made when somebody looks for the first time, and kept: a peer may send
    # thousands of fields, and who looks at one with each message would look at all of them.
    __slots__ = ("_fields", "_index", "_joined", "_length", "_packed", "_sorted")

    def __init__(self, fields: HeadersLike = ()) -> None:
        self._fields: list[tuple[str, str]] = []
        self._index: dict[str, list[str]] = {}  # the values by names in small letters
        self._joined: dict[str, str] | None = None  # of those with several that were asked for
        self._packed: str | None = None  # all of it in one text, while the first two are empty
        self._sorted: array[int] | None = None
        self._length = 0  # the number of names, once they are packed
        if isinstance(fields, Headers):
            fields = fields.fields  # as a mapping it would join those of one name
        elif type(fields) is not list and isinstance(fields, Mapping):
            fields = fields.items()
        for name, value in fields:
            self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Append a field, beside those of the same name."""
        if self._packed is not None:
            self._fields = self.fields
            self._packed = self._sorted = None
            self._index = {}
            for known, its_value in self._fields:
                self._index.setdefault(known.lower(), []).append(its_value)
        if not isinstance(name, str) or not isinstance(value, str):
            raise _type_error(name, value)
        name, key = _checked_name(name) if len(name) <= _SHORT_NAME else _check_name(name)
        value = value.strip(" \t")
        # Most values are plain text, and need no more than a look.
        if not (value.isascii() and value.isprintable()):
            _check_value(name, value)
        self._fields.append((name, value))
        values = self._index.get(key)
        if values is None:
            self._index[key] = [value]
        else:
            values.append(value)
            self._joined = None

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
            self._length = len(self._index)
            self._fields, self._index = _NO_FIELDS, _NO_INDEX

    def _values(self, name: str) -> list[str]:
        """The values of a name, which are not to be changed; an empty list if there are none."""
        key = name.lower()
        if self._packed is None:
            return self._index.get(key, [])
        places = self._places()
        values: list[str] = []
        at = self._first(key)
        while at < len(places) and self._name_at(places[at]) == key:
            values.append(self._value_at(places[at] + len(key) + 1))
            at += 1
        return values

    def _first(self, key: str) -> int:
        """Where the first packed field of a name stands among the places, or would stand."""
        return bisect_left(self._places(), key, key=self._name_at)

    def _value_at(self, place: int) -> str:
        """The value of a packed field that begins there."""
        assert self._packed is not None
        end = self._packed.find("\n", place)
        return self._packed[place:] if end == -1 else self._packed[place:end]

    def _name_at(self, place: int) -> str:
        """The name in small letters of the packed field that begins there."""
        assert self._packed is not None
        return self._packed[place : self._packed.index("\n", place)].lower()

    def _places(self) -> array[int]:
        """Where the packed fields begin, by their names; those of one name in order."""
        if self._sorted is None:
            begin = 0
            places = []
            for name, value in self.fields:
                places.append(begin)
                begin += len(name) + len(value) + 2
            self._sorted = array("I", sorted(places, key=self._name_at))
        return self._sorted

    def _value(self, name: str) -> str | None:
        key = name.lower()
        if self._joined is not None and key in self._joined:
            return self._joined[key]
        values = self._values(key)
        if len(values) < 2:
            return values[0] if values else None
        if self._joined is None:
            self._joined = {}
        joined = self._joined[key] = ", ".join(values)
        return joined

    def __getitem__(self, name: str) -> str:
        value = self._value(name)
        if value is None:
            raise KeyError(name)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a name, `default` if there is none."""
        value = self._value(name)
        return default if value is None else value

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        key = name.lower()
        if self._packed is None:
            return key in self._index
        places, at = self._places(), self._first(key)
        return at < len(places) and self._name_at(places[at]) == key

    def __iter__(self) -> Iterator[str]:
        if self._packed is None:
            return iter(self._index)
        return iter(dict.fromkeys([name.lower() for name, _ in self.fields]))

    def __len__(self) -> int:
        return len(self._index) if self._packed is None else self._length

    def __repr__(self) -> str:
        fields = self.fields
        shown = ", ".join(
            [
                f"({quote(name)}, {quote(shown_value(name, value))})"
                for name, value in fields[:_MAX_SHOWN_FIELDS]
            ]
        )
        left = len(fields) - _MAX_SHOWN_FIELDS
        return f"Headers([{escape(shown, MAX_TEXT)}{f', {left} more' if left > 0 else ''}])"

    def get_all(self, name: str) -> list[str]:
        """The values of every field of this name, in order; an empty list if there is none."""
        return list(self._values(name))

    def get_tokens(self, name: str) -> list[str]:
        """The comma-separated elements of every field of this name (RFC 9110 5.6.1)."""
        return [
            token
            for value in self._values(name)
            for element in value.split(",")
            if (token := element.strip(" \t"))
        ]

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Every field as (name, value), as it came."""
        if self._packed is None:
            return list(self._fields)
        texts = self._packed.split("\n") if self._packed else []
        return list(zip(texts[::2], texts[1::2], strict=True))
