"""
Record what a kernel says about links and addresses, for ``wire.txt``: what it is about, and the message in hex.

Run it where every kind of link is there::

    python3 -m tests.lab.machine --lane uml --out DIRECTORY -- sh -c 'python3 -m tests.unit.record > out/messages.txt'
"""

from __future__ import annotations

import platform
import struct
import subprocess

from dsr_agent.kernel.monitor import Monitor
from dsr_agent.kernel.netlink import (
    HEADER,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    Channel,
    Message,
    attribute,
    attributes,
    messages,
)

NEWLINK = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
NEWADDR = struct.pack("=BBBBI", 2, 32, 0x80, 254, 1)

LINKS = {
    "ipip": "type ipip local 10.0.3.2 mode ipip",
    "ipip-any": "type ipip local 10.0.3.3",
    "ipip-remote": "type ipip local 10.0.3.2 remote 10.1.0.5 ttl 64 mode ipip",
    "ipip-external": "type ipip external",
    "gre": "type gre local 10.0.3.2",
    "gre-key": "type gre local 10.0.3.2 key 7",
    "gre-keys": "type gre local 10.0.3.4 ikey 4294967295 okey 9",
    "gre-csum": "type gre local 10.0.3.5 csum",
    "gre-all": "type gre local 10.0.3.6 remote 10.1.0.5 key 1.2.3.4 csum seq",
    "sit": "type sit local 10.0.3.2 mode any",
    "ip6tnl": "type ip6tnl local fd00:3::2 mode any",
    "ip6gre": "type ip6gre local fd00:3::2 key 7",
    "dummy": "type dummy",
    "veth": "type veth peer name vpeer",
}
ADDRESSES = {
    "ours": "192.0.2.10/32 dev lo scope host label lo:dsr proto 0xd5",
    "theirs": "198.51.100.1/24 dev dummy",
    "ours-6": "2001:db8::10/128 dev lo preferred_lft 0 nodad noprefixroute proto 0xd5",
    "theirs-6": "2001:db8::1/64 dev dummy nodad",
    "expiring": "198.51.100.2/32 dev lo valid_lft 3600 preferred_lft 1800",
    "peer": "172.16.0.1 peer 172.16.0.2/32 dev dummy",
}


CHANGES = [
    "ip addr add 192.0.2.99/32 dev lo",
    "ip addr del 192.0.2.99/32 dev lo",
    "ip addr del 2001:db8::10/128 dev lo",
    "ip link set gre name renamed",
    "ip link set renamed name gre",
    "echo 1 > /proc/sys/net/ipv4/conf/gre/rp_filter",
    "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter",
    "echo 1 > /proc/sys/net/ipv4/conf/default/rp_filter",
    "ip route add 10.77.0.0/24 dev dummy",
    "ip rule add from 192.0.2.10 lookup 77",
    "ip link del dummy",
]
REFUSED = {
    "unknown kind": (RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, NEWLINK + attribute(18, attribute(1, b"nosuch\0"))),
    "address there": (RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, NEWADDR + attribute(2, b"\xc0\0\2\x0a")),
    "no such address": (RTM_DELADDR, 0, NEWADDR + attribute(2, b"\xc0\0\2\x63")),
    "no such link": (RTM_DELLINK, 0, struct.pack("=BxHiII", 0, 0, 9999, 0, 0)),
    "malformed": (RTM_NEWADDR, 0, b"\2"),
}


def tell(name: str, message: Message) -> None:
    """One line."""
    print(name, message.type, message.flags, message.sequence, message.port, message.body.hex())


def main() -> None:
    """Make one of each, and print what the kernel says about it, about changes, and about what it refuses."""
    for name, words in LINKS.items():
        sh(f"ip link add {name} {words}")
    sh("ip link set gre alias 'dsr-agent: x' group 54741 up; ip link set dummy up")
    for words in ADDRESSES.values():
        sh(f"ip addr add {words}")
    channel, monitor = Channel(), Monitor()
    print(f"# recorded on Linux {platform.release()}")
    for message in channel.dump(RTM_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(29, b"\x08\0\0\0")):
        if any(name in (*LINKS, "lo", "tunl0") for kind, name in named(message) if kind == 3):
            tell("link", message)
    for message in channel.dump(RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        tell("address", message)
    for command in CHANGES:
        list(monitor.drain(1000, lambda: None))
        sh(command)
        for message in monitor.drain(1000, lambda: None):
            tell(command.replace(" ", "_"), message)
    for name, (kind, flags, body) in REFUSED.items():
        channel._socket.send(HEADER.pack(16 + len(body), kind, 1 | flags, 77, 0) + body)
        for message in messages(channel._socket.recv(65536)):
            tell(name.replace(" ", "_"), message)
    channel.close()
    monitor.close()


def named(message: Message) -> list[tuple[int, str]]:
    """The attributes of a link message as text."""
    return [(kind, value.rstrip(b"\0").decode("latin1")) for kind, value in attributes(message.body, 16)]


def sh(command: str) -> None:
    """Run *command*."""
    subprocess.run(command, shell=True, check=True)


if __name__ == "__main__":
    main()
