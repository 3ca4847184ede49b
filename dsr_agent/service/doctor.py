"""
Gathers what the doctor goes by: two looks at all counters, and between them the self-test and what arrives.

Nothing of this host is changed, but that for some seconds packets are followed through its firewalls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from dsr_agent.config import Loaded
from dsr_agent.kernel import policy, stats
from dsr_agent.kernel.capture import Capture, Captured
from dsr_agent.kernel.capture_filter import Sought
from dsr_agent.kernel.guard_counts import GuardCounts
from dsr_agent.kernel.namespaces import Elsewhere, listening
from dsr_agent.kernel.netlink import Channel
from dsr_agent.kernel.port import Kernel
from dsr_agent.kernel.sockets import SocketTable
from dsr_agent.kernel.sysctl_files import settings_of
from dsr_agent.kernel.trace import ForeignDrop, foreign_chains, foreign_drops
from dsr_agent.reconcile.loop import plan_now
from dsr_agent.reconcile.protection import told_mss
from dsr_agent.reconcile.resolve import Wanted, resolve
from dsr_agent.service import selftest
from dsr_agent.service.instance import running
from dsr_agent.service.listeners import look_once
from dsr_agent.service.other_firewalls import requests
from dsr_agent.service.web import client
from dsr_agent.service.web.sockets import default_socket
from dsr_agent.state.actions import Plan
from dsr_agent.state.errors import DsrError, NotPermitted
from dsr_agent.state.model import AddressKey, Desired, Ip, Observed
from dsr_agent.state.outer import GUE_PORT
from dsr_agent.state.ports import PortKey
from dsr_agent.state.probe import Sight
from dsr_agent.truth.doctor.evidence import Counters, Evidence, Word
from dsr_agent.truth.listeners import Verdict
from dsr_agent.truth.probe import Pair, clients

_TRIED = 64  # VIPs; of 10,000 behind the same tunnels, these say it for the others
_ASKED_ABOUT = 3  # clients of each VIP
_LOOKS, _BETWEEN = 10, 0.1  # seconds; whoever undoes something over and over has done it again by then
_ROOT = Path("/")


async def look(kernel: Kernel, desired: Desired, fights: Collection[str]) -> tuple[Plan, Observed]:
    """
    What is to be done here, and what there is: while what the agent is in *fights* about (its keys) is undone.

    Between a repair and the next time that it is undone all looks well, and the cause would be sought elsewhere. If it
    is not seen undone within `_LOOKS` looks, the one counts that saw most of it.
    """
    todo, observed = await plan_now(kernel, desired)
    fewest = _unseen(fights, todo)
    for _ in range(_LOOKS):
        if not fewest:
            break
        await asyncio.sleep(_BETWEEN)
        again = await plan_now(kernel, desired)
        if (unseen := _unseen(fights, again[0])) < fewest:
            (todo, observed), fewest = again, unseen
    return todo, observed


def _unseen(fights: Collection[str], todo: Plan) -> int:
    return len(set(fights) - {str(action.key) for action in todo.actions})


async def examine(
    loaded: Loaded, todo: Plan, observed: Observed, named: Collection[AddressKey], seconds: float
) -> Evidence:
    """Look for *seconds* (and for as long as the self-test takes) at what concerns the VIPs *named*."""
    desired = loaded.desired
    wanted = resolve(desired, observed)
    ways = selftest.ways(wanted, selftest.taken(desired, observed))
    evidence = Evidence(
        desired,
        observed,
        todo,
        ways=ways,
        marked_at=wanted.bare.marked_at,
        named=tuple(named),
        listening=look_once(desired, observed),
    )
    links = [way.link.name for way in ways.values()]
    with contextlib.closing(Channel()) as channel:
        before = _counters(channel, links, observed)
        silent = policy.silent(channel)
        begun = time.monotonic()
        evidence = await _look_on(loaded, evidence, seconds)
        after = _counters(channel, links, observed)
        evidence = replace(evidence, before=before, after=after, seconds=time.monotonic() - begun)
        evidence = replace(_asked(channel, evidence), silent=silent & policy.silent(channel))
    return replace(
        evidence,
        told_mss=dict(told_mss(desired, wanted, observed)) if _tells(desired, wanted) else {},
        agent=await asyncio.to_thread(_agent, loaded),  # one that has just started serves HTTP by now
        elsewhere=await asyncio.to_thread(_elsewhere, evidence),
        squatters=await asyncio.to_thread(_squatters, evidence),
        sysctl_files={path: settings_of(_ROOT, path) for path in _reverse_paths(links)},
    )


def _tells(desired: Desired, wanted: Wanted) -> bool:
    return desired.guard is not None and bool(wanted.carried or wanted.waiting)


def _reverse_paths(links: Iterable[str]) -> list[str]:
    return [f"net/ipv4/conf/{link}/rp_filter" for link in links]


def _agent(loaded: Loaded) -> Word:
    """The running agent's word; its socket is for root and for its own user and group."""
    pid = running()
    says = client.status(loaded.settings.http.socket or default_socket(os.environ), pid)
    return Word(pid, says, may_ask=os.geteuid() == 0)


def _counters(channel: Channel, links: Iterable[str], observed: Observed) -> Counters:
    received = {name: each.received for name, each in stats.read(channel, links).items()}
    guard = None
    if observed.guard.table is not None:
        with contextlib.closing(GuardCounts()) as counts:
            guard = counts.read()
    return Counters(stats.everything(_ROOT), received, guard)


# --- what happens meanwhile -------------------------------------------------------------------------------------------


async def _look_on(loaded: Loaded, evidence: Evidence, seconds: float) -> Evidence:
    """Look at what arrives and who drops it, while the self-test is under way."""
    until = time.monotonic() + seconds
    captured: asyncio.Task[Captured] | None = None
    uncaptured = ""
    try:
        capture = Capture(_sought(evidence))
    except DsrError as error:
        uncaptured = str(error)
    else:
        captured = asyncio.create_task(asyncio.to_thread(capture.watch, until))
    following = asyncio.Event()
    drops = asyncio.create_task(_drops(evidence, seconds, following))
    await following.wait()
    sights, untested = await _tested(loaded, evidence)
    if captured:
        found: Captured | None = await captured
        capture.close()
    else:
        found = None
        await asyncio.sleep(max(until - time.monotonic(), 0))
    return replace(evidence, sights=sights, untested=untested, captured=found, uncaptured=uncaptured, drops=await drops)


def _sought(evidence: Evidence) -> Sought:
    """What is worth a look. Balancers that nobody declared send in UDP to where a tunnel's port is, or mostly is."""
    services = [service for vip in evidence.vips for service in vip.services]
    over = {tunnel.name for tunnel in evidence.tunnels if tunnel.encapsulation == "l2"}
    return Sought(
        senders=tuple(network for tunnel in evidence.tunnels for network in tunnel.load_balancers),
        doors=tuple({GUE_PORT, *_ports(evidence)}),
        marked_at=tuple(ip for ips in evidence.marked_at.values() for ip in ips),
        plain=tuple(vip.ip for vip in evidence.vips if not over.isdisjoint(vip.tunnels)),
        answered_from=tuple({int(each.partition("/")[2]) for each in services if each.startswith("udp/")}),
    )


def _ports(evidence: Evidence) -> set[int]:
    return {tunnel.port for tunnel in evidence.tunnels if tunnel.port is not None}


async def _tested(loaded: Loaded, evidence: Evidence) -> tuple[Mapping[Pair, Sight], str]:
    """The self-test of some VIPs, and why there is none."""
    keys = evidence.named
    some = keys if len(keys) <= _TRIED else [keys[len(keys) * place // _TRIED] for place in range(_TRIED)]
    if not some:
        return {}, "there is no VIP"
    try:
        return await selftest.with_care(loaded, evidence.observed, [key.ip for key in some]), ""
    except NotPermitted as error:
        return {}, str(error)


async def _drops(evidence: Evidence, seconds: float, following: asyncio.Event) -> tuple[ForeignDrop, ...] | None:
    """What other firewalls drop; None where it cannot be seen. *following* is set once packets may be sent."""
    loop = asyncio.get_running_loop()

    def started() -> None:
        loop.call_soon_threadsafe(following.set)

    try:
        if evidence.observed.guard.unavailable:
            return None
        if not await asyncio.to_thread(foreign_chains):
            return ()
        sought = requests(evidence.desired)
        _, drops = await asyncio.to_thread(foreign_drops, seconds, sought, early=True, started=started)
    except OSError:
        return None
    finally:
        following.set()
    return tuple(drops)


# --- what is asked afterwards -----------------------------------------------------------------------------------------


def _asked(channel: Channel, evidence: Evidence) -> Evidence:
    """Which way answers would go: to the clients that were seen, or else to where the self-test said it was from."""
    ways: dict[Ip, dict[Ip, policy.Route]] = {}
    ordinary: dict[Ip, policy.Route] = {}
    someone = clients(selftest.taken(evidence.desired, evidence.observed))
    for vip in evidence.vips:
        seen = {packet.inner.source: None for packet in evidence.sent_to.get(vip.ip, ()) if packet.inner}
        asked = list(seen)[:_ASKED_ABOUT] or [ip for ip in [someone.get(vip.ip.version)] if ip]
        for ip in asked:
            ways.setdefault(vip.ip, {})[ip] = policy.way(channel, vip.ip, ip, vip.vrf)
            if ip not in ordinary:
                ordinary[ip] = policy.way(channel, None, ip, vip.vrf)
    balancers = {
        network.network_address: tunnel.vrf
        for tunnel in evidence.tunnels
        for network in tunnel.load_balancers
        if network.prefixlen == network.max_prefixlen
    }
    return replace(
        evidence,
        answers=ways,
        ordinary=ordinary,
        to_balancers={ip: policy.way(channel, None, ip, vrf) for ip, vrf in balancers.items()},
        rules=policy.rules(channel),
    )


def _squatters(evidence: Evidence) -> Mapping[PortKey, str]:
    """Sockets that have the UDP ports at which the kernel should take packets out of UDP, and does not."""
    ports = {way.port for way in evidence.ways.values() if way.port}
    closed = [port for port in ports if not any(there.serves(port) for there in evidence.observed.ports)]
    if not closed:
        return {}
    try:
        with contextlib.closing(SocketTable()) as table:
            sockets = table.read(["udp"], {port.number for port in closed}, ipv4=True)
    except OSError:
        return {}
    return {
        port: str(each)
        for port in closed
        for each in sockets
        if each.port == port.number and port.local and each.takes(port.local)
    }


def _elsewhere(evidence: Evidence) -> Mapping[str, Elsewhere]:
    lacking = {service.name for service, found in evidence.listening.items() if found.verdict is Verdict.NOBODY}
    return listening(lacking, _ROOT) if lacking else {}
