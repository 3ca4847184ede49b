"""
What the running agent costs and how fast it is: ``unshare -n -m python3 -m tests.bench.service --idle 600``.

Prints; asserts nothing. Run it on a quiet machine, as root, in a network namespace of its own.
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import cycle
from pathlib import Path

from tests.netns.process import PORT, Agent, Response, Watcher, addresses, ask, get, vips

SCRAPES = 8
REPAIRS = 8  # of 10 VIPs, in three rounds, none is undone ten times a minute


def rss(pid: int) -> float:
    """Resident memory, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu(pid: int) -> float:
    """Processor seconds so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wakeups(pid: int) -> int:
    """Voluntary context switches of all threads so far."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        line = next(line for line in status.read_text().splitlines() if line.startswith("voluntary"))
        total += int(line.split()[1])
    return total


def row(what: str, value: str) -> None:
    """One line of the table."""
    print(f"{what:<58} {value}", flush=True)


def times(measure: Callable[[], float], count: int) -> str:
    """Median and worst, in ms."""
    found = sorted(measure() * 1000 for _ in range(count))
    return f"median {statistics.median(found):.1f} ms, worst {found[-1]:.1f} ms (n={count})"


# As Prometheus 3 asks.
_ACCEPT = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3"
# The self-test needs tunnels, which most development kernels have not; the guard needs their declaration only.
_TUNNEL = '[[tunnel]]\nencapsulation = "ipip"\nlocal = "10.0.0.2"\nload_balancers = ["10.0.0.9"]\n'
_SERVICE = 'services = ["udp/1812"]'


def scrape() -> float:
    """One scrape, seconds."""
    started = time.perf_counter()
    answer = get("/metrics")
    assert answer.status == 200
    return time.perf_counter() - started


def alone() -> float:
    """One scrape, not sharing a rendering with the one before."""
    time.sleep(1.1)
    return scrape()


@contextmanager
def scrapers() -> Iterator[None]:
    """Two scrapers without a pause."""
    code = (
        "import http.client,itertools\n"
        "for _ in itertools.count():\n"
        f" c=http.client.HTTPConnection('127.0.0.1',{PORT},timeout=30); c.request('GET','/metrics')\n"
        " c.getresponse().read(); c.close()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextmanager
def renderers(path: Path) -> Iterator[None]:
    """Two scrapers without a pause on the unix socket, where no rendering is shared: one is always under way."""
    code = (
        "import socket,sys\n"
        "while True:\n"
        " s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'GET /metrics HTTP/1.0\\r\\n\\r\\n')\n"
        " while s.recv(1<<20): pass\n"
        " s.close()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(2)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextmanager
def rowdies() -> Iterator[None]:
    """200 clients that misbehave."""
    argv = [sys.executable, "-m", "tests.netns.hostile_clients", str(PORT), "200", "120"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()


def leave_alone(name: str, pid: int, seconds: float) -> None:
    """What it uses while nothing happens; told as measured, never scaled up from less."""
    before, switches, at = cpu(pid), wakeups(pid), time.monotonic()
    time.sleep(seconds)
    spent, turns, passed = cpu(pid) - before, wakeups(pid) - switches, time.monotonic() - at
    row(f"{name}: idle for {passed:.0f} s, processor seconds", f"{spent:.2f}")
    row(f"{name}: idle for {passed:.0f} s, wake-ups", f"{turns} ({turns / passed * 60:.1f} a minute)")


def bench(count: int, idle: float) -> None:
    """Everything, with so many VIPs."""
    with tempfile.TemporaryDirectory() as folder, Watcher() as watcher:
        agent = Agent(Path(folder), vips(count))
        started = time.perf_counter()
        with agent:
            row(f"{count} VIPs: exec to READY=1 (first start)", f"{(time.perf_counter() - started) * 1000:.0f} ms")
            agent.serving()
            row(f"{count} VIPs: exec to the first answer of HTTP", f"{(time.perf_counter() - started) * 1000:.0f} ms")
            targets = cycle(addresses(count))  # never one of them ten times in a minute: that would be a fight
            row(f"{count} VIPs: memory", f"{rss(agent.pid):.1f} MB")
            row(f"{count} VIPs: scrape", times(alone, SCRAPES))
            row(f"{count} VIPs: memory after scrapes", f"{rss(agent.pid):.1f} MB")

            def repair(watcher: Watcher = watcher, targets: Iterator[str] = targets) -> float:
                time.sleep(0.1)
                return watcher.repair(next(targets))

            row(f"{count} VIPs: repair, quiet", times(repair, REPAIRS))
            with scrapers():
                row(f"{count} VIPs: repair, two scrapers without a pause", times(repair, REPAIRS))
            with rowdies():
                row(f"{count} VIPs: repair, 200 misbehaving clients", times(repair, REPAIRS))
                row(f"{count} VIPs: scrape, 200 misbehaving clients", times(scrape, 8))
                row(f"{count} VIPs: memory, 200 misbehaving clients", f"{rss(agent.pid):.1f} MB")
            time.sleep(1)
            leave_alone(f"{count} VIPs", agent.pid, idle)
            row(f"{count} VIPs: threads", str(len(list(Path(f"/proc/{agent.pid}/task").iterdir()))))
        Path(folder, "again").mkdir()
        again = Agent(Path(folder, "again"), vips(count))
        started = time.perf_counter()
        with again:
            row(f"{count} VIPs: exec to READY=1 (all in place)", f"{(time.perf_counter() - started) * 1000:.0f} ms")


def prometheus(encoding: str = "identity") -> Response:
    """What Prometheus gets."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
    return ask(connection, "/metrics", accept=_ACCEPT, accept_encoding=encoding)


def scrapes(what: str, pid: int, encoding: str) -> None:
    """So many, none of them sharing a rendering with the one before."""
    spent = 0.0

    def one() -> float:
        nonlocal spent
        time.sleep(1.1)
        before, started = cpu(pid), time.perf_counter()
        prometheus(encoding)
        passed = time.perf_counter() - started
        spent += cpu(pid) - before
        return passed

    row(f"{what}: scrape, {encoding}", times(one, SCRAPES))
    row(f"{what}: scrape, {encoding}, processor", f"{spent / SCRAPES * 1000:.0f} ms on average")


def full(count: int) -> None:
    """With the guard, and a service declared for each VIP that somebody listens for."""
    file = _TUNNEL + vips(count).replace("[[vip]]", f"[[vip]]\n{_SERVICE}")
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("", 1812))
    with closing(listener), tempfile.TemporaryDirectory() as folder, Watcher() as watcher:
        agent = Agent(Path(folder), file)
        with agent:
            agent.until(lambda: "dsr_guard_in_place 1" in get("/metrics").body, "the guard")
            page = prometheus().body
            rows = sum(f'vip="{next(iter(addresses(count)))}"' in line for line in page.splitlines())
            what = f"{count} VIPs, guard and services"
            row(f"{what}: rows for each VIP, MB in all", f"{rows}, {len(page) / 1e6:.1f} MB")
            for encoding in ("identity", "gzip"):
                scrapes(what, agent.pid, encoding)
            row(f"{what}: memory after scrapes", f"{rss(agent.pid):.1f} MB")
            targets = cycle(addresses(count))

            def repair() -> float:
                time.sleep(0.1)
                return watcher.repair(next(targets))

            row(f"{what}: repair, quiet", times(repair, REPAIRS))
            with renderers(Path(folder) / "http.sock"):
                time.sleep(0.5)
                row(f"{what}: repair, pages always being made", times(repair, REPAIRS))


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description="What the running agent costs and how fast it is.")
    parser.add_argument(
        "--idle", type=float, default=60.0, metavar="SECONDS", help="how long to leave it alone; 0: scrapes only"
    )
    parser.add_argument("--vips", type=int, nargs="+", default=[10, 10_000], metavar="N", help="with how many VIPs")
    options = parser.parse_args()
    for count in options.vips:
        if options.idle:
            bench(count, options.idle)
        full(count)


if __name__ == "__main__":
    main()
