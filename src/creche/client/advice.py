"""What to do about a TLS handshake that has failed, put behind what OpenSSL says."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from creche.transports.dialing import NotTLS

# OpenSSL's numbers (X509_V_ERR_...) of certificates that no authority which is trusted has issued,
# and of those for other names.
_UNTRUSTED = frozenset({18, 19, 20, 21})
_OTHER_NAMES = frozenset({62, 64})


def add_advice(exc: ssl.SSLError, prefix: str = "") -> None:
    """Let the text of an error end with what to do.

    Args:
        exc: the error.
        prefix: of the names of the options: "proxy_" for a proxy's.
    """
    advice = ""
    if isinstance(exc, NotTLS):
        advice = "without TLS, say ws"
    elif isinstance(exc, ssl.SSLCertVerificationError):
        if exc.verify_code in _UNTRUSTED:
            advice = (
                f"to trust its authority, pass {prefix}ssl=ssl.create_default_context("
                'cafile="the authority\'s certificate.pem")'
            )
        elif exc.verify_code in _OTHER_NAMES:
            advice = f"to expect another name, pass {prefix}server_hostname"
    if advice and isinstance(exc.strerror, str):
        exc.strerror = f"{exc.strerror}; {advice}"


@contextmanager
def advising() -> Iterator[None]:
    """Add advice to what is raised here."""
    try:
        yield
    except ssl.SSLError as exc:
        add_advice(exc)
        raise
