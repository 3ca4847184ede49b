"""
Which way an answer from a VIP would take, the routing rules and VRFs that decide about it, and who is not there.

The kernel itself is asked for the route, with the VIP as the source, as it would be for an answer; rules that ask for
a mark, a user or a port are not met by the question, as little as by an answer without.

Sources: ``net/ipv4/route.c`` (inet_rtm_getroute), ``net/core/fib_rules.c``, ``include/uapi/linux/fib_rules.h``.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from dsr_agent.kernel.links import name_of
from dsr_agent.kernel.netlink import (
    RTM_GETNEIGH,
    RTM_GETROUTE,
    RTM_GETRULE,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    Channel,
    attribute,
    attributes,
    number,
)
from dsr_agent.state.model import Ip, Network

_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst length, src length, tos, table, protocol, scope, type, flags
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTA_TABLE, _RTAX_MTU = 1, 2, 4, 5, 8, 15, 2
_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK = 1, 2, 3, 6, 10
_FRA_TABLE, _FRA_OIFNAME, _FRA_L3MDEV, _FRA_UID_RANGE, _FRA_IP_PROTO, _FRA_SPORT, _FRA_DPORT = (
    15,
    17,
    19,
    20,
    22,
    23,
    24,
)
_NDMSG = struct.Struct("=BxxxiHBB")  # family, link, state, flags, type
_NDA_DST, _NUD_INCOMPLETE, _NUD_FAILED = 1, 0x01, 0x20
_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_KINDS = {1: "unicast", 2: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_ORDINARY = {255: "local", 254: "main", 253: "default"}
_INVERTED = 2  # FIB_RULE_INVERT


@dataclass(frozen=True, slots=True)
class Route:
    """The route that a packet would take: by *link*, or *refused* with the reason. *mtu* where one was learnt."""

    link: str = ""
    gateway: Ip | None = None
    table: int = 0
    kind: str = "unicast"
    mtu: int | None = None
    refused: str = ""

    @property
    def leads_out(self) -> bool:
        """Whether a packet would leave this host."""
        return not self.refused and self.kind == "unicast"

    def __str__(self) -> str:
        if self.refused:
            return f"no way ({self.refused})"
        if self.kind != "unicast":
            return f"a route of type {self.kind}"
        return f"by {self.link}" + (f" via {self.gateway}" if self.gateway else "")


@dataclass(frozen=True, slots=True)
class Rule:
    """A routing rule. *also*: it asks for more than addresses (a mark, a user, a port, …), in words."""

    version: int
    priority: int
    action: str
    table: int
    source: Network | None = None
    destination: Network | None = None
    iif: str = ""
    oif: str = ""
    also: tuple[str, ...] = ()
    inverted: bool = False

    @property
    def ordinary(self) -> bool:
        """One of the three that every host has, or a VRF's."""
        return (self.action == "lookup" and self.table in _ORDINARY and not self.iif) or "l3mdev" in self.also

    def concerns(self, source: Ip, destination: Ip, iif: str) -> bool:
        """Whether it is about such packets: *iif* is the link they come in by, ``lo`` for this host's own."""
        if source.version != self.version or self.iif not in ("", iif):
            return False
        from_ = self.source is None or source in self.source
        to = self.destination is None or destination in self.destination
        return (from_ and to) is not self.inverted

    @property
    def removal(self) -> str:
        """The command that takes it away."""
        return f"ip {'-6 ' * (self.version == 6)}rule del pref {self.priority}"

    def __str__(self) -> str:
        words = [f"rule {self.priority}:", *(["not"] if self.inverted else []), f"from {self.source or 'all'}"]
        words += [f"to {self.destination}"] * (self.destination is not None)
        words += [f"{name} {value}" for name, value in (("iif", self.iif), ("oif", self.oif)) if value]
        words += [*self.also]
        words.append(f"lookup {_ORDINARY.get(self.table, self.table)}" if self.action == "lookup" else self.action)
        return " ".join(words)


def way(channel: Channel, source: Ip | None, destination: Ip, vrf: str = "") -> Route:
    """How a packet from *source* (None: whichever the kernel would choose) to *destination* would go in *vrf*."""
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    width = destination.max_prefixlen
    body = _RTMSG.pack(family, width, width if source else 0, 0, 0, 0, 0, 0, 0) + attribute(
        _RTA_DST, destination.packed
    )
    if source:
        body += attribute(_RTA_SRC, source.packed)
    try:
        if vrf:  # as if it were sent by the VRF's own link
            body += attribute(_RTA_OIF, struct.pack("=I", socket.if_nametoindex(vrf)))
        answer = channel.ask(RTM_GETROUTE, body)
    except OSError as error:
        return Route(refused=os.strerror(error.errno or 0))
    if answer.type != RTM_NEWROUTE or len(answer.body) < _RTMSG.size:
        return Route(refused="no answer")
    return _way(answer.body)


def _way(body: bytes) -> Route:
    found = dict(attributes(body, _RTMSG.size))
    kind = _KINDS.get(body[7], f"type {body[7]}")
    metrics = dict(attributes(found.get(_RTA_METRICS, b""), 0))
    gateway = found.get(_RTA_GATEWAY)
    return Route(
        link=name_of(number(found[_RTA_OIF])) if _RTA_OIF in found else "",
        gateway=ip_address(gateway) if gateway else None,
        table=number(found[_RTA_TABLE]) if _RTA_TABLE in found else body[4],
        kind=kind,
        mtu=number(metrics[_RTAX_MTU]) if _RTAX_MTU in metrics else None,
    )


def rules(channel: Channel) -> tuple[Rule, ...]:
    """All routing rules, in the order in which they are asked; none where the kernel has no such thing."""
    found: list[Rule] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            answers = channel.dump(RTM_GETRULE, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        except OSError:
            continue  # a kernel without policy routing, or without IPv6
        found += [rule(message.body) for message in answers if message.type == RTM_NEWRULE]
    return tuple(sorted(found, key=lambda each: (each.version, each.priority)))


def rule(body: bytes) -> Rule:
    """Read one message."""
    family, to_length, from_length, tos, table, _, _, action, flags = _RTMSG.unpack_from(body)
    found = dict(attributes(body, _RTMSG.size))

    def network(kind: int, length: int) -> Network | None:
        return ip_network((found[kind], length), strict=False) if kind in found and length else None

    def text(kind: int) -> str:
        return found.get(kind, b"").rstrip(b"\0").decode("utf-8", "replace")

    return Rule(
        version=4 if family == socket.AF_INET else 6,
        priority=number(found.get(_FRA_PRIORITY, b"")),
        action=_ACTIONS.get(action, f"action {action}"),
        table=number(found[_FRA_TABLE]) if _FRA_TABLE in found else table,
        source=network(_FRA_SRC, from_length),
        destination=network(_FRA_DST, to_length),
        iif=text(_FRA_IIFNAME),
        oif=text(_FRA_OIFNAME),
        also=tuple(_also(found, tos)),
        inverted=bool(flags & _INVERTED),
    )


def _also(found: Mapping[int, bytes], tos: int) -> Iterator[str]:
    if tos:
        yield f"tos {tos:#x}"
    if number(found.get(_FRA_FWMARK, b"")):
        yield f"fwmark {number(found[_FRA_FWMARK]):#x}"
    if any(found.get(_FRA_L3MDEV, b"")):
        yield "l3mdev"
    names = ((_FRA_UID_RANGE, "a user"), (_FRA_IP_PROTO, "a protocol"), (_FRA_SPORT, "a port"), (_FRA_DPORT, "a port"))
    yield from (name for kind, name in names if kind in found)


class Neighbour(NamedTuple):
    """An address that is looked for on a link."""

    link: str
    ip: Ip


def silent(channel: Channel) -> frozenset[Neighbour]:
    """The neighbours that somebody wants to send to, and that have not said where they are."""
    found = set()
    for message in channel.dump(RTM_GETNEIGH, _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        if message.type != RTM_NEWNEIGH:
            continue
        _, index, state, _, _ = _NDMSG.unpack_from(message.body)
        address = dict(attributes(message.body, _NDMSG.size)).get(_NDA_DST)
        if state & (_NUD_INCOMPLETE | _NUD_FAILED) and address:
            found.add(Neighbour(name_of(index), ip_address(address)))
    return frozenset(found)
