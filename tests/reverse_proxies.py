"""nginx and HAProxy in front of a server, as docs/howto/reverse-proxy.md configures them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from programs import listening
from support import free_port

_PAGE = Path(__file__).parent.parent / "docs" / "howto" / "reverse-proxy.md"


def _block(name: str) -> str:
    """The configuration that follows a name on the page."""
    pattern = rf"^{name}:\n\n```text\n(.*?)^```$"
    found = re.search(pattern, _PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def _nginx(directory: Path, port: int, backend: int) -> list[str]:
    location = _block("nginx").replace("8765", str(backend))
    config = directory / "nginx.conf"
    paths = "".join(
        f"{name}_temp_path {directory}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log stderr;"
        f"events {{}} http {{ access_log off; {paths}"
        f"server {{ listen 127.0.0.1:{port}; {location} }} }}"
    )
    return ["-p", str(directory), "-c", str(config)]


def _haproxy(directory: Path, port: int, backend: int) -> list[str]:
    config = directory / "haproxy.cfg"
    config.write_text(_block("HAProxy").replace("8765", str(backend)).replace("8080", str(port)))
    return ["-db", "-f", str(config)]


_CONFIGURE: dict[str, Callable[[Path, int, int], list[str]]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
}
REVERSE_PROXIES = tuple(_CONFIGURE)


def find_reverse_proxy(name: str) -> str | None:
    """The program, if it is installed."""
    return shutil.which(name, path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")


@contextmanager
def reverse_proxy(name: str, directory: Path, backend: int) -> Iterator[int]:
    """A proxy for what listens on the port `backend`; gives its own."""
    program = find_reverse_proxy(name)
    assert program is not None
    port = free_port()
    with listening(*_CONFIGURE[name](directory, port, backend), port=port, program=program):
        yield port
