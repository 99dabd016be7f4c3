"""Routing: a handler for each path, by werkzeug (the extra `router`)."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn, Unpack
from urllib.parse import quote, unquote

import anyio
from anyio.abc import TaskStatus

from creche.connection.websocket import WebSocket
from creche.handshake.addresses import check_authority
from creche.handshake.http import Request, Response
from creche.handshake.server import reject
from creche.options.declared import ProcessRequest, ServerOptions
from creche.server.serve import serving
from creche.server.server import Server

try:
    from werkzeug.exceptions import HTTPException, NotFound
    from werkzeug.routing import Map, MapAdapter, RequestRedirect, WebsocketMismatch
    from werkzeug.urls import iri_to_uri
except ImportError:
    raise ImportError("creche.router needs werkzeug: pip install creche[router]") from None

__all__ = ["Router", "route", "routing"]

# Where the route stands in `request.state`.
_STATE = "creche.route"

# What a Map leaves as it is, where it redirects.
_SAFE = "!$&'()*+,/:;=@"

# An escaped slash, and the text of one: its "%" is escaped, perhaps again and again.
_ESCAPED_SLASH = re.compile("(%(?:25)*2[Ff])")
# The same, when what _decode leaves has been quoted.
_QUOTED_SLASH = re.compile("%25(?=(?:25)*2[Ff])")


class Router:
    """Chooses a handler by a werkzeug Map whose endpoints are handlers.

    A handler gets the WebSocket and the path's parameters: `handler(ws, **parameters)`. Rules need
    no `websocket=True`. `serve(router.handler, ..., process_request=router.process_request)` is
    what route() does; use that for other ways to serve.

    Args:
        url_map: the rules.
        server_name: the server's host, with the port if there is one in URIs; None for what each
            client asks for.
        url_scheme: "ws" or "wss", for redirects.
        process_request: a hook that is asked first, as in ServerOptions.
    """

    def __init__(
        self,
        url_map: Map,
        *,
        server_name: str | None = None,
        url_scheme: str = "ws",
        process_request: ProcessRequest | None = None,
    ) -> None:
        if not isinstance(url_map, Map):
            raise TypeError(f"url_map must be a werkzeug Map, not {type(url_map).__name__}")
        if server_name is not None:
            check_authority("server_name", server_name)
        self._map = url_map
        self._server_name = server_name
        self._url_scheme = url_scheme
        self._process_request = process_request

    async def process_request(self, request: Request) -> Response | None:
        """Find the route; else an answer: 404, or where werkzeug redirects to."""
        if self._process_request is not None:
            answer = self._process_request(request)
            if inspect.isawaitable(answer):
                answer = await answer
            if answer is not None:
                return answer
        if request.path == "*":
            return None  # it is no path, and becomes no WebSocket
        path, _, query = request.path.partition("?")
        try:
            path = _decode(path)
            adapter = self._map.bind(
                self._server_name or request.headers.get("Host") or "localhost",
                path_info=path,
                url_scheme=self._url_scheme,
                query_args=query,
            )
            if path.startswith("//"):
                self._redirect_to_one_slash(adapter, path)
            request.state[_STATE] = self._match(adapter)
        except RequestRedirect as redirect:
            return Response(redirect.code, {"Location": _location(redirect.new_url, path)})
        except HTTPException as exc:
            return reject(exc.code or 404, exc.name).response
        except UnicodeDecodeError:
            return reject(400, "the path is not UTF-8").response
        except ValueError:  # a converter cannot make anything of what stands there
            return reject(404, NotFound().name).response
        return None

    def _redirect_to_one_slash(self, adapter: MapAdapter, path: str) -> NoReturn:
        """A Map overlooks further slashes at the beginning, where the path of the request has
        them; others it merges."""
        if not self._map.merge_slashes:
            raise NotFound
        merged = quote(re.sub("/{2,}", "/", path), safe=_SAFE)
        raise RequestRedirect(adapter.make_redirect_url(merged))

    @staticmethod
    def _match(adapter: MapAdapter) -> object:
        try:
            return adapter.match(method="GET", websocket=True)
        except (NotFound, WebsocketMismatch):
            return adapter.match(method="GET", websocket=False)

    async def handler(self, ws: WebSocket) -> None:
        """Run the handler of the route."""
        endpoint, parameters = ws.request.state[_STATE]
        await endpoint(ws, **parameters)


def _decode(path: str) -> str:
    """A path without its escapes, but that of a slash: what it escapes is not to divide the path.
    So the text of such an escape stays as it is, too, or both would be the same.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    parts = _ESCAPED_SLASH.split(path)
    parts[::2] = [unquote(part, errors="strict") for part in parts[::2]]
    return "".join(parts)


def _location(url: str, path: str) -> str:
    """Where a Map redirects to from a path that is decoded."""
    uri = iri_to_uri(url)
    if _ESCAPED_SLASH.search(path) is None:
        return uri
    # The Map has quoted what was not decoded.
    asked, mark, query = uri.partition("?")
    return _QUOTED_SLASH.sub("%", asked) + mark + query


@asynccontextmanager
async def routing(
    url_map: Map,
    host: str | None = None,
    port: int = 0,
    *,
    server_name: str | None = None,
    **options: Unpack[ServerOptions],
) -> AsyncIterator[Server]:
    """Serve a handler for each path while the body runs; otherwise as serving().

    Args:
        url_map: the rules; see Router.
        host: as for serving().
        port: as for serving().
        server_name: see Router.
        options: see ServerOptions.
    """
    router = Router(
        url_map,
        server_name=server_name,
        url_scheme="ws" if options.get("ssl") is None else "wss",
        process_request=options.get("process_request"),
    )
    options["process_request"] = router.process_request
    async with serving(router.handler, host, port, **options) as server:
        yield server


async def route(
    url_map: Map,
    host: str | None = None,
    port: int = 0,
    *,
    server_name: str | None = None,
    task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED,
    **options: Unpack[ServerOptions],
) -> None:
    """Serve a handler for each path until cancelled or shut down; otherwise as serve().

    Args:
        url_map: the rules; see Router.
        host: as for serve().
        port: as for serve().
        server_name: see Router.
        options: see ServerOptions.
    """
    async with routing(url_map, host, port, server_name=server_name, **options) as server:
        task_status.started(server)
        await server.wait_stopped()
