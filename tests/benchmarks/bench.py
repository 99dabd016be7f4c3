"""Servers and clients of creche and of its peers, timed in one run: `nox -s bench`.

A server runs in a process of its own on one core, its clients on another; or a client, and its
server. What is counted is the CPU time of that process for each message. Rounds are interleaved,
since the machine may be busy with other things, too: compare within one run only.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trustme

from chart import bar_chart
from clients import CLIENTS
from creche.protocol import COMPILED
from creche.protocol.frames import TEXT
from scenarios import (
    RSV1,
    SCENARIOS,
    TAKEOVER,
    ClientTarget,
    Scenario,
    Target,
    deflated,
    for_seconds,
)
from servers import SERVERS
from support import REQUEST, pin, raise_descriptor_limit, resident_memory

HERE = Path(__file__).parent
PYTHON = (sys.executable,)
PEERS = ("picows", "websockets", "aiohttp", "trio-websocket")
PACKAGES = ("creche", *PEERS, "anyio", "trio", "uvloop")
IDLE = 3000

# What an idle connection has behind it.
MEMORY: dict[str, dict[str, Any]] = {
    "idle connection": {},
    "TLS": {"count": 1000},
    "after a compressed message": {"count": 1000, "compressing": True},
}

Row = tuple[str, str]  # a server and its loop


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process, of all its threads."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


@dataclass
class Running:
    """A process that is timed, and what its other side needs."""

    pid: int
    target: Target


class Missing(Exception):
    """A peer is not installed."""


@contextmanager
def process_of(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A process, pinned to the first core."""
    # A file, not a pipe: some servers log each client that goes, and would wait for a reader.
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        )
        pin(0, process.pid)
        try:
            yield process
        except Missing:
            log.seek(0)
            raise Missing(log.read().strip().rpartition("\n")[2]) from None
        finally:
            process.kill()
            process.communicate()


@contextmanager
def running(
    row: Row, tls: tuple[str, Any] | None = None, python: Sequence[object] = PYTHON
) -> Iterator[Running]:
    """A server."""
    program = HERE / "servers.py"
    with process_of(*python, program, *row, *([tls[0]] if tls else [])) as process:
        assert process.stdout is not None
        port = process.stdout.readline()
        if not port:
            raise Missing
        target = Target(int(port), raw=row[0] == "TCP echo", tls=tls[1] if tls else None)
        yield Running(process.pid, target)


@contextmanager
def running_client(row: Row, python: Sequence[object] = PYTHON) -> Iterator[Running]:
    """A client, and where it connects to."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.settimeout(10)
        port = listener.getsockname()[1]
        with process_of(*python, HERE / "clients.py", *row, port) as process:
            assert process.stdin is not None
            ask = partial(print, file=process.stdin, flush=True)
            target = ClientTarget(listener, ask)
            try:
                target.connect().close()
            except OSError:
                raise Missing from None
            yield Running(process.pid, target)


@dataclass
class Cell:
    """What was measured of a server in a scenario, a value for each round."""

    cpu: list[float] = field(default_factory=list)  # µs for a message
    rate: list[float] = field(default_factory=list)  # messages a second
    delays: list[list[float]] = field(default_factory=list)  # seconds, of each round

    def __str__(self) -> str:
        low, middle, high = (
            statistics.quantiles(self.cpu, n=4) if len(self.cpu) > 1 else (self.cpu * 3)
        )
        return f"{short(middle)} ±{short((high - low) / 2)}"


Table = dict[str, dict[Row, Cell]]


def short(value: float) -> str:
    """Two digits at least, and no more than needed."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def measure(server: Running, scenario: Scenario, seconds: float, cell: Cell) -> None:
    """One round."""
    target = server.target
    opened: Any = scenario.open(target)
    with opened as load:
        load(for_seconds(seconds / 10))
        target.delays.clear()
        cpu, start = cpu_seconds(server.pid), time.perf_counter()
        messages = load(for_seconds(seconds))
        elapsed = time.perf_counter() - start
        cell.cpu.append((cpu_seconds(server.pid) - cpu) / messages * 1e6)
        cell.rate.append(messages / elapsed)
        if scenario.delays:
            cell.delays.append(list(target.delays))
        target.delays.clear()


def progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def time_all(rows: Sequence[Row], names: Sequence[str], rounds: int, seconds: float) -> Table:
    """Every scenario, with the servers in turn in each round."""
    table: Table = {}
    missing: set[Row] = set()
    with tempfile.TemporaryDirectory() as directory:
        tls = certificate(Path(directory))
        for name in names:
            scenario = SCENARIOS[name]
            cells: dict[Row, Cell] = defaultdict(Cell)
            with ExitStack() as stack:
                servers: dict[Row, Running] = {}
                for row in rows:
                    if row in missing or (row[0] == "TCP echo" and not scenario.raw):
                        continue
                    if scenario.client and row not in CLIENTS:
                        continue
                    try:
                        servers[row] = stack.enter_context(
                            running_client(row)
                            if scenario.client
                            else running(row, tls if scenario.tls else None)
                        )
                    except Missing as exc:
                        progress(f"{row[0]} on {row[1]} is left out: {exc}")
                        missing.add(row)
                for number in range(rounds):
                    for row, server in servers.items():
                        progress(f"{name}, round {number + 1}: {row[0]} on {row[1]}")
                        try:
                            measure(server, scenario, seconds, cells[row])
                        except OSError as exc:
                            progress(f"failed: {exc}")
                            cells.pop(row, None)
            table[name] = {row: cell for row, cell in cells.items() if cell.cpu}
    return table


def certificate(directory: Path) -> tuple[str, Any]:
    """The file of a server's certificate and key, and the context of its clients."""
    import ssl

    ca = trustme.CA()
    file = directory / "localhost.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(file))
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return str(file), context


def idle_memory(
    row: Row, *, tls: tuple[str, Any] | None = None, compressing: bool = False, count: int = IDLE
) -> float:
    """KiB for an idle connection, keepalive on; after a compressed message of each side, perhaps.

    Raises:
        OSError: the server does not compress.
    """

    def connect() -> socket.socket:
        if not compressing:
            return server.target.connect()
        sock = server.target.connect(REQUEST[:-2] + TAKEOVER)
        sock.sendall(server.target.frame(deflated(b"compressed " * 100), TEXT | RSV1))
        answer = sock.recv(4096)
        if not (answer and answer[0] & RSV1):
            raise ConnectionError("the server does not compress")
        return sock

    with running(row, tls) as server, ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect())
        before = resident_memory(server.pid)
        for _ in range(count):
            stack.enter_context(connect())
        time.sleep(0.5)  # until the last has been served
        return (resident_memory(server.pid) - before) / count * 1024


def import_time(module: str) -> float:
    """Milliseconds that an import takes, the interpreter's own start taken off."""

    def once(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return (time.perf_counter() - start) * 1000

    pairs = [once(f"import {module}") - once("pass") for _ in range(10)]
    return statistics.median(pairs)


# The report


def percentile(rounds: Sequence[Sequence[float]], per_cent: int) -> float:
    """The median of the rounds' percentiles.

    Whatever else runs on the server's core stops it for milliseconds now and then. That is in one
    round or another; of all rounds together it would be the 99th percentile.
    """
    return statistics.median(
        statistics.quantiles(values, n=100, method="inclusive")[per_cent - 1] for values in rounds
    )


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    build = "compiled" if COMPILED else "pure"
    return (
        f"{datetime.date.today()}, Python {platform.python_version()}, {platform.machine()}; "
        f"creche is {build}; {', '.join(found)}"
    )


def cpu_report(table: Table, rows: Sequence[Row]) -> str:
    """CPU time for each message, in µs."""
    lines = [
        [
            f"{name} ({loop})",
            *(str(cells[name, loop]) if (name, loop) in cells else "" for cells in table.values()),
        ]
        for name, loop in rows
        if any((name, loop) in cells for cells in table.values())
    ]
    return markdown(["server", *table], lines)


def delay_report(table: Table, rows: Sequence[Row]) -> str:
    """Delays in µs: the 50th and the 99th percentile of a round."""
    names = [name for name in table if SCENARIOS[name].delays]
    lines = []
    for row in rows:
        cells = [table[name].get(row) for name in names]
        if any(cells):
            lines.append(
                [
                    f"{row[0]} ({row[1]})",
                    *(
                        f"{percentile(cell.delays, 50) * 1e6:.0f}, "
                        f"{percentile(cell.delays, 99) * 1e6:.0f}"
                        if cell is not None and cell.delays
                        else ""
                        for cell in cells
                    ),
                ]
            )
    return markdown(["server", *names], lines) if names else ""


def chart(table: Table) -> str:
    """CPU time of the servers as bars."""
    panels = {
        scenario: {
            f"{name} ({loop})": statistics.median(cell.cpu) for (name, loop), cell in cells.items()
        }
        for scenario, cells in table.items()
        if cells
    }
    return bar_chart(panels, "CPU time for each message, in µs; shorter is better")


# Whom each row of creche is compared with; of several, with the best.
RIVALS: dict[str, tuple[Row, list[Row]]] = {
    "asyncio, to picows.websockets": (("creche", "asyncio"), [("picows.websockets", "asyncio")]),
    "uvloop, to picows.websockets": (("creche", "uvloop"), [("picows.websockets", "uvloop")]),
    "trio, to the better of websockets and trio-websocket": (
        ("creche", "trio"),
        [("websockets", "trio"), ("trio-websocket", "trio")],
    ),
    "trio, to a bare TCP echo": (("creche", "trio"), [("TCP echo", "trio")]),
    "asyncio, to websockets": (("creche", "asyncio"), [("websockets", "asyncio")]),
}


def ratio_report(table: Table) -> str:
    """CPU time of creche divided by that of others; below 1 is less."""
    lines = []
    for title, (ours, theirs) in RIVALS.items():
        line = [title]
        for cells in table.values():
            others = [statistics.median(cells[row].cpu) for row in theirs if row in cells]
            if ours in cells and others:
                line.append(f"{statistics.median(cells[ours].cpu) / min(others):.2f}")
            else:
                line.append("")
        if any(line[1:]):
            lines.append(line)
    return markdown(["creche on", *table], lines) if lines else ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Time servers of creche and of its peers.")
    parser.add_argument("--only", action="append", choices=SCENARIOS, metavar="SCENARIO")
    parser.add_argument("--server", action="append", choices={name for name, _ in SERVERS})
    parser.add_argument("--backend", action="append", choices={loop for _, loop in SERVERS})
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--memory", action="store_true", help="memory and import time, too")
    parser.add_argument(
        "--write",
        metavar="FILE",
        type=Path,
        help="write the tables there as Markdown, and a chart beside it as SVG",
    )
    given = parser.parse_args()
    raise_descriptor_limit()
    rows = [
        (name, loop)
        for name, loop in SERVERS
        if (not given.server or name in given.server)
        and (not given.backend or loop in given.backend)
    ]
    pin(1)
    table = time_all(rows, given.only or list(SCENARIOS), given.rounds, given.seconds)
    parts = [
        f"{versions()}. {given.rounds} rounds of {given.seconds:g} s.\n",
        "CPU time for each message in µs, median and half of the interquartile range:\n",
        cpu_report(table, rows),
        "The same as ratios:\n",
        ratio_report(table),
    ]
    if delays := delay_report(table, rows):
        parts += [
            "Delay of an echo in µs, 50th and 99th percentile, medians of the rounds:\n",
            delays,
        ]
    print("\n".join(parts), flush=True)
    if given.memory:
        memory = ["Memory of an idle connection and time of the import:\n", memory_report(rows)]
        print("\n".join(memory))
        parts += memory
    if given.write:
        given.write.write_text("\n".join(parts))
        given.write.with_suffix(".svg").write_text(chart(table))


def memory_report(rows: Sequence[Row]) -> str:
    lines = []
    with tempfile.TemporaryDirectory() as directory:
        tls = certificate(Path(directory))
        for row in rows:
            name, loop = row
            cells = []
            for title, options in MEMORY.items():
                progress(f"memory, {title}: {name} on {loop}")
                try:
                    memory = idle_memory(row, tls=tls if title == "TLS" else None, **options)
                    cells.append(f"{memory:.1f} KiB")
                except (Missing, OSError) as exc:
                    progress(f"failed: {exc}")
                    cells.append("")
            module = name.replace("-", "_").replace("TCP echo", "asyncio")
            spent = f"{import_time(module):.0f} ms" if importlib.util.find_spec(module) else ""
            if any(cells):
                lines.append([f"{name} ({loop})", *cells, spent])
    return markdown(["server", *MEMORY, "import"], lines)


if __name__ == "__main__":
    main()
