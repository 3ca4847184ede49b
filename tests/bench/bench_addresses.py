"""
What hand-packed netlink saves: ratios, measured in one run in a network namespace of its own. Not part of the tests.

::

    python -m tests.bench.bench_addresses [how many VIPs]

Times are of the processor, children and kernel included: on a busy machine the clock on the wall says nothing. They
depend on the machine; the ratios and the counts of messages do not, much.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

from dsr_agent.kernel.host import Host
from dsr_agent.state.actions import AddAddress
from dsr_agent.state.marks import ADDRESS_PROTO
from dsr_agent.state.model import EVERYTHING, Address, Scope
from dsr_agent.state.why import Why
from tests.netns.space import namespace, sh

ROUNDS = 5


def vips(count: int) -> list[Address]:
    """So many VIPs."""
    return [Address("lo", IPv4Address(0x0A400000 + n), 32, 254, ADDRESS_PROTO, "lo:dsr") for n in range(count)]


async def ours(count: int) -> None:
    """`Host.apply`, as the agent does it."""
    async with Host() as host:
        await host.observe(Scope(host=True))
        await host.apply([AddAddress(vip, Why.MISSING) for vip in vips(count)])


async def ip_batch(count: int) -> None:
    """``ip -batch``, starting ``ip`` included."""
    lines = "".join(f"addr add {vip.ip}/32 dev lo\n" for vip in vips(count))
    await asyncio.to_thread(subprocess.run, ["ip", "-batch", "-"], input=lines, text=True, check=True)


async def pyroute2_one_by_one(count: int) -> None:
    """`AsyncIPRoute.addr`, one request after the other."""
    from pyroute2 import AsyncIPRoute

    route = AsyncIPRoute()
    await route.setup_endpoint()
    try:
        for vip in vips(count):
            await route.addr("add", index=1, address=str(vip.ip), prefixlen=32)
    finally:
        route.close()


async def our_dump(count: int) -> None:
    """`Host.observe`, everything."""
    async with Host() as host:
        found = await host.observe(EVERYTHING)
    assert len(found.addresses) >= count


async def pyroute2_dump(count: int) -> None:
    """`AsyncIPRoute.get_addr`."""
    from pyroute2 import AsyncIPRoute

    route = AsyncIPRoute()
    await route.setup_endpoint()
    try:
        found = [message async for message in await route.get_addr()]
    finally:
        route.close()
    assert len(found) >= count


async def ip_dump(count: int) -> None:
    """``ip addr``, starting ``ip`` included."""
    assert sh("ip -o addr").count("\n") >= count


def processor_seconds() -> float:
    """What this process and its children have used, kernel included."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def best(work: Callable[[int], Awaitable[None]], count: int, *, filled: bool) -> float:
    """The best time of a few, each in a fresh namespace, *filled* with the VIPs beforehand or not."""
    times = []
    for _ in range(ROUNDS):
        with namespace():
            if filled:
                asyncio.run(ours(count))

            async def timed() -> float:
                start = processor_seconds()
                await work(count)
                return processor_seconds() - start

            times.append(asyncio.run(timed()))
    return min(times)


async def repair(count: int) -> int:
    """The netlink messages from a deleted VIP to the proof that it is back."""
    async with Host() as host:
        await host.observe(EVERYTHING)
        await host.apply([AddAddress(vip, Why.MISSING) for vip in vips(count)])
        await host.observe(EVERYTHING)
        vip = vips(count)[count // 2]
        sh(f"ip addr del {vip.ip}/32 dev lo")
        before = host.messages_sent
        scope = Scope(addresses=frozenset({vip.key}))
        while vip.key in (await host.observe(scope)).addresses:
            await host.changes()
        await host.apply([AddAddress(vip, Why.MISSING)])
        assert vip.key in (await host.observe(scope)).addresses
        return host.messages_sent - before


def table(title: str, rows: dict[str, float]) -> None:
    """Times, and how many times the first one each is."""
    print(f"\n{title}")
    first = next(iter(rows.values()))
    for name, seconds in rows.items():
        print(f"  {name:<24} {seconds * 1000:9.1f} ms  {seconds / first:6.1f} x")


def main() -> None:
    """All of it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    asyncio.run(pyroute2_imported())
    adders = {"dsr-agent": ours, "ip -batch": ip_batch, "pyroute2 one by one": pyroute2_one_by_one}
    table(f"add {count} VIPs", {name: best(work, count, filled=False) for name, work in adders.items()})
    readers = {"dsr-agent": our_dump, "ip addr": ip_dump, "pyroute2": pyroute2_dump}
    table(f"read back {count} VIPs", {name: best(work, count, filled=True) for name, work in readers.items()})
    for some in (10, count, 10 * count):
        with namespace():
            print(f"\none VIP deleted among {some}: {asyncio.run(repair(some))} netlink message(s) to repair it")


async def pyroute2_imported() -> None:
    """Importing it is not what is measured."""
    import pyroute2

    assert pyroute2


if __name__ == "__main__":
    main()
