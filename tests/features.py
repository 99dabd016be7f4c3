"""docs/features.md: every feature with the tests that show it, from their markers.

`pytest -p features --features docs/features.md -m feature tests` runs the tests that are marked
`@pytest.mark.feature(...)` with a key of FEATURES, and writes the page. It fails if there is a
feature without a test that has passed on asyncio and on Trio.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import pytest

BACKENDS = ("asyncio", "trio")

# Sections, and in each the features by key. The first three are those of websockets 17.4.
FEATURES: dict[str, dict[str, str]] = {
    "Both sides": {
        "opening": "Perform the opening handshake",
        "open_timeout": "Enforce an opening timeout",
        "closing": "Perform the closing handshake",
        "close_timeout": "Enforce a closing timeout",
        "close_codes": "Report close codes and reasons from both sides",
        "iterate": "Iterate over received messages",
        "send": "Send and receive messages",
        "send_fragments": "Send a fragmented message",
        "receive_fragments": "Receive a fragmented message frame by frame",
        "join_fragments": "Receive a fragmented message after reassembly",
        "text": "Force sending bytes as text, receiving text as bytes",
        "ping": "Send a ping and wait for its pong",
        "answer_pings": "Answer pings automatically",
        "pong": "Send a pong",
        "keepalive": "Keepalive by pings",
        "latency": "Measure latency",
        "deflate": "Permessage-deflate, by default",
        "compression_options": "Configure compression",
        "extensions": "Implement custom extensions",
        "subprotocols": "Negotiate a subprotocol",
        "limits": "Enforce limits on messages, headers and memory",
        "logging": "Log events, and frames at DEBUG",
    },
    "Server": {
        "listen_tcp": "Listen on TCP",
        "listen_unix": "Listen on a Unix socket",
        "listen_sockets": "Listen on sockets that exist",
        "server_tls": "TLS",
        "context_exit": "Close the server on leaving its context",
        "handler_exit": "Close a connection when its handler ends",
        "shutdown": "Shut down gracefully",
        "origins": "Check the Origin",
        "select_subprotocol": "Choose the subprotocol by a function",
        "server_header": "Configure the Server header",
        "process_request": "Answer with any HTTP response: health checks, pages, redirects",
        "process_response": "Change the response",
        "basic_auth": "HTTP Basic authentication",
        "routing": "Route connections to handlers",
        "broadcast": "Broadcast",
    },
    "Client": {
        "connect_tcp": "Connect by TCP",
        "connect_unix": "Connect to a Unix socket",
        "connect_socket": "Connect by a socket that exists",
        "client_tls": "TLS",
        "redirects": "Follow redirects",
        "reconnect": "Connect again automatically",
        "origin": "Send an Origin",
        "user_agent": "Configure the User-Agent header",
        "additional_headers": "Add header fields to the request",
        "uri_credentials": "HTTP Basic authentication by the URI",
        "http_proxy": "HTTP proxies",
        "socks_proxy": "SOCKS proxies",
        "environment_proxy": "Proxies from the environment",
        "client_exit": "Close the connection on leaving its context",
    },
    "Handlers": {
        "run": "Consumer and producer as children of their connection",
        "task_group": "A task group that follows the connection",
        "cancel_receive": "A cancelled receive loses no message",
        "cancel_send": "A cancelled send has sent nothing",
        "deciding": "Accept or reject within the handler",
    },
    "Messages": {
        "codec": "A stream of objects (JSON, msgpack)",
        "streams": "Messages larger than memory",
        "byte_stream": "A connection as a stream of bytes",
        "prepared": "Messages encoded and compressed once for many",
        "uncompressed": "Single messages uncompressed",
        "bomb": "Bound decompressed messages while they are inflated",
        "set_keepalive": "Keepalive of single connections",
    },
    "Transports": {
        "any_stream": "Any byte stream of AnyIO",
        "any_listener": "Any listener of AnyIO",
        "https_proxy": "Proxies over TLS, and TLS inside of it",
    },
    "Operations": {
        "trusted_proxies": "The client's address behind proxies",
        "client_limits": "Connections and handshakes of one client",
        "max_lifetime": "Lifetimes of connections",
        "spread": "Spread a shutdown over a time",
        "drain": "Drain",
        "certificates": "Renew certificates without a restart",
        "client_certificates": "Client certificates",
        "stats": "Counts in constant time",
        "trace": "Tracing",
    },
}

KEYS = {key for section in FEATURES.values() for key in section}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--features", metavar="FILE", type=Path, help="write the features there")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        backend = params.get("backend_name", params.get("backend", ""))
        for marker in item.iter_markers("feature"):
            for key in marker.args:
                # On to the process that writes the page.
                item.user_properties.append(("feature", (key, backend)))


class Page:
    """Collects what has passed, and writes the page."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tests: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == "feature":
                key, backend = cast(tuple[str, str], value)
                if report.failed:
                    self._failed.add(key)
                elif report.when == "call" and report.passed:
                    function = report.nodeid.rpartition("::")[2].partition("[")[0]
                    self._tests[key][backend].add(function)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):
            return
        problems = [
            f"{key}: no test has passed on {' and '.join(missing)}"
            for key in sorted(KEYS)
            if (missing := [b for b in BACKENDS if not self._tests[key][b]])
        ]
        problems += [f"{key}: a test failed" for key in sorted(self._failed)]
        problems += [f"{key}: is not in FEATURES" for key in sorted(set(self._tests) - KEYS)]
        if problems:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print("\nfeatures without proof:", *problems, sep="\n  ")
        self._path.write_text(self._page())

    def _page(self) -> str:
        lines = [
            "# Features",
            "",
            "Each is shown by tests that have passed on asyncio and on Trio. The first three",
            "sections are the features of websockets 17.4.",
        ]
        for section, features in FEATURES.items():
            lines += ["", f"## {section}", "", "| feature | tests |", "|---|---|"]
            for key, text in features.items():
                tests = sorted(set().union(*self._tests[key].values()))
                lines.append(f"| {text} | {', '.join(f'`{test}`' for test in tests)} |")
        return "\n".join(lines) + "\n"


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--features")
    if path is not None:
        config.pluginmanager.register(Page(path))
