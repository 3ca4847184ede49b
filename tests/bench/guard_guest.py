"""
The part of the benchmark of the guard that runs in the machine: two namespaces, a tunnel, and counting.

The sender hands 64 packets to the kernel in one call, and one processor does all that follows, down to the socket of
the receiver. What the call takes, less what it takes when the receiver drops everything at the very entrance, is what
receiving costs.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from tests.bench.guard_cases import (
    BALANCER,
    BARE,
    CLIENT,
    GUARDED,
    KINDS,
    LOCAL,
    PORTS,
    REFUSED,
    STRANGER,
    Case,
    Traffic,
    World,
    cases,
    kinds,
)
from tests.bench.guard_rules import GROUP
from tests.bench.guard_wire import CODE, PORT, Flow, Sender, addresses, inner, wrapped
from tests.lab.spaces import inside, ip, ip_batch, run, udp_socket

FLOWS = 64
BATCHES = 61  # of one packet of each flow: short enough that most see no tick of the kernel's clock
WARM = 5
LOOPS = 1_000_000
SENDER_ONLY = """table netdev nothing {
	chain drops {
		type filter hook ingress device "e0" priority 0
		drop
	}
}
"""


@dataclass(frozen=True)
class Count:
    """Instructions for each packet: of everything, and of what the receiver does; and how many packets came through."""

    total: float
    receive: float
    delivered: int
    sent: int


@dataclass(frozen=True)
class Row:
    """One line of the table; *ratio* is to the same world without a guard."""

    world: str
    what: str
    receive: int
    ratio: float
    delivered: bool
    inner: int


def calibrate() -> None:
    """Refuse to count where the clock does not count instructions: run a known number of them."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(bytes.fromhex("4889f948ffc975fbc3"))  # mov rcx, rdi; again: dec rcx; jnz again; ret
        start_of = ctypes.c_char.from_buffer(code)
        spin = ctypes.CFUNCTYPE(None, ctypes.c_uint64)(ctypes.addressof(start_of))
        start = clock()
        spin(LOOPS)
        took = clock() - start
        del start_of
    if not 0.98 < took / (2 * LOOPS) < 1.05:
        sys.exit(f"{2 * LOOPS} instructions took {took} ns here: this machine does not count them")


def clock() -> int:
    """In the counting machine, how many instructions have been executed."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def flows(world: World, traffic: Traffic) -> list[Flow]:
    """Different packets, spread over balancers, clients and VIPs."""
    vips, clients = world.vip_addresses, addresses(CLIENT[world.inner], FLOWS)
    balancers = addresses(BALANCER[world.outer], traffic.balancers)
    step = max(1, len(vips) // FLOWS)
    return [
        Flow(
            STRANGER[world.outer] if traffic.wrong == "balancer" else balancers[n % len(balancers)],
            LOCAL[world.outer],
            vips[0] if traffic.wrong == "client" else clients[n],
            LOCAL[world.inner] if traffic.wrong == "vip" else vips[n * step % len(vips)],
            40000 + n,
        )
        for n in range(FLOWS)
    ]


def packets(world: World, traffic: Traffic) -> list[bytes]:
    """One batch."""
    key = world.key
    if key is not None and traffic.wrong == "key":
        key += 1
    made = []
    for flow in flows(world, traffic):
        packet = inner(flow, CODE if world.kind == "dscp" else 0)
        if traffic.wrong == "nested":
            packet = wrapped(packet, flow, world.kind, key, checksum=world.checksum)
        made.append(wrapped(packet, flow, world.kind, key, checksum=world.checksum))
    return made


@contextmanager
def built(world: World) -> Iterator[str]:
    """The two namespaces; gives the address of the receiver's network card."""
    for space in ("lb", "rs"):
        run("ip", "netns", "add", space)
        ip(space, "link set lo up")
    try:
        ip("lb", "link add e0 type veth peer name e0 netns rs")
        with inside("rs"):
            for name in ("all", "default", "e0"):
                Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
        ip("rs", "addr add 10.0.3.2/24 dev e0")
        ip("rs", "addr add fd00:3::2/64 dev e0 nodad")
        ip("rs", "link set e0 up")
        ip("lb", "link set e0 up")
        ip("rs", "route add default via 10.0.3.1")
        ip("rs", "-6 route add default via fd00:3::1")
        if world.kind not in ("plain", "dscp"):
            key = " icsum" * world.checksum + ("" if world.key is None else f" ikey {world.key}")
            kind = {"gue": "sit", "fou": "sit"}.get(world.kind, world.kind)
            kind = kind if world.outer == 4 else {"gre": "ip6gre"}.get(kind, "ip6tnl")
            mode = " mode any" if kind in ("sit", "ip6tnl") else ""
            ip("rs", f"link add dsr0 group {GROUP} type {kind} local {LOCAL[world.outer]}{mode}{key}")
            ip("rs", "link set dsr0 up")
            if port := PORTS.get(world.kind):  # the product's ports take what comes as either
                run("modprobe", "-a", "fou", "fou6")
                ip("rs", f"{'-6 ' if world.outer == 6 else ''}fou add port {port} gue local {LOCAL[world.outer]}")
        bits = 32 if world.inner == 4 else "128 nodad"
        ip_batch("rs", (f"addr add {vip}/{bits} dev lo" for vip in world.vip_addresses))
        yield json.loads(ip("rs", "-j link show e0"))[0]["address"]
    finally:
        for space in ("lb", "rs"):
            run("ip", "netns", "del", space)


class Bench:
    """Counts in one world."""

    def __init__(self, world: World, mac: str) -> None:
        self.world = world
        self._mac = mac
        self._server = udp_socket("rs", socket.AF_INET if world.inner == 4 else socket.AF_INET6)
        self._server.bind(("", PORT))
        self._server.setblocking(False)
        self._senders: dict[Traffic, Sender] = {}
        self._sending = 0.0
        self.load(SENDER_ONLY)
        self._sending = self.count(Traffic()).total
        self.unload()
        self.bare = self.under(world.always, Traffic()).receive

    def load(self, ruleset: str) -> None:
        """Give the receiver these rules."""
        with inside("rs"):
            run("nft", *(["-j"] if ruleset.startswith("{") else []), "-f", "-", given=ruleset)

    def unload(self) -> None:
        """Take all rules away and let the kernel finish doing so, which it does a moment later."""
        with inside("rs"):
            run("nft", "flush", "ruleset")
        time.sleep(0.3)

    def count(self, traffic: Traffic) -> Count:
        """The middle one of some batches."""
        if traffic not in self._senders:
            self._senders[traffic] = Sender("lb", "e0", self._mac, packets(self.world, traffic))
        send, found, delivered = self._senders[traffic].send, [], 0
        gc.disable()
        for _ in range(WARM + BATCHES):
            start = clock()
            send()
            found.append(clock() - start)
            delivered += self._drain()
        gc.enable()
        total = statistics.median(found[WARM:]) / FLOWS
        return Count(total, total - self._sending, delivered, (WARM + BATCHES) * FLOWS)

    def _drain(self) -> int:
        count = 0
        while True:
            try:
                self._server.recv(64)
            except BlockingIOError:
                return count
            count += 1

    def under(self, ruleset: str, traffic: Traffic) -> Count:
        """With these rules, which are taken away again."""
        if not ruleset:
            return self.count(traffic)
        self.load(ruleset)
        try:
            return self.count(traffic)
        finally:
            self.unload()

    def close(self) -> None:
        """Give the sockets back."""
        self._server.close()
        for sender in self._senders.values():
            sender.close()


def measure(world: World, rows: Sequence[Case]) -> Iterator[Row]:
    """All cases of one world, which is built once."""
    with built(world) as mac:
        bench = Bench(world, mac)
        for case in rows:
            found = bench.under(case.rules or world.always, case.traffic)
            if 0 < found.delivered < found.sent:
                raise RuntimeError(f"{world}, {case.what}: {found.delivered} of {found.sent} packets came through")
            ratio = round(found.receive / bench.bare, 3)
            yield Row(world.name, case.what, round(found.receive), ratio, found.delivered > 0, world.inner)
        bench.close()


def by_kind(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each kind, as the README has them."""
    plain = {row.inner: row.receive for row in rows if row.world.startswith("no tunnel") and row.what == BARE}
    for world, group in groupby(rows, key=lambda row: row.world):
        found = {row.what: row for row in group}
        bare, guarded, stranger = (found.get(name) for name in (BARE, GUARDED, REFUSED))
        assert bare
        cells = [f"{bare.receive:,}", f"{bare.receive / plain[bare.inner]:.2f}"]
        cells += [f"{guarded.receive:,} ({guarded.receive / bare.receive:.2f} times)" if guarded else ""]
        cells += [f"{stranger.receive:,} ({stranger.ratio:.2f})" if stranger else ""]
        yield f"| {world} | {' | '.join(cells)} |"


def main() -> None:
    """Print a line for each case as it is counted, and leave all of them in ``out/guard.json``."""
    quiet, only, *files = sys.argv[1:]
    calibrate()
    given = {Path(name).name: Path(name).read_text() for name in files}
    wanted = kinds() if only == KINDS else [case for case in cases(given) if only in case.world.name]
    if not wanted:
        sys.exit(f"no world is called {only!r}")
    found = []
    for world, rows in groupby(wanted, key=lambda case: case.world):
        for row in measure(world, list(rows)):
            found.append(row)
            if not quiet:
                came = "" if row.delivered else "   (dropped)"
                print(f"{row.world:<36} {row.what:<46} {row.receive:>6} {row.ratio:>7.3f}{came}", flush=True)
    if only == KINDS and not quiet:
        print("\n" + "\n".join(by_kind(found)), flush=True)
    Path("out/guard.json").write_text(json.dumps([asdict(row) for row in found], indent=1))


if __name__ == "__main__":
    main()
