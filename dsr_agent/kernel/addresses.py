"""
Addresses, packed and parsed by hand (facts A1), and the errnos of `RTM_NEWADDR` and `RTM_DELADDR` in words.

Source: ``include/uapi/linux/if_addr.h``, ``net/ipv4/devinet.c``, ``net/ipv6/addrconf.c``.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

from dsr_agent.kernel.netlink import (
    BATCH,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_NEWADDR,
    Channel,
    Message,
    Refusal,
    attribute,
    attributes,
    number,
)
from dsr_agent.kernel.refusals import explain
from dsr_agent.state.actions import AddAddress, DeleteAddress, ReplaceAddress
from dsr_agent.state.errors import DsrError, Foreign, NotYet, Transient, Unsupported
from dsr_agent.state.model import Address, AddressKey, Ip
from dsr_agent.state.report import Outcome, Result

AddressAction = AddAddress | ReplaceAddress | DeleteAddress

_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_U32 = struct.Struct("=I")
_CACHEINFO = struct.Struct("=IIII")  # preferred, valid, created, updated

_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_PROTO = 1, 2, 3, 6, 8, 11

_IFA_F_NODAD = 0x02
_IFA_F_DEPRECATED = 0x20
_IFA_F_PERMANENT = 0x80
_IFA_F_NOPREFIXROUTE = 0x200

_FOREVER = 0xFFFFFFFF

_VERBS: dict[type, tuple[int, int]] = {
    AddAddress: (RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL),
    ReplaceAddress: (RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE),
    DeleteAddress: (RTM_DELADDR, 0),
}
# Already so, and already gone, is success.
_SUCCESS = {
    AddAddress: {errno.EEXIST},
    ReplaceAddress: set(),
    DeleteAddress: {errno.EADDRNOTAVAIL, errno.ENODEV},
}


def pack(address: Address, index: int) -> bytes:
    """The body of a request about *address* on the link with this *index*."""
    family = socket.AF_INET if address.ip.version == 4 else socket.AF_INET6
    flags = _IFA_F_PERMANENT
    if family == socket.AF_INET6:
        # No duplicate address detection: the VIP is on every real server, and must answer from its first moment.
        flags |= _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE
    body = _IFADDRMSG.pack(family, address.prefixlen, flags & 0xFF, address.scope, index)
    body += attribute(_IFA_LOCAL, address.ip.packed) + attribute(_IFA_ADDRESS, address.ip.packed)
    body += attribute(_IFA_FLAGS, _U32.pack(flags))
    if address.proto:
        body += attribute(_IFA_PROTO, bytes((address.proto,)))
    if address.label and family == socket.AF_INET:
        body += attribute(_IFA_LABEL, address.label.encode() + b"\0")
    if address.deprecated:
        body += attribute(_IFA_CACHEINFO, _CACHEINFO.pack(0, _FOREVER, 0, 0))
    return body


def parse(body: bytes, names: Mapping[int, str]) -> Address | None:
    """
    Read one address message; None if it is not about an IP address on a link that *names* knows.

    The address is the local one where the message has a peer as well.
    """
    family, prefixlen, flags, scope, index = _IFADDRMSG.unpack_from(body)
    if family not in (socket.AF_INET, socket.AF_INET6) or index not in names:
        return None
    local = packed = b""
    proto = 0
    label = ""
    for kind, value in attributes(body, 8):
        if kind == _IFA_LOCAL:
            local = value
        elif kind == _IFA_ADDRESS:
            packed = value
        elif kind == _IFA_LABEL:
            label = value.rstrip(b"\0").decode("utf-8", "replace")
        elif kind == _IFA_FLAGS:
            flags = number(value)
        elif kind == _IFA_PROTO:
            proto = number(value)
    raw = local or packed
    if len(raw) != (4 if family == socket.AF_INET else 16):
        return None
    ip: Ip = IPv4Address(raw) if family == socket.AF_INET else IPv6Address(raw)
    return Address(
        names[index],
        ip,
        prefixlen,
        scope,
        proto,
        label,
        bool(flags & _IFA_F_PERMANENT),
        bool(flags & _IFA_F_DEPRECATED),
    )


def link_index(message: Message) -> int:
    """The index of the link an address message is about."""
    index: int = _IFADDRMSG.unpack_from(message.body)[4]
    return index


def read(channel: Channel, names: Mapping[int, str]) -> dict[AddressKey, Address]:
    """All addresses of all links, in one dump."""
    found: dict[AddressKey, Address] = {}
    for message in channel.dump(RTM_GETADDR, _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        if message.type == RTM_NEWADDR and (address := parse(message.body, names)):
            found[address.key] = address
    return found


def look_up(channel: Channel, key: AddressKey, index: int, names: Mapping[int, str]) -> Address | None:
    """One IPv6 address, by one question (IPv4 has no such question); None if it is not there."""
    body = _IFADDRMSG.pack(socket.AF_INET6, 0, 0, 0, index) + attribute(_IFA_ADDRESS, key.ip.packed)
    try:
        address = parse(channel.ask(RTM_GETADDR, body).body, names)
    except OSError:
        return None
    return address if address and address.key == key else None


def write(channel: Channel, actions: Sequence[AddressAction], indexes: Mapping[str, int]) -> list[Outcome]:
    """Carry out at most `BATCH` address actions in one send; one outcome each, in order."""
    assert len(actions) <= BATCH
    outcomes: list[Outcome | None] = [None] * len(actions)
    batch, positions = [], []
    for position, action in enumerate(actions):
        index = indexes.get(action.address.link)
        if index is None:
            outcomes[position] = _no_link(action)
            continue
        batch.append((*_VERBS[type(action)], pack(action.address, index)))
        positions.append(position)
    answers: Sequence[Refusal | None] = []
    if batch:
        try:
            answers = channel.request(batch)
        except OSError as error:
            lost = Transient(f"the kernel did not take the request ({error.strerror})")
            answers = []
            for position in positions:
                outcomes[position] = Outcome(actions[position], Result.FAILED, lost)
    for position, answer in zip(positions, answers, strict=False):
        outcomes[position] = _outcome(actions[position], answer, channel, indexes)
    return [outcome for outcome in outcomes if outcome]


def _no_link(action: AddressAction) -> Outcome:
    if isinstance(action, DeleteAddress):
        return Outcome(action, Result.DONE)
    link = action.address.link
    return Outcome(
        action,
        Result.FAILED,
        NotYet(f"there is no device {link}", f"create it, or correct device = {link!r}"),
    )


def _outcome(action: AddressAction, answer: Refusal | None, channel: Channel, indexes: Mapping[str, int]) -> Outcome:
    if answer is None:
        return Outcome(action, Result.DONE)
    already = answer.errno in _SUCCESS[type(action)]
    if already and (answer.errno != errno.EEXIST or _is_there(action.address, channel, indexes[action.address.link])):
        return Outcome(action, Result.DONE)
    return Outcome(action, Result.FAILED, _error(action, answer))


def _is_there(address: Address, channel: Channel, index: int) -> bool:
    """Whether what is in the way of *address* is itself: IPv6 knows one on a link by the address, not its prefix."""
    return address.ip.version == 4 or look_up(channel, address.key, index, {index: address.link}) is not None


def _error(action: AddressAction, answer: Refusal) -> DsrError:
    if answer.errno == errno.EEXIST:
        return Foreign(
            f"{action.address.ip} is on {action.address.link} with another prefix length",
            "remove that address",
        )
    if action.address.ip.version == 6 and answer.errno in (errno.EACCES, errno.EOPNOTSUPP):
        link = action.address.link
        return Unsupported(
            f"cannot {action}: IPv6 is switched off on {link}", f"sysctl -w net.ipv6.conf.{link}.disable_ipv6=0"
        )
    return explain(answer.errno, f"cannot {action}", str(answer))
