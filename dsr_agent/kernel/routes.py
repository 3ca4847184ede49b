"""
Asking the kernel for a route: which source address would this host use towards a target?

Sources: ``net/ipv4/route.c``, `inet_rtm_getroute`, and ``net/ipv6/route.c``, `inet6_rtm_getroute`; the
answer's RTA_PREFSRC is what a packet sent now would carry.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address

from dsr_agent.kernel.netlink import RTM_GETROUTE, RTM_NEWROUTE, Channel, Message, attribute, attributes
from dsr_agent.state.local import Towards
from dsr_agent.state.model import Ip

_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst length, src length, tos, table, protocol, scope, type, flags
_RTA_DST, _RTA_OIF, _RTA_PREFSRC = 1, 4, 7
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_ROUTES = (_RTN_UNICAST, _RTN_LOCAL)


def is_local(channel: Channel, target: Towards) -> bool:
    """Whether a packet to *target* would stay on this host."""
    answer = _ask(channel, target)
    return answer is not None and answer.body[7] == _RTN_LOCAL


def reaches(channel: Channel, target: Towards) -> bool:
    """Whether there is a route to *target*; in a VRF there may be one without an address of its own to send from."""
    answer = _ask(channel, target)
    return answer is not None and answer.body[7] in _ROUTES


def sources(channel: Channel, targets: Iterable[Towards]) -> dict[Towards, Ip]:
    """The source address towards each of *targets*; those without a route are left out."""
    found = {}
    for target in targets:
        answer = _ask(channel, target)
        if answer is None or answer.body[7] not in _ROUTES:
            continue
        source = dict(attributes(answer.body, _RTMSG.size)).get(_RTA_PREFSRC)
        if source:
            found[target] = ip_address(source)
    return found


def _ask(channel: Channel, target: Towards) -> Message | None:
    ip = target.ip
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    body = _RTMSG.pack(family, ip.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_DST, ip.packed)
    try:
        if target.vrf:  # as if it were sent by the VRF's own link: then its table is asked (net/l3mdev/l3mdev.c)
            body += attribute(_RTA_OIF, struct.pack("=I", socket.if_nametoindex(target.vrf)))
        answer = channel.ask(RTM_GETROUTE, body)
    except OSError:
        return None  # no route, or no such VRF
    return answer if answer.type == RTM_NEWROUTE else None
