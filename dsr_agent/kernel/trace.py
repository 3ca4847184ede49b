"""
Who else drops what the guard lets in: the packet filter itself is asked, for a few packets of the real traffic.

A table of its own (``dsr_agent_trace``) marks some packets for tracing while somebody listens; the kernel then tells
each rule they meet and the verdict of it, in every table, whoever made it. Nothing is looked into but what it says.

Source: ``include/uapi/linux/netfilter/nf_tables.h`` (enum nft_trace_attributes), ``net/netfilter/nf_tables_trace.c``.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from dsr_agent.kernel.libnftables import Nftables
from dsr_agent.kernel.monitor import Monitor
from dsr_agent.kernel.netlink import Message, attributes
from dsr_agent.state.marks import LINK_GROUP
from dsr_agent.state.model import Ip
from dsr_agent.state.table import FAMILY, NAME

_TABLE = f"{NAME}_trace"
_NETLINK_NETFILTER, _NFNLGRP_NFTRACE = 12, 9
_SUBSYSTEM_NFTABLES, _TRACE = 10, 17
_RECEIVE_BUFFER = 1 << 20
_A_DROP = 4096  # datagrams that are taken at most at once

_TABLE_NAME, _CHAIN, _RULE, _TYPE, _VERDICT, _ID, _NETWORK, _POLICY = 1, 2, 3, 4, 5, 6, 8, 16
_BY_POLICY, _BY_RULE = 1, 3
_VERDICT_CODE, _NF_DROP = 1, 0
_FAMILIES = {1: "inet", 2: "ip", 5: "netdev", 10: "ip6"}

# Where packets are marked. Just before the guard looks, its own verdict is told first: what it refuses is its business.
_BEFORE_THE_GUARD, _BEFORE_ALL = -311, -10_000


@dataclass(frozen=True, slots=True)
class Requests:
    """By what requests are known as they come: UDP *ports* of tunnels, code points (DSCP), VIPs sent to as they are."""

    ports: frozenset[int] = frozenset()
    codes: frozenset[int] = frozenset()
    plain: tuple[Ip, ...] = ()

    def conditions(self) -> Iterator[str]:
        """As nftables asks for them, beside what is wrapped in IP alone."""
        if self.ports:
            yield f"udp dport {_listed(self.ports)}"
        if self.codes:
            yield from (f"{family} dscp {_listed(self.codes)}" for family in _FAMILY.values())
        for version, family in _FAMILY.items():
            if some := [ip for ip in self.plain if ip.version == version][:_VIPS_AT_MOST]:
                yield f"{family} daddr {_listed(some)}"


_FAMILY = {4: "ip", 6: "ip6"}
_VIPS_AT_MOST = 200  # of thousands, so many tell enough


def _listed(values: Iterable[object]) -> str:
    return f"{{ {', '.join(sorted(map(str, values)))} }}"


def _marking(table: str, priority: int, requests: Requests) -> str:
    """Owned, so that the kernel takes it away should this process die meanwhile."""
    marked = "limit rate 20/second burst 20 packets meta nftrace set 1"
    more = "\n        ".join(f"{condition} {marked}" for condition in requests.conditions())
    return f"""
add table {FAMILY} {table}
delete table {FAMILY} {table}
table {FAMILY} {table} {{
    flags owner;
    chain marking {{
        type filter hook prerouting priority {priority}; policy accept;
        meta iifgroup {LINK_GROUP} {marked}
        meta l4proto {{ 4, 41, 47 }} {marked}
        {more}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class ForeignDrop:
    """A chain of somebody else that drops packets the guard has let in; *packet* is an example."""

    family: str
    table: str
    chain: str
    how: str
    packet: str
    source: str = ""
    target: str = ""

    @property
    def where(self) -> str:
        """Chain and rule, the packet left away."""
        return f"chain {self.chain} of table {self.family} {self.table} ({self.how})"

    def __str__(self) -> str:
        return f"{self.where} drops {self.packet}"


def foreign_chains() -> bool:
    """Whether there is a chain of anybody else that could drop arriving packets. Raises `OSError`."""
    nftables = Nftables()
    try:
        objects, _ = nftables.listing("list chains")
    finally:
        nftables.close()
    return any(_may_drop(found["chain"]) for found in objects if "chain" in found)


def _may_drop(chain: dict[str, Any]) -> bool:
    return chain.get("hook") in ("prerouting", "input", "ingress") and not chain["table"].startswith(NAME)


_IN_IP_ALONE = Requests()


def foreign_drops(
    seconds: float,
    requests: Requests = _IN_IP_ALONE,
    *,
    early: bool = False,
    started: Callable[[], object] = lambda: None,
    ended: int = -1,
) -> tuple[int, list[ForeignDrop]]:
    """
    Watch for at most *seconds*: how many packets were seen that the guard had let in, and who dropped some of them.

    They are those that come in wrapped, as one of the *requests*, and those that come out of tunnels.

    Ends sooner when enough was seen. *early*: also who dropped some before the guard was asked, of strangers, too, and
    never sooner. *started* is called once packets are followed. Blocks, at most until there is something to read from
    the file descriptor *ended*; raises `OSError` where nothing can be traced.
    """
    # One of its own, because the agent may follow packets at the same time.
    table, priority = (f"{_TABLE}_early", _BEFORE_ALL) if early else (_TABLE, _BEFORE_THE_GUARD)
    nftables = Nftables()
    listening = Monitor(_RECEIVE_BUFFER, _NETLINK_NETFILTER, (_NFNLGRP_NFTRACE,))
    try:
        _, complaint = nftables.run(_marking(table, priority, requests))
        if complaint:
            raise OSError(complaint)
        started()
        reader = _Reader(early)
        until = time.monotonic() + seconds
        while (early or reader.seen < _ENOUGH) and (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([listening.fileno(), *([ended] if ended >= 0 else [])], [], [], left)
            reader.take(listening.drain(_A_DROP, lambda: None))
            if ended in ready:
                break
        reader.take(listening.drain(_A_DROP, lambda: None))  # a busy host may not have let us look before
        return reader.seen, list(reader.drops)
    finally:
        nftables.run(f"delete table {FAMILY} {table}")
        nftables.close()
        listening.close()


_ENOUGH = 20


class _Reader:
    """Puts together what is told of each packet."""

    def __init__(self, early: bool = False) -> None:
        self._early = early
        self._packets: dict[bytes, str] = {}
        self._ours: set[bytes] = set()
        self.drops: dict[ForeignDrop, None] = {}

    @property
    def seen(self) -> int:
        """How many packets the guard has let in."""
        return len(self._ours)

    def take(self, messages: Iterable[Message]) -> None:
        """Take what the kernel told."""
        for message in messages:
            if message.type == _SUBSYSTEM_NFTABLES << 8 | _TRACE:
                self._take(message.body[0], dict(attributes(message.body, 4)))

    def _take(self, family: int, told: dict[int, bytes]) -> None:
        trace = told.get(_ID, b"")
        if header := told.get(_NETWORK):  # as it is now: a marked packet has got its VIP meanwhile
            self._packets[trace] = _packet(header)
        table, dropped = _text(told.get(_TABLE_NAME)), _dropped(told)
        if table == NAME:
            if not dropped:
                self._ours.add(trace)
            return
        # The same packet is told under one number as it arrives and under another as it comes out of the tunnel.
        if dropped and (self._early or trace in self._ours) and not table.startswith(_TABLE):
            by_policy = int.from_bytes(told[_TYPE], "big") == _BY_POLICY
            handle = int.from_bytes(told.get(_RULE, b""), "big")
            how = "its policy" if by_policy else f"the rule with handle {handle}"
            packet = self._packets.get(trace, "packets")
            _, _, addresses = packet.partition(" from ")
            source, _, target = addresses.partition(" to ")
            name = _FAMILIES.get(family, "?")
            self.drops[ForeignDrop(name, table, _text(told.get(_CHAIN)), how, packet, source, target)] = None


def _dropped(told: dict[int, bytes]) -> bool:
    kind = int.from_bytes(told.get(_TYPE, b""), "big")
    if kind == _BY_POLICY:
        return _POLICY in told and int.from_bytes(told[_POLICY], "big") == _NF_DROP
    if kind != _BY_RULE or _VERDICT not in told:
        return False
    verdict = dict(attributes(told[_VERDICT], 0))
    return int.from_bytes(verdict.get(_VERDICT_CODE, b"\xff"), "big") == _NF_DROP


def _text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode("utf-8", "replace")


def _packet(header: bytes) -> str:
    """A packet in words: its IP protocol and its addresses."""
    if len(header) >= 20 and header[0] >> 4 == 4:
        protocol, source, destination = header[9], header[12:16], header[16:20]
    elif len(header) >= 40 and header[0] >> 4 == 6:
        protocol, source, destination = header[6], header[8:24], header[24:40]
    else:
        return "packets"
    return f"{name_of_protocol(protocol)} from {ip_address(source)} to {ip_address(destination)}"


def name_of_protocol(number: int) -> str:
    """What a packet is called that has *number* behind its IP header."""
    name = {1: "ICMP", 4: "IPIP", 6: "TCP", 17: "UDP", 41: "6in4", 47: "GRE", 58: "ICMPv6"}.get(number)
    return name or f"protocol {number}"
