"""A real server with services on its VIPs, as most tests need it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from tests.lab.eye import Eye
from tests.lab.traffic import Stream, Tally, ask_udp, echoes
from tests.lab.world import RS1, Virtual, world

IPIP, GRE, GRE6 = "192.0.2.10", "192.0.2.11", "2001:db8:f::10"
VIPS = (IPIP, GRE, GRE6)
WRAPPED = (Virtual(IPIP, "ipip"), Virtual(GRE, "gre"), Virtual(GRE6, "gre"))
PORT = 7001
SLOW = os.environ.get("DSR_LAB") == "qemu"  # an emulated processor
# Packets a second to each VIP. Under emulation each costs some 2 ms of the one processor that there is.
RATE = 30.0 if SLOW else 100.0


@contextlib.contextmanager
def real_server(virtuals: Sequence[Virtual] = WRAPPED, *, rp_filter: int = 0, home: str = "") -> Iterator[Eye]:
    """The lab's network, and a service on each of *virtuals* on the first real server; yields an eye on that."""
    addresses = [virtual.address for virtual in virtuals]
    with contextlib.ExitStack() as stack:
        stack.enter_context(world(virtuals, server_rp_filter=rp_filter, home=home))
        stack.enter_context(echoes(RS1, addresses, [PORT]))
        yield stack.enter_context(contextlib.closing(Eye(RS1)))


@contextlib.contextmanager
def streams(addresses: Sequence[str] = VIPS, rate: float = RATE) -> Iterator[list[Stream]]:
    """Traffic to all of *addresses* that is known to flow."""
    for address in addresses:
        ask_udp(address, PORT)  # the first packet makes neighbours known
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(Stream(address, PORT, rate)) for address in addresses]
        for stream in found:
            stream.wait_answered(5)
        yield found


def total(found: Sequence[Stream]) -> Tally:
    """What became of all of it, once some more has been answered."""
    for stream in found:
        stream.wait_answered(5)
    tallies = [stream.finish() for stream in found]
    return sum(tallies[1:], tallies[0])


def clean(tally: Tally) -> bool:
    """Nothing lost, nothing doubled, nothing from a wrong address."""
    return (tally.lost, tally.duplicates, tally.wrong) == (0, 0, 0)
