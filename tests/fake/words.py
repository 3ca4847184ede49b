"""
A machine as a few lines of text, read and written: what `str(FakeKernel)` prints and what test cases are written in.

::

    lo up
      192.0.2.10/32 ours
    eth0 arp up
      10.0.3.2/24
      rp_filter=1
    dsr-ipip ipip local 10.0.3.2 up ours
      192.0.0.8/32 ours
      rp_filter=2 ipv6.addr_gen_mode=1
    10.1.0.5 is reached from 10.0.3.2
    10.1.0.5 in VRF blue is reached from 10.0.4.2
    port 6080 local 10.0.3.2 ours
    modules ipip

Below a link are its addresses and those sysctls that are not 0. *ours* stands for everything our mark consists of (and
for the scope and lifetimes we give an address); whatever differs from that is said in words.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from dsr_agent.state.local import Towards
from dsr_agent.state.marks import ADDRESS_PROTO, ADOPTED_ALIAS, ALIAS, LINK_GROUP, label_for
from dsr_agent.state.model import Address, Link, Outer, SysctlKey
from dsr_agent.state.ports import PortKey, UdpPort

if TYPE_CHECKING:
    from tests.fake.machine import Machine

SCOPES = {"global": 0, "link": 253, "host": 254}
OUTER_KINDS = {"ipip", "gre", "sit", "ip6tnl", "ip6gre"}
IPPROTO_IPIP = 4


# --- links --------------------------------------------------------------------------------------------------------


def link_of(text: str) -> Link:
    """Read one link: ``dsr-ipip ipip local 10.0.3.2 up ours``."""
    name, *words = shlex.split(text)
    found = Link(name, group=0)
    outer = Outer()
    if words and words[0] in OUTER_KINDS | {"dummy", "bridge", "veth", "vrf"}:
        found = replace(found, kind=words.pop(0))
        outer = Outer(protocol=IPPROTO_IPIP) if found.kind == "ipip" else outer
    while words:
        word = words.pop(0)
        if word in ("local", "remote"):
            outer = replace(outer, **_ip(word, words.pop(0)))
        elif word == "key":
            outer = replace(outer, key=int(words.pop(0)))
        elif word == "protocol":
            outer = replace(outer, protocol=int(words.pop(0)))
        elif word == "dev":
            outer = replace(outer, device=words.pop(0))
        elif word in ("checksum", "sequence", "external"):
            outer = replace(outer, **_yes(word))
        elif word == "group":
            found = replace(found, group=int(words.pop(0)))
        elif word in ("alias", "master"):
            found = replace(found, **_said(word, words.pop(0)))
        else:
            found = replace(found, **_LINK_WORDS[word])
    return replace(found, outer=outer) if found.kind in OUTER_KINDS else found


def _ip(name: str, text: str) -> dict[str, Any]:
    return {name: None if text == "any" else ip_address(text)}


def _said(name: str, text: str) -> dict[str, Any]:
    return {name: text}


def _yes(name: str) -> dict[str, Any]:
    return {name: True}


_LINK_WORDS: dict[str, dict[str, Any]] = {
    "up": {"up": True},
    "down": {"up": False},
    "arp": {"answers_arp": True},
    "ours": {"group": LINK_GROUP, "alias": ALIAS},
    "adopted": {"group": LINK_GROUP, "alias": ADOPTED_ALIAS},
}


def text_of_link(link: Link) -> str:
    """The line that `link_of` reads back."""
    words = [link.name, *([link.kind] if link.kind else [])]
    if outer := link.outer:
        words += [f"local {outer.local}"] if outer.local else []
        words += [f"remote {outer.remote}"] if outer.remote else []
        words += [f"dev {outer.device}"] if outer.device else []
        words += [f"key {outer.key}"] if outer.key is not None else []
        words += [word for word in ("checksum", "sequence", "external") if getattr(outer, word)]
        usual = IPPROTO_IPIP if link.kind == "ipip" else 0
        words += [f"protocol {outer.protocol}"] if outer.protocol != usual else []
    words += ["arp"] if link.answers_arp else []
    words += [f"master {link.master}"] if link.master else []
    words.append("up" if link.up else "down")
    marks = {(LINK_GROUP, ALIAS): ["ours"], (LINK_GROUP, ADOPTED_ALIAS): ["adopted"]}
    plain = [f"group {link.group}"] if link.group else []
    plain += [f"alias {link.alias!r}"] if link.alias else []
    return " ".join(words + marks.get((link.group, link.alias), plain))


# --- addresses ----------------------------------------------------------------------------------------------------


def address_of(text: str, link: str) -> Address:
    """Read one address: ``192.0.2.10/32 ours``, ``10.0.3.2/24``, ``2001:db8::5/128 proto 3 deprecated``."""
    prefix, *words = text.split()
    ip_text, length = prefix.split("/")
    found = _usual(Address(link, ip_address(ip_text), int(length)), ours="ours" in words)
    while words:
        word = words.pop(0)
        if word == "scope":
            found = replace(found, scope=SCOPES[words.pop(0)])
        elif word == "proto":
            found = replace(found, proto=int(words.pop(0), 0))
        elif word == "label":
            found = replace(found, label=words.pop(0))
        else:
            found = replace(found, **_ADDRESS_WORDS[word])
    return found


_ADDRESS_WORDS: dict[str, dict[str, Any]] = {
    "ours": {},
    "unlabelled": {"label": ""},
    "temporary": {"permanent": False},
    "deprecated": {"deprecated": True},
    "preferred": {"deprecated": False},
}


def _usual(address: Address, ours: bool) -> Address:
    """What goes without saying about an address: of ours, or (as the kernel fills it in) of somebody else's."""
    ipv4 = address.ip.version == 4
    if ours:
        label = label_for(address.link) if ipv4 else ""
        scope = SCOPES["host"] if ipv4 else 0
        return replace(address, proto=ADDRESS_PROTO, label=label, scope=scope, deprecated=not ipv4)
    return replace(address, label=address.link if ipv4 else "")


def text_of_address(address: Address) -> str:
    """The line that `address_of` reads back."""
    ours = address.proto == ADDRESS_PROTO
    usual = _usual(Address(address.link, address.ip, address.prefixlen), ours)
    words = [f"{address.ip}/{address.prefixlen}", *(["ours"] if ours else [])]
    if address.scope != usual.scope:
        words.append("scope " + {number: name for name, number in SCOPES.items()}[address.scope])
    if address.proto != usual.proto:
        words.append(f"proto {address.proto}")
    if address.label != usual.label:
        words.append(f"label {address.label}" if address.label else "unlabelled")
    words += [] if address.permanent else ["temporary"]
    if address.deprecated != usual.deprecated:
        words.append("deprecated" if address.deprecated else "preferred")
    return " ".join(words)


# --- ports --------------------------------------------------------------------------------------------------------


def port_of(text: str) -> UdpPort:
    """Read one port: ``port 6080 local 10.0.3.2 ours``, ``port 5555 IPv6 protocol 4``."""
    _, number, *words = text.split()
    local = ip_address(words[words.index("local") + 1]) if "local" in words else None
    version = local.version if local else 6 if "IPv6" in words else 4
    protocol = int(words[words.index("protocol") + 1]) if "protocol" in words else 0
    key = PortKey(int(number), version, local, words[words.index("device") + 1] if "device" in words else "")
    return UdpPort(key, not protocol, protocol, "narrow" in words, ours="ours" in words)


def text_of_port(port: UdpPort) -> str:
    """The line that `port_of` reads back."""
    words = [f"port {port.key.number}", *([f"local {port.key.local}"] if port.key.local else [])]
    words += ["IPv6"] if port.key.local is None and port.key.version == 6 else []
    words += [f"device {port.key.device}"] if port.key.device else []
    words += [] if port.gue else [f"protocol {port.protocol}"]
    words += ["narrow"] * port.narrow + ["ours"] * port.ours
    return " ".join(words)


# --- the whole machine --------------------------------------------------------------------------------------------


def text_of(machine: Machine) -> str:
    """The whole machine, in the order in which things came to it."""
    lines: list[str] = []
    for link in machine.links.values():
        lines.append(text_of_link(link))
        lines += [f"  {text_of_address(a)}" for a in machine.addresses.values() if a.link == link.name]
        lines += _sysctl_lines(machine, link.name)
    if settings := list(_sysctl_lines(machine, "all")):
        lines += ["all", *settings]
    lines += [f"{target} is reached from {source}" for target, source in machine.sources.items()]
    lines += sorted(map(text_of_port, machine.ports))
    lines += [f"modules {' '.join(sorted(machine.modules))}"] if machine.modules else []
    lines += [] if machine.ipv6 else ["no IPv6"]
    lines += [] if machine.keeps_proto else ["no IFA_PROTO"]
    return "\n".join(lines)


def _sysctl_lines(machine: Machine, name: str) -> Iterator[str]:
    words = []
    for key, value in machine.sysctls.items():
        _, family, _, link, leaf = key.path.split("/")
        if link == name and value:
            words.append(f"{leaf if family == 'ipv4' else 'ipv6.' + leaf}={value}")
    if words:
        yield "  " + " ".join(words)


def sysctl_key(link: str, word: str) -> SysctlKey:
    """``rp_filter`` or ``ipv6.forwarding`` of *link*."""
    family, _, leaf = word.rpartition(".")
    return SysctlKey(f"net/{family or 'ipv4'}/conf/{link}/{leaf}")


def read_into(machine: Machine, text: str) -> None:
    """Fill *machine* with what *text* says."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    indent = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    name = ""
    machine.ipv6 = "no IPv6" not in [line.strip() for line in lines]
    for line in [line[indent:] for line in lines]:
        words = line.split()
        if line.startswith(" "):
            if "=" in words[0]:
                pairs = [word.split("=") for word in words]
                machine.sysctls |= {sysctl_key(name, word): int(value) for word, value in pairs}
            else:
                machine.put_address(address_of(line.strip(), name))
        elif words[0] == "modules":
            machine.modules |= set(words[1:])
        elif words[0] == "no":
            machine.keeps_proto = machine.keeps_proto and words[1] != "IFA_PROTO"
        elif words[1:4] == ["is", "reached", "from"]:
            machine.sources[Towards(ip_address(words[0]))] = ip_address(words[4])
        elif words[1:3] == ["in", "VRF"]:
            machine.sources[Towards(ip_address(words[0]), words[3])] = ip_address(words[7])
        elif words[0] == "port":
            machine.ports.add(port_of(line))
        else:
            name = words[0]
            if name != "all":
                machine.put_link(link_of(line))
