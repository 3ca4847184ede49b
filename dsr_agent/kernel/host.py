"""
The real kernel behind `port.Kernel`.

One request socket and one listening socket, both by hand, and pyroute2 for the rare thing: making and changing
links. A copy of all addresses is kept current by announcements, so that looking at one VIP
among 10,000 costs no message; the copy is read afresh on a full look, when announcements were lost, and whenever
links come, go or are renamed under it.
"""

from __future__ import annotations

import asyncio
import platform
import re
import socket
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from types import TracebackType
from typing import Self

from dsr_agent.kernel import addresses, blame, fou, links, monitor, netlink, routes, stats, sysctls
from dsr_agent.kernel.firewall import Firewall, GuardAction
from dsr_agent.kernel.link_writer import LinkWriter
from dsr_agent.kernel.modules import Modules
from dsr_agent.state.actions import Action, AddAddress, DeleteAddress, LoadModule, ReplaceAddress, WriteSysctl
from dsr_agent.state.errors import DsrError, NotYet
from dsr_agent.state.local import Towards
from dsr_agent.state.model import (
    GUARD,
    ROUTES,
    Address,
    AddressKey,
    Changes,
    Ip,
    Key,
    Link,
    LinkKey,
    Observed,
    Scope,
    SysctlKey,
)
from dsr_agent.state.outer import MODULE_OF_PORTS, MODULES
from dsr_agent.state.port_actions import AddPort, DeletePort
from dsr_agent.state.ports import UdpPort
from dsr_agent.state.report import Outcome, Result
from dsr_agent.state.table import ObservedGuard

# IFA_PROTO came with 5.18; older kernels take the attribute and forget it.
_KEEPS_PROTO = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2]) >= (5, 18)

# Looking up more addresses than this one by one costs more than reading them all.
_FEW = 64


_PORTS_OF_CONTAINERS = frozenset({"veth", "tun", "netkit"})

# Tunnels go one by one; nobody has to remember more than this between two looks at the counters.
_FAREWELLS = 256


class Host:
    """
    The host this process runs on, in its network namespace. An async context manager.

    *root* is where ``proc``, ``sys`` and ``lib`` are looked for. *receive_buffer* is the room for announcements.
    *hold*: own the guard's table for as long as this process lives, where the kernel can.
    """

    def __init__(
        self, root: Path = Path("/"), receive_buffer: int = monitor.RECEIVE_BUFFER, *, hold: bool = False
    ) -> None:
        self._root = root
        self._sysctls = root / "proc/sys"
        self._modules = Modules(root)
        self._channel = netlink.Channel()
        self._monitor = monitor.Monitor(receive_buffer)
        self._writer = LinkWriter(self._modules)
        self._ports = fou.Ports()
        self._firewall = Firewall(hold)
        self._firewall.on_lost = self._firewall_lost
        self._others_seen = 0
        self._names: dict[int, str] = {}
        self._copy: dict[AddressKey, Address] = {}
        self._copy_good = False
        self._unannounced: set[AddressKey] = set()
        self._keys: set[Key] = set()
        self._by: dict[Key, int] = {}
        self._lost = False
        self._something = asyncio.Event()
        self._watched = self._firewall_watched = -1
        self._rule_writer = (0, "")
        self.rules_changed = asyncio.Event()
        """Set when somebody else changed rules of the packet filter, in whatever table."""
        self.farewells: deque[stats.Counted] = deque(maxlen=_FAREWELLS)
        """What tunnels had counted when they went, for whoever reads counters; the kernel tells it once."""

    async def __aenter__(self) -> Self:
        self._watch()
        self._watch_firewall()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for watched in (self._watched, self._firewall_watched):
            if watched >= 0:
                asyncio.get_running_loop().remove_reader(watched)
        self._monitor.close()
        self._firewall.close()
        self._channel.close()
        self._writer.close()
        self._ports.close()

    async def warm_up(self) -> None:
        """Get ready for repairs, once the first pass is done and nothing waits."""
        await self._writer.warm_up()

    @property
    def messages_sent(self) -> int:
        """How many netlink requests this process has sent for links' dumps and addresses."""
        return self._channel.sent

    @property
    def announcements_lost(self) -> int:
        """How many times announcements were dropped."""
        return self._monitor.lost

    # --- observe ---------------------------------------------------------------------------------------------------

    async def observe(self, scope: Scope, targets: Iterable[Towards] = ()) -> Observed:
        """See `port.Kernel.observe`."""
        self._take_in()
        found_links: dict[str, Link] = {}
        if scope.everything or scope.host or not self._copy_good:
            by_index = links.read(self._channel)
            self._rename({index: link.name for index, link in by_index.items()})
            found_links = {link.name: link for link in by_index.values()}
        if scope.everything or not self._copy_good or len(self._unannounced) > _FEW:
            self._copy = addresses.read(self._channel, self._names)
            self._copy_good = True
            self._unannounced.clear()
            self._take_in()
        self._look_up_unannounced()
        values: dict[SysctlKey, int] = {}
        sources: dict[Towards, Ip] = {}
        modules: frozenset[str] = frozenset()
        guard = ObservedGuard()
        ports: frozenset[UdpPort] = frozenset()
        if scope.everything or scope.host:
            vrfs = any(link.kind == "vrf" for link in found_links.values())
            paths = sysctls.paths_of(self._links_with_sysctls(found_links), vrfs=vrfs)
            values = sysctls.read(paths, self._sysctls)
            modules = self._modules.present(MODULES)
            ports = self._ports.read() if MODULE_OF_PORTS in modules else ports
            sources = routes.sources(self._channel, targets)
            self._take_in_firewall(monitor.ALL)
            guard = self._firewall.read(afresh=scope.everything)
        return Observed(found_links, dict(self._copy), values, sources, modules, _KEEPS_PROTO, guard, ports=ports)

    async def obstacles(self, modules: Iterable[str]) -> Mapping[str, DsrError]:
        """See `port.Kernel.obstacles`."""
        return {name: obstacle for name in modules if (obstacle := self._modules.obstacle(name))}

    def _look_up_unannounced(self) -> None:
        """Ask for the IPv6 addresses that were just added: their announcement comes after the acknowledgement."""
        indexes = {name: index for index, name in self._names.items()}
        for key in self._unannounced:
            if address := addresses.look_up(self._channel, key, indexes.get(key.link, 0), self._names):
                self._copy[key] = address
        self._unannounced.clear()

    def _links_with_sysctls(self, found: dict[str, Link]) -> list[str]:
        """Tunnels, and what speaks ARP and may have an IPv4 address; never a thousand unnumbered container ports."""
        numbered = {key.link for key in self._copy if key.ip.version == 4}
        return [
            name
            for name, link in found.items()
            if link.outer or (link.answers_arp and (name in numbered or link.kind not in _PORTS_OF_CONTAINERS))
        ]

    def _rename(self, names: dict[int, str]) -> None:
        """Take over the links' names; a copy of addresses made under other names is worth nothing."""
        if any(names.get(index) != name for index, name in self._names.items()):
            self._copy_good = False
        self._names = names

    # --- announcements ---------------------------------------------------------------------------------------------

    async def changes(self) -> Changes:
        """See `port.Kernel.changes`."""
        await self._something.wait()
        self._something.clear()
        changes = Changes(frozenset(self._keys), dict(self._by), self._lost)
        self._keys.clear()
        self._by.clear()
        self._lost = False
        return changes

    async def who(self, port: int) -> str:
        """See `port.Kernel.who`; looked up aside, because it reads other processes' tables."""
        number, name = self._rule_writer
        if port == number and name:
            return f"{name} (process {number})"
        return await asyncio.to_thread(blame.who, port, self._root)

    def _watch(self) -> None:
        """Have the event loop watch the listening socket, which is another one after announcements were lost."""
        loop = asyncio.get_running_loop()
        if self._watched >= 0:
            loop.remove_reader(self._watched)
        self._watched = self._monitor.fileno()
        loop.add_reader(self._watched, self._take_in, monitor.IN_PASSING)

    def _take_in(self, at_most: int = monitor.ALL) -> None:
        """Bring the copy up to date with what was announced, and remember which keys to look at again."""
        before = self._monitor.fileno()
        for message in self._monitor.drain(at_most, self._announcements_lost):
            self._take(message)
        if self._monitor.fileno() != before or self._watched != before:
            self._watch()
        if self._keys or self._lost:
            self._something.set()

    def _announcements_lost(self) -> None:
        self._lost = True
        self._copy_good = False

    def _take(self, message: netlink.Message) -> None:
        if message.type in (netlink.RTM_NEWADDR, netlink.RTM_DELADDR):
            self._take_address(message)
        elif message.type in (netlink.RTM_NEWLINK, netlink.RTM_DELLINK):
            self._take_link(message)
        elif message.type in (netlink.RTM_NEWNETCONF, netlink.RTM_DELNETCONF):
            index = monitor.netconf_index(message)
            name = "all" if index == -1 else self._names.get(index)
            if name:
                self._keys.add(SysctlKey(f"net/ipv4/conf/{name}"))
        elif message.type in (
            netlink.RTM_NEWROUTE,
            netlink.RTM_DELROUTE,
            netlink.RTM_NEWRULE,
            netlink.RTM_DELRULE,
        ):
            if not monitor.is_local_route(message):
                self._keys.add(ROUTES)

    def _take_address(self, message: netlink.Message) -> None:
        address = addresses.parse(message.body, self._names)
        if address is None:
            if addresses.link_index(message) not in self._names:
                self._copy_good = False
            return
        if message.type == netlink.RTM_NEWADDR:
            self._copy[address.key] = address
        else:
            self._copy.pop(address.key, None)
        if message.port != self._channel.port:
            self._keys.add(address.key)
            if message.port:
                self._by[address.key] = message.port

    def _take_link(self, message: netlink.Message) -> None:
        if message.body[0] != socket.AF_UNSPEC:
            return  # what a bridge says of its ports: one that leaves it is told as "deleted" (net/bridge/br_netlink.c)
        index, link = links.parse(message.body)
        if message.type == netlink.RTM_DELLINK:
            if link.outer:
                self.farewells.append(stats.parse(message.body))
            if self._names.pop(index, None):
                self._copy = {key: value for key, value in self._copy.items() if key.link != link.name}
        elif (known_as := self._names.get(index)) != link.name:
            self._names[index] = link.name
            if known_as:  # renamed: missing under the name that we know
                self._copy_good = False
                self._keys.add(LinkKey(known_as))
        self._keys.add(LinkKey(link.name))

    def _watch_firewall(self) -> None:
        """The same for what the packet filter announces, where it can be listened to."""
        loop = asyncio.get_running_loop()
        if self._firewall_watched >= 0:
            loop.remove_reader(self._firewall_watched)
        self._firewall_watched = self._firewall.fileno()
        if self._firewall_watched >= 0:
            loop.add_reader(self._firewall_watched, self._take_in_firewall)

    def _take_in_firewall(self, at_most: int = monitor.IN_PASSING) -> None:
        culprit = self._firewall.take_in(at_most)
        if culprit is not None:
            self._keys.add(GUARD)
            self._by[GUARD], self._rule_writer = culprit[0], culprit
            self._something.set()
        if self._firewall.others != self._others_seen:
            self._others_seen = self._firewall.others
            self.rules_changed.set()

    def _firewall_lost(self) -> None:
        self._firewall.forget()
        self.rules_changed.set()
        self._keys.add(GUARD)
        self._watch_firewall()
        self._something.set()

    # --- apply -----------------------------------------------------------------------------------------------------

    async def apply(self, actions: Sequence[Action]) -> tuple[Outcome, ...]:
        """See `port.Kernel.apply`."""
        outcomes: list[Outcome] = []
        for is_address, run in groupby(actions, lambda action: isinstance(action, addresses.AddressAction)):
            if is_address:
                outcomes += await self._apply_addresses(list(run))  # type: ignore[arg-type]
            else:
                for action in run:
                    outcomes.append(await self._apply_one(action))
        return tuple(outcomes)

    async def _apply_addresses(self, actions: list[AddAddress | ReplaceAddress | DeleteAddress]) -> list[Outcome]:
        self._take_in()  # the index of a link made a moment ago
        outcomes: list[Outcome] = []
        remaining = iter(actions)
        while batch := list(islice(remaining, netlink.BATCH)):
            indexes = {name: index for index, name in self._names.items()}
            outcomes += addresses.write(self._channel, batch, indexes)
            self._unannounced.update(
                action.key for action in batch if action.key.ip.version == 6 and not isinstance(action, DeleteAddress)
            )
            await asyncio.sleep(0)  # others' turn: 10,000 additions take a while
        return outcomes

    async def _apply_one(self, action: Action) -> Outcome:
        error: DsrError | None
        if isinstance(action, GuardAction):
            error = self._firewall.write(action)
        elif isinstance(action, LoadModule):
            await self._modules.load(action.name)
            if not self._modules.present([action.name]):
                return Outcome(action, Result.SKIPPED, NotYet("the kernel is asked for it when the link is made"))
            error = None
        elif isinstance(action, AddPort | DeletePort):
            error = self._ports.write(action)
        elif isinstance(action, WriteSysctl):
            error = sysctls.write(action.sysctl.path, action.sysctl.value, self._sysctls)
        else:
            error = await self._writer.write(action)
        return Outcome(action, Result.FAILED if error else Result.DONE, error)
