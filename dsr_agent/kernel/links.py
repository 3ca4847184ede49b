"""
Links: read by hand in one dump, written through pyroute2.

Sources: ``include/uapi/linux/if_link.h``, ``include/uapi/linux/if_tunnel.h``; what each kind takes in place is
measured in facts A8.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from dsr_agent.kernel.netlink import RTM_GETLINK, RTM_NEWLINK, Channel, attribute, attributes, number
from dsr_agent.state.model import Ip, Link, Outer

_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_U32 = struct.Struct("=I")

_IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_GROUP, _IFLA_EXT_MASK = (
    3,
    4,
    10,
    18,
    20,
    27,
    29,
)
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_RTEXT_FILTER_SKIP_STATS = 8

_IFF_UP, _IFF_LOOPBACK, _IFF_POINTOPOINT, _IFF_NOARP, _IFF_LOWER_UP = 0x1, 0x8, 0x10, 0x80, 0x10000

# ipip, sit and ip6tnl share one set of attributes, gre and ip6gre another.
_IPTUN_LINK, _IPTUN_LOCAL, _IPTUN_REMOTE, _IPTUN_PROTO, _IPTUN_EXTERNAL = 1, 2, 3, 9, 19
_GRE_IFLAGS, _GRE_IKEY, _GRE_LOCAL, _GRE_REMOTE, _GRE_EXTERNAL = 2, 4, 6, 7, 18

_GRE_CHECKSUM, _GRE_KEY, _GRE_SEQUENCE = 0x8000, 0x2000, 0x1000

_VRF = "vrf"
_GONE = "link "  # no link can be called so

# Any address, in the outer header of each kind.
_ANY = {"ipip": "0.0.0.0", "sit": "0.0.0.0", "gre": "0.0.0.0", "ip6tnl": "::", "ip6gre": "::"}


def read(channel: Channel) -> dict[int, Link]:
    """All links by index, in one dump."""
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += attribute(_IFLA_EXT_MASK, _U32.pack(_RTEXT_FILTER_SKIP_STATS))
    dumped = channel.dump(RTM_GETLINK, body)
    parsed = [_parse(message.body) for message in dumped if message.type == RTM_NEWLINK]
    found = {each.number: each.link for each in parsed}
    named = dict(found)
    for each in parsed:
        link = each.link
        if each.master in found:
            link = replace(link, master=found[each.master].name)
        if each.device:
            link = _bound(link, each.device, named.get(each.device))
        found[each.number] = link
    return found


class _Parsed(NamedTuple):
    """A link as one message tells it: what it belongs to and the device that it looks in are known by their numbers."""

    number: int
    master: int
    device: int
    link: Link


def look_up(channel: Channel, name: str) -> Link | None:
    """One link, if it is there."""
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
    try:
        message = channel.ask(RTM_GETLINK, body)
    except OSError:
        return None
    if message.type != RTM_NEWLINK:
        return None
    parsed = _parse(message.body)
    if parsed.device:
        return _bound(parsed.link, parsed.device, look_up(channel, name_of(parsed.device)))
    return parsed.link


def _bound(link: Link, index: int, device: Link | None) -> Link:
    """
    *link* as bound to the device of that *index*, where that decides what it takes: over IPv6 a VRF's, of ``sit`` any.

    ipip6_tunnel_lookup (net/ipv6/sit.c), ip6_tnl_rcv_ctl (net/ipv6/ip6_tunnel.c); the others prefer what arrives by it.
    """
    if link.outer and (link.kind == "sit" or (link.kind == "ip6tnl" and device and device.kind == _VRF)):
        return replace(link, outer=replace(link.outer, device=device.name if device else f"{_GONE}{index}"))
    return link


def name_of(index: int) -> str:
    """The name of the link with that *index* at this moment; one that has gone is called by its number."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"{_GONE}{index}"


def index_of(name: str) -> int:
    """The index of the link called *name* at this moment, or that of one that has gone. Raises `OSError`."""
    return int(name.removeprefix(_GONE)) if name.startswith(_GONE) else socket.if_nametoindex(name)


def parse(body: bytes) -> tuple[int, Link]:
    """Read one link message: its index and what it says, but for the name of what it belongs to."""
    parsed = _parse(body)
    return parsed.number, parsed.link


def _parse(body: bytes) -> _Parsed:
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    name = kind = alias = ""
    group = mtu = master = 0
    data = b""
    for attribute_kind, value in attributes(body, 16):
        if attribute_kind == _IFLA_IFNAME:
            name = value.rstrip(b"\0").decode("utf-8", "replace")
        elif attribute_kind == _IFLA_IFALIAS:
            alias = value.rstrip(b"\0").decode("utf-8", "replace")
        elif attribute_kind == _IFLA_GROUP:
            group = number(value)
        elif attribute_kind == _IFLA_MTU:
            mtu = number(value)
        elif attribute_kind == _IFLA_MASTER:
            master = number(value)
        elif attribute_kind == _IFLA_LINKINFO:
            info = dict(attributes(value, 0))
            kind = info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode("ascii", "replace")
            data = info.get(_IFLA_INFO_DATA, b"")
    about = dict(attributes(data, 0))
    link = Link(
        name,
        kind,
        up=bool(flags & _IFF_UP),
        group=group,
        alias=alias,
        outer=_outer(kind, about),
        answers_arp=not flags & (_IFF_LOOPBACK | _IFF_POINTOPOINT | _IFF_NOARP),
        mtu=mtu,
        carrier=bool(flags & _IFF_LOWER_UP),
    )
    return _Parsed(index, master, number(about.get(_IPTUN_LINK, b"")) if kind in ("sit", "ip6tnl") else 0, link)


def _outer(kind: str, data: dict[int, bytes]) -> Outer | None:
    if kind in ("ipip", "sit", "ip6tnl"):
        return Outer(
            local=_ip(data.get(_IPTUN_LOCAL)),
            remote=_ip(data.get(_IPTUN_REMOTE)),
            protocol=(data.get(_IPTUN_PROTO) or b"\0")[0],
            external=_IPTUN_EXTERNAL in data,
        )
    if kind in ("gre", "ip6gre"):
        flags = int.from_bytes(data.get(_GRE_IFLAGS, b""), "big")
        return Outer(
            local=_ip(data.get(_GRE_LOCAL)),
            remote=_ip(data.get(_GRE_REMOTE)),
            key=int.from_bytes(data[_GRE_IKEY], "big") if flags & _GRE_KEY and _GRE_IKEY in data else None,
            checksum=bool(flags & _GRE_CHECKSUM),
            sequence=bool(flags & _GRE_SEQUENCE),
            external=_GRE_EXTERNAL in data,
        )
    return None


def _ip(packed: bytes | None) -> Ip | None:
    """An address, or None for any (all zero, or not said)."""
    if packed is None or not any(packed) or len(packed) not in (4, 16):
        return None
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def arguments(link: Link) -> dict[str, Any]:
    """
    *link*'s kind and outer header as pyroute2 wants them.

    Always the full set, because the kernel resets what a change leaves out (facts A8). Both directions get the same
    key and flags, although only receiving matters, so that ``ip -d link`` shows what an operator would have written.
    """
    outer = link.outer
    assert outer is not None
    if link.kind not in _ANY:
        raise ValueError(f"no tunnel kind {link.kind!r}")
    values: dict[str, Any] = {
        "local": str(outer.local or _ANY[link.kind]),
        "remote": str(outer.remote or _ANY[link.kind]),
    }
    if link.kind in ("gre", "ip6gre"):
        flags = _GRE_KEY * (outer.key is not None) | _GRE_CHECKSUM * outer.checksum
        if link.kind == "ip6gre":  # which the library packs as this machine's own number
            flags = socket.htons(flags)
        values |= {"iflags": flags, "oflags": flags, "ikey": outer.key or 0, "okey": outer.key or 0}
    else:
        values["proto"] = outer.protocol
    if link.kind == "ip6tnl":
        values["link"] = socket.if_nametoindex(outer.device) if outer.device else 0
    if _ANY[link.kind] == "0.0.0.0":
        values["pmtudisc"] = 1
    return {"kind": link.kind} | {f"{link.kind}_{name}": value for name, value in values.items()}
