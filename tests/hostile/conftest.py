"""What the tests of hostile peers share."""

from __future__ import annotations

import ssl

import pytest


@pytest.fixture
def tls(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server and of a client that trusts it."""
    return server_tls, client_tls
