"""
A Linux host made of Python: links, addresses, sysctls, and the kernel's rules about them.

Every rule here is one that a real kernel was seen to have (facts A4, A8, B2), and that something in this program
depends on; the contract suite holds the two against each other.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from typing import Self

from dsr_agent.kernel.sysctls import IPV4_NAMES, IPV6_NAMES
from dsr_agent.state.errors import DsrError
from dsr_agent.state.local import Towards
from dsr_agent.state.model import GUARD, MODULE_OF_KIND, Address, AddressKey, Ip, Key, Link, LinkKey, Outer, SysctlKey
from dsr_agent.state.outer import MODULE_OF_PORTS, MODULES
from dsr_agent.state.ports import PortKey, UdpPort
from dsr_agent.state.table import ObservedGuard, Table
from tests.fake import words

FALLBACK = {"ipip": "tunl0", "gre": "gre0", "sit": "sit0", "ip6tnl": "ip6tnl0", "ip6gre": "ip6gre0"}


class RefusedError(Exception):
    """The kernel does not do it; *code* is the errno."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode[code])
        self.code = code


class Machine:
    """
    A host. *announce* is called with the key of everything the kernel tells its listeners about.

    *loadable* are the modules that are on disk, *defaults* the sysctls that a new link starts with. *holds_guard*: the
    kernel lets a process own the guard's table, and ours is to.
    """

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self.addresses: dict[AddressKey, Address] = {}
        self.sysctls: dict[SysctlKey, int] = {}
        self.sources: dict[Towards, Ip] = {}
        self.ports: set[UdpPort] = set()
        self.modules: set[str] = set()
        self.guard: Table | None = None
        self.guard_held = False
        self.holds_guard = False
        self.guard_unavailable: DsrError | None = None
        self.loadable = set(MODULES)
        self.defaults: dict[str, int] = {}
        self.ipv6 = True
        self.keeps_proto = True
        self.announce: Callable[[Key], None] = lambda key: None

    @property
    def observed_guard(self) -> ObservedGuard:
        """What a look at the guard shows."""
        can_hold = self.holds_guard and not self.guard_held
        return ObservedGuard(self.guard, self.guard_held, can_hold, self.guard_unavailable)

    @classmethod
    def of(cls, text: str) -> Self:
        """The machine that *text* describes (see `words`)."""
        machine = cls()
        words.read_into(machine, text)
        machine.put_sysctls("all")
        return machine

    def __str__(self) -> str:
        return words.text_of(self)

    # --- as it is found, no questions asked --------------------------------------------------------------------

    def put_link(self, link: Link) -> None:
        """Have *link*, with the sysctls every link has."""
        self.links[link.name] = link
        self.put_sysctls(link.name)

    def put_sysctls(self, name: str) -> None:
        """Have the sysctls of a link that was just made."""
        for word in (*IPV4_NAMES, *(f"ipv6.{leaf}" for leaf in IPV6_NAMES if self.ipv6)):
            if (name, word) not in (("all", "ipv6.disable_ipv6"), ("all", "ipv6.addr_gen_mode")):
                self.sysctls.setdefault(words.sysctl_key(name, word), self.defaults.get(word, 0))

    def put_address(self, address: Address) -> None:
        """Have *address*; a kernel before 5.18 forgets its IFA_PROTO."""
        self.addresses[address.key] = address if self.keeps_proto else replace(address, proto=0)

    def flush_ruleset(self) -> None:
        """``nft flush ruleset``: all tables of the packet filter are gone."""
        if self.guard is not None:
            self.guard = None
            self.guard_held = False
            self.announce(GUARD)

    # --- links -------------------------------------------------------------------------------------------------

    def load(self, module: str) -> None:
        """Load *module*, if it is on disk: it brings a fallback device, down, that takes everything else."""
        if module in self.modules or module not in self.loadable:
            return
        self.modules.add(module)
        for kind, name in FALLBACK.items():
            if MODULE_OF_KIND[kind] == module:
                self.put_link(Link(name, kind, outer=Outer()))
                self.announce(LinkKey(name))

    def add_link(self, link: Link) -> None:
        """``ip link add``: alias is not taken at creation, the group is; the module is loaded if need be."""
        if link.name in self.links:
            raise RefusedError(errno.EEXIST)
        if link.master and link.master not in self.links:
            raise RefusedError(errno.ENODEV)
        if link.kind in MODULE_OF_KIND:
            self.load(MODULE_OF_KIND[link.kind])
            if MODULE_OF_KIND[link.kind] not in self.modules:
                raise RefusedError(errno.EOPNOTSUPP)
        self._no_clash(link)
        self.put_link(replace(link, alias=""))
        self.announce(link.key)

    def _no_clash(self, link: Link) -> None:
        """Two links of one kind cannot wait for the same packets."""
        if link.outer is None:
            return
        for other in self.links.values():
            if other.name != link.name and other.kind == link.kind and other.outer:
                if other.outer.external and link.outer.external:
                    raise RefusedError(errno.EEXIST)
                if not other.outer.external and not link.outer.external and _match(other.outer, link.outer):
                    raise RefusedError(errno.EEXIST)

    def change_link(self, link: Link) -> None:
        """``ip link change``: only what the kernel changes in place (facts A8)."""
        found = self._link(link.name)
        if found.kind != link.kind or found.outer is None or link.outer is None:
            raise RefusedError(errno.EOPNOTSUPP)
        if found.name in FALLBACK.values() or found.outer.external != link.outer.external:
            raise RefusedError(errno.EINVAL)
        if (found.outer.remote is None) != (link.outer.remote is None):
            raise RefusedError(errno.EINVAL)
        self._no_clash(link)
        protocol = link.outer.protocol if link.kind == "ip6tnl" else found.outer.protocol
        outer = replace(link.outer, protocol=protocol)  # elsewhere a change of mode is silently ignored
        self.links[link.name] = replace(found, outer=outer)
        if found.up:
            self.announce(found.key)

    def mark_link(self, name: str, group: int, alias: str) -> None:
        """``ip link set group ... alias ...``; the alias of a link that is down changes without a word."""
        found = self._link(name)
        self.links[name] = replace(found, group=group, alias=alias)
        if found.up or found.group != group:
            self.announce(LinkKey(name))

    def move_link(self, name: str, master: str) -> None:
        """``ip link set master | nomaster``: one that is up goes down and up, and its IPv6 addresses are gone."""
        found = self._link(name)
        if master and master not in self.links:
            raise RefusedError(errno.ENODEV)
        if found.up:
            self.set_up(name, False)
        self.links[name] = replace(found, master=master, up=False)
        self.announce(LinkKey(name))
        if found.up:
            self.set_up(name, True)

    def rename_link(self, name: str, to: str) -> None:
        """``ip link set name``: addresses and sysctls go with it, the label of the first address does not."""
        found = self._link(name)
        if to in self.links:
            raise RefusedError(errno.EEXIST)
        self.links = {(to if key == name else key): link for key, link in self.links.items()}
        self.links[to] = replace(found, name=to)
        first = True
        for key, address in list(self.addresses.items()):
            if key.link == name:
                label = to if first else to + address.label.removeprefix(name)
                renamed = replace(address, link=to, label=label[:15] if address.ip.version == 4 else "")
                first = first and address.ip.version == 6
                self.addresses.pop(key)
                self.addresses[renamed.key] = renamed
        for path in [key for key in self.sysctls if key.path.split("/")[3] == name]:
            family, leaf = path.path.split("/")[1], path.path.split("/")[4]
            self.sysctls[SysctlKey(f"net/{family}/conf/{to}/{leaf}")] = self.sysctls.pop(path)
        self.announce(LinkKey(name))
        self.announce(LinkKey(to))

    def set_up(self, name: str, up: bool) -> None:
        """``ip link set up|down``: going down takes the IPv6 addresses of global scope with it, for good."""
        found = self._link(name)
        self.links[name] = replace(found, up=up)
        if found.up == up:
            return
        self.announce(LinkKey(name))
        if not up:
            for key in [k for k, a in self.addresses.items() if k.link == name and k.ip.version == 6 and not a.scope]:
                self._drop(key)

    def delete_link(self, name: str) -> None:
        """``ip link del``: addresses and sysctls go with it; fallback devices do not go at all."""
        self._link(name)
        if name in FALLBACK.values():
            return
        for key in [key for key in self.addresses if key.link == name]:
            self._drop(key)
        for path in [key for key in self.sysctls if key.path.split("/")[3] == name]:
            del self.sysctls[path]
        del self.links[name]
        self.announce(LinkKey(name))
        for slave in [link.name for link in self.links.values() if link.master == name]:
            self.move_link(slave, "")

    def _link(self, name: str) -> Link:
        if name not in self.links:
            raise RefusedError(errno.ENODEV)
        return self.links[name]

    # --- ports -------------------------------------------------------------------------------------------------

    def add_port(self, port: UdpPort) -> None:
        """``ip fou add``: the module has to be there; an address and a number can be had once. Nobody is told."""
        if MODULE_OF_PORTS not in self.modules:
            raise RefusedError(errno.EOPNOTSUPP)
        if port.key.device and port.key.device not in self.links:
            raise RefusedError(errno.ENODEV)
        if any(found.key.keeps_out(port.key) for found in self.ports):
            raise RefusedError(errno.EADDRINUSE)
        self.ports.add(port)

    def delete_port(self, key: PortKey) -> None:
        """``ip fou del``."""
        found = [port for port in self.ports if port.key == key]
        if not found:
            raise RefusedError(errno.EINVAL)
        self.ports -= set(found)

    # --- addresses ---------------------------------------------------------------------------------------------

    def add_address(self, address: Address) -> None:
        """``ip addr add``: IPv4 is keyed by address and prefix length, IPv6 by the address alone."""
        self._can_have(address)
        if self.same_address(address) is not None:
            raise RefusedError(errno.EEXIST)
        self.put_address(address if address.label or address.ip.version == 6 else _labelled(address))
        self.announce(address.key)

    def replace_address(self, address: Address) -> None:
        """``ip addr replace``: sets proto and lifetimes in place, and never scope, label or prefix length."""
        self._can_have(address)
        found = self.same_address(address)
        if found is None:
            self.add_address(address)
            return
        changed = replace(found, proto=address.proto, permanent=address.permanent, deprecated=address.deprecated)
        self.put_address(changed)
        self.announce(changed.key)

    def delete_address(self, key: AddressKey) -> None:
        """``ip addr del``."""
        self._link(key.link)
        if key not in self.addresses:
            raise RefusedError(errno.EADDRNOTAVAIL)
        self._drop(key)

    def refuses(self, address: Address) -> int:
        """The errno with which no address like *address* can be had here at all, or 0."""
        if address.ip.version == 4:
            return 0
        if not self.ipv6:
            return errno.EOPNOTSUPP
        return errno.EACCES if self.sysctls.get(words.sysctl_key(address.link, "ipv6.disable_ipv6")) else 0

    def _can_have(self, address: Address) -> None:
        self._link(address.link)
        if code := self.refuses(address):
            raise RefusedError(code)

    def same_address(self, address: Address) -> Address | None:
        """What the kernel takes for the same address as *address*."""
        if address.ip.version == 4:
            return self.addresses.get(address.key)
        here = (a for a in self.addresses.values() if a.link == address.link and a.ip == address.ip)
        return next(here, None)

    def _drop(self, key: AddressKey) -> None:
        del self.addresses[key]
        self.announce(key)

    # --- sysctls, routes ---------------------------------------------------------------------------------------

    def write_sysctl(self, key: SysctlKey, value: int) -> None:
        """``sysctl -w``: reverse path and forwarding are announced, the ARP ones are not (facts A2)."""
        if key not in self.sysctls:
            raise RefusedError(errno.ENOENT)
        changed = self.sysctls[key] != value
        self.sysctls[key] = value
        _, _, _, link, leaf = key.path.split("/")
        if leaf == "disable_ipv6" and value:
            for address in [k for k in self.addresses if k.link == link and k.ip.version == 6]:
                self._drop(address)
        if changed and leaf in ("rp_filter", "forwarding"):
            self.announce(SysctlKey(f"net/ipv4/conf/{link}"))


def _match(one: Outer, other: Outer) -> bool:
    return (one.local, one.remote, one.key) == (other.local, other.remote, other.key)


def _labelled(address: Address) -> Address:
    return replace(address, label=address.link)
