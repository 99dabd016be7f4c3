"""Single: a client at the other end of a stream, without a server around it."""

from __future__ import annotations

import anyio
from anyio.abc import ByteStream

from creche.connection.answering import Answerer, Answering
from creche.connection.websocket import WebSocket
from creche.engine.engine import Account
from creche.handshake.exceptions import Rejection
from creche.handshake.http import Request
from creche.options.declared import ServerHandshakeOptions
from creche.transports.streams import StreamTransport, TrioStream


class SingleClient(Answerer):
    """Answers one client in the task that waits for its connection.

    Args:
        stream: where it is; the stream belongs to this object.
        account: what its connection is counted in.
        options: the server's.
    """

    def __init__(
        self, stream: ByteStream | TrioStream, account: Account, options: ServerHandshakeOptions
    ) -> None:
        self._transport = StreamTransport(stream)
        self._answering = Answering(self._transport, account, options, self)
        self._news = account.engine.new_event()
        self._closed = account.engine.new_event()
        self._request: Request | None = None
        self._error: Exception | None = None

    async def open(self) -> WebSocket:
        """Answer it.

        Raises:
            HandshakeError: it did not ask for a WebSocket properly; it has been told.
            OSError: the stream broke.
        """
        try:
            return await self._open()
        except BaseException:
            self._answering.close()
            with anyio.CancelScope(shield=True):
                await self._transport.aclose_forcefully()
            raise

    async def _open(self) -> WebSocket:
        self._answering.start()
        await self._news.wait()
        if self._request is not None:
            try:
                return await self._answering.decide(self._request)
            except Rejection as refusal:
                self._error = refusal
        await self._closed.wait()
        error, self._error = self._error, None
        assert error is not None
        try:
            raise error
        finally:
            del error  # a frame that keeps what it raises keeps itself

    def check_open(self, request: Request) -> None:
        pass

    def asked(self, request: Request) -> None:
        self._request = request
        self._news.set()

    def admit(self) -> None:
        pass

    def failed(self, exc: Exception) -> None:
        self._error = exc
        self._news.set()

    def gone(self) -> None:
        self._closed.set()
