# cython: annotation_typing=False
"""What may be a host, a port, or the path of a socket: checked before anything is done with it.

The resolver and the kernel have ways of their own with what is none: port 65616 is port 80 to
them, no path at all one of the kernel's choice.
"""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import urlsplit

from creche.handshake.redaction import shown_authority
from creche.handshake.uri import encode_host

_LAST_PORT = 2**16 - 1

# A label of a name (RFC 1035 2.3.4); which characters it has is the resolver's affair, but for
# those that part a host from what stands beside it in a URI or a header.
_LABEL = re.compile(r"[^\x00-\x20\x7f-\xff/?#@:\[\]\\%.]{1,63}")


def check_port(name: str, value: object, least: int = 1) -> int:
    """Check the number of a TCP port, and return it.

    Raises:
        TypeError: it is not an int.
        ValueError: it is none from `least` to 65535.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not least <= value <= _LAST_PORT:
        # The digits of a number may be too many to be shown.
        shown = value if value.bit_length() <= 64 else f"one of {value.bit_length()} bits"
        raise ValueError(f"{name} must be {least} to {_LAST_PORT}, not {shown}")
    return value


def check_host(name: str, value: object) -> str:
    """Check a host's name or IP address, and return it as a resolver takes it.

    Raises:
        TypeError: it is not a str.
        ValueError: no host can have this name.
    """
    text = _text(name, value)
    try:
        host = encode_host(text)
    except ValueError:
        host = ""
    if not (_is_ip_address(host) or all(map(_LABEL.fullmatch, host.removesuffix(".").split(".")))):
        shown = shown_authority(text)
        raise ValueError(f"{name} must be the name or the IP address of a host, not {shown}")
    return host


def check_ip_address(name: str, value: object) -> str:
    """Check an IP address, and return it.

    Raises:
        TypeError: it is not a str.
        ValueError: it is a name, or something else.
    """
    text = _text(name, value)
    if not _is_ip_address(text):
        raise ValueError(f"{name} must be an IP address, not {shown_authority(text)}")
    return text


def check_listening(host: object, port: object) -> None:
    """Check where a server shall listen.

    Raises:
        TypeError, ValueError: it cannot be there.
    """
    if host is not None and host != "":
        check_host("host", host)
    check_port("port", port, 0)


def check_authority(name: str, value: object) -> None:
    """Check a host with a port perhaps, such as "example.com:8080".

    Raises:
        TypeError: it is not a str.
        ValueError: it is something else.
    """
    text = _text(name, value)
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.netloc != text or "@" in text:
        raise ValueError(f"{name} must be a host, or host:port, not {shown_authority(text)}")
    check_host(name, parts.hostname or "")


def check_unix_path(value: object, *, listening: bool = False) -> None:
    """Check the path of a Unix socket.

    Args:
        value: the path.
        listening: whether to listen there. Otherwise it may begin with a NUL: such a name is of no
            file (unix(7)).

    Raises:
        TypeError: it is not a path.
        ValueError: no socket can be there.
    """
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"path must be a str or a path, not {type(value).__name__}")
    try:
        path = os.fsencode(value)
    except UnicodeEncodeError:
        raise ValueError("path has a character that no file's name can have") from None
    if not path:
        raise ValueError("path must not be empty")
    if b"\0" in path[0 if listening else 1 :]:
        raise ValueError(f"path must not contain a NUL: {path!r}")


def check_mode(value: object) -> None:
    """Check the permissions of a file.

    Raises:
        TypeError: they are not an int.
        ValueError: they are out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"mode must be an int, such as 0o660, not {type(value).__name__}")
    if not 0 <= value <= 0o7777:
        raise ValueError("mode must be 0 to 0o7777, such as 0o660")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return value


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
