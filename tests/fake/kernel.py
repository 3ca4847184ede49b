"""
A kernel made of Python behind the same door as the real one.

It holds a `Machine`, announces what the real one announces and keeps silent where that is silent, can be made to fail
any verb, and prints itself as the machine it is::

    kernel = FakeKernel(MACHINE)
    kernel.fail_next(AddLink, Transient("out of memory"))
    kernel.meddle("ip link del dsr-ipip")
    assert str(kernel) == ...
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeAlias

from dsr_agent.kernel.refusals import explain
from dsr_agent.kernel.sysctls import paths_of
from dsr_agent.state.actions import (
    Action,
    AddAddress,
    AddLink,
    BringUp,
    ChangeLink,
    DeleteAddress,
    DeleteLink,
    LoadModule,
    MarkLink,
    MoveLink,
    RenameLink,
    ReplaceAddress,
    TakeDown,
    WriteSysctl,
)
from dsr_agent.state.errors import DsrError, Foreign, NotYet, Unsupported
from dsr_agent.state.guard_actions import HoldGuard, RemoveGuard, WriteGuard
from dsr_agent.state.local import Towards
from dsr_agent.state.model import (
    GUARD,
    ROUTES,
    Address,
    AddressKey,
    Changes,
    Key,
    LinkKey,
    Observed,
    Scope,
    SysctlKey,
)
from dsr_agent.state.port_actions import AddPort, DeletePort
from dsr_agent.state.ports import UdpPort
from dsr_agent.state.report import Outcome, Result
from tests.fake import shell
from tests.fake.machine import Machine, RefusedError

US = -1
NOBODY = 0
Verb: TypeAlias = type[Action] | str
"""What can be waited for: a kind of action, or ``"observe"``."""


@dataclass
class _Fault:
    verb: type[Action]
    error: DsrError
    once: bool
    done: bool
    hits: int = 0


class FakeKernel:
    """See `dsr_agent.kernel.port.Kernel`."""

    def __init__(self, host: str | Machine = "lo up") -> None:
        self.machine = Machine.of(host) if isinstance(host, str) else host
        self.machine.announce = self._announced
        self.processes: dict[int, str] = {}
        self._copy = dict(self.machine.addresses)
        self._copy_good = True
        self._actor = NOBODY
        self._hearing = True
        self._changes: set[Key] = set()
        self._by: dict[Key, int] = {}
        self._lost = False
        self._something = asyncio.Event()
        self._faults: list[_Fault] = []
        self._hooks: list[tuple[Verb, Callable[[], None]]] = []
        self._unreadable: list[OSError] = []
        self.looks: list[Scope] = []

    def __str__(self) -> str:
        return str(self.machine)

    # --- what tests do to it -----------------------------------------------------------------------------------

    def meddle(self, *commands: str, by: int = NOBODY) -> None:
        """Somebody else runs *commands*; *by* is their netlink port, which the kernel tells for addresses."""
        before, self._actor = self._actor, by
        try:
            for command in commands:
                shell.run(self.machine, command)
        finally:
            self._actor = before

    def reach(self, target: str, source: str | None, vrf: str = "") -> None:
        """From now on *target* is reached from *source*, or not at all; routes are announced."""
        self.machine.sources.pop(Towards(ip_address(target), vrf), None)
        if source:
            self.machine.sources[Towards(ip_address(target), vrf)] = ip_address(source)
        self._announced(ROUTES)

    @contextmanager
    def losing_announcements(self) -> Iterator[None]:
        """What happens in here is announced to a full buffer: all that is heard of it is that something was lost."""
        self._hearing = False
        try:
            yield
        finally:
            self._hearing = True
            self._copy_good = False
            self._lost = True
            self._something.set()

    @contextmanager
    def silently(self) -> Iterator[None]:
        """What happens in here is not announced at all, not even as lost."""
        self._hearing = False
        try:
            yield
        finally:
            self._hearing = True

    def fail_next(self, verb: type[Action], error: DsrError, *, done: bool = False) -> None:
        """The next *verb* fails; *done*: although it was done (the answer got lost)."""
        self._faults.append(_Fault(verb, error, once=True, done=done))

    def fail_always(self, verb: type[Action], error: DsrError) -> None:
        """Every *verb* fails until `heal`."""
        self._faults.append(_Fault(verb, error, once=False, done=False))

    def refuse_to_be_read_next(self, error: OSError) -> None:
        """The next look at anything is refused."""
        self._unreadable.append(error)

    def heal(self) -> None:
        """What was made to fail always works again."""
        self.assert_failures_were_met()
        self._faults.clear()

    def forget_failures(self) -> None:
        """Nothing fails any more, whether what was to fail was met or not."""
        self._faults.clear()

    def before_next(self, verb: Verb, hook: Callable[[], None]) -> None:
        """Just before the next *verb*, *hook* is called: somebody is faster."""
        self._hooks.append((verb, hook))

    def assert_failures_were_met(self) -> None:
        """A test that injects a failure which nothing runs into tests nothing."""
        unmet = [fault.verb for fault in self._faults if not fault.hits] + ["observe"] * len(self._unreadable)
        assert not unmet, f"never ran into the injected failure of {unmet}: does the test need updating?"

    # --- the port ----------------------------------------------------------------------------------------------

    async def observe(self, scope: Scope, targets: Iterable[Towards] = ()) -> Observed:
        """See `port.Kernel.observe`."""
        await asyncio.sleep(0)
        self._hook("observe")
        if self._unreadable:
            raise self._unreadable.pop()
        self.looks.append(scope)
        machine = self.machine
        links_read = scope.everything or scope.host or not self._copy_good
        if links_read and any(key.link not in machine.links for key in self._copy):
            self._copy_good = False  # made under names that are no more
        if scope.everything or not self._copy_good:
            self._copy = dict(machine.addresses)
            self._copy_good = True
        if not (scope.everything or scope.host):
            return Observed(addresses=dict(self._copy), keeps_proto=machine.keeps_proto)
        numbered = {key.link for key in self._copy if key.ip.version == 4}
        read = [
            name
            for name, link in machine.links.items()
            if link.outer or (link.answers_arp and (name in numbered or link.kind != "veth"))
        ]
        vrfs = any(link.kind == "vrf" for link in machine.links.values())
        return Observed(
            links=dict(machine.links),
            addresses=dict(self._copy),
            sysctls={k: machine.sysctls[k] for k in map(SysctlKey, paths_of(read, vrfs=vrfs)) if k in machine.sysctls},
            sources={target: machine.sources[target] for target in targets if target in machine.sources},
            modules=frozenset(machine.modules),
            keeps_proto=machine.keeps_proto,
            guard=machine.observed_guard,
            ports=frozenset(machine.ports),
        )

    async def obstacles(self, modules: Iterable[str]) -> Mapping[str, DsrError]:
        """See `port.Kernel.obstacles`."""
        gone = [name for name in modules if name not in self.machine.loadable]
        return {name: Unsupported(f"the running kernel has no module {name}", "install the package") for name in gone}

    async def apply(self, actions: Sequence[Action]) -> tuple[Outcome, ...]:
        """See `port.Kernel.apply`."""
        await asyncio.sleep(0)
        return tuple(self._outcome(action) for action in actions)

    async def changes(self) -> Changes:
        """See `port.Kernel.changes`."""
        await self._something.wait()
        self._something.clear()
        changes = Changes(frozenset(self._changes), dict(self._by), self._lost)
        self._changes.clear()
        self._by.clear()
        self._lost = False
        return changes

    async def who(self, port: int) -> str:
        """See `port.Kernel.who`."""
        return self.processes.get(port, f"process {port}, which has ended")

    # --- inside ------------------------------------------------------------------------------------------------

    def _outcome(self, action: Action) -> Outcome:
        self._hook(type(action))
        if isinstance(action, LoadModule) and action.name not in self.machine.loadable | self.machine.modules:
            return Outcome(action, Result.SKIPPED, NotYet("the kernel is asked for it when the link is made"))
        fault = self._fault(type(action))
        if fault and not fault.done:
            return Outcome(action, Result.FAILED, fault.error)
        error: DsrError | None = None
        before, self._actor = self._actor, US
        try:
            self._carry_out(action)
        except RefusedError as refused:
            error = self._meaning(action, refused.code)
        finally:
            self._actor = before
        error = error or (fault.error if fault else None)
        return Outcome(action, Result.FAILED if error else Result.DONE, error)

    def _carry_out(self, action: Action) -> None:
        machine = self.machine
        match action:
            case LoadModule():
                machine.load(action.name)
            case WriteGuard():
                machine.guard = action.table
            case HoldGuard():
                machine.guard_held = True
            case RemoveGuard():
                machine.guard = None
            case AddAddress():
                machine.add_address(action.address)
            case ReplaceAddress():
                machine.replace_address(action.address)
            case DeleteAddress():
                machine.delete_address(action.key)
            case AddPort():
                machine.add_port(UdpPort(action.port))
            case DeletePort():
                machine.delete_port(action.port)
            case WriteSysctl():
                machine.write_sysctl(action.key, action.sysctl.value)
            case _:
                self._change_link(action)

    def _change_link(self, action: Action) -> None:
        machine = self.machine
        match action:
            case AddLink():
                machine.add_link(action.link)
            case ChangeLink():
                machine.change_link(action.link)
            case MarkLink():
                machine.mark_link(action.name, action.group, action.alias)
            case MoveLink():
                machine.move_link(action.name, action.vrf)
            case RenameLink():
                machine.rename_link(action.name, action.to)
            case BringUp() | TakeDown():
                machine.set_up(action.name, isinstance(action, BringUp))
            case DeleteLink():
                machine.delete_link(action.name)

    def _announced(self, key: Key) -> None:
        """The kernel tells its listeners; it names who asked for IPv4 addresses only: the rest may be our own work."""
        if not self._hearing:
            return
        if isinstance(key, AddressKey):
            self._keep_copy(key)
            if key.ip.version == 4 and self._actor == US:
                return
            if key.ip.version == 4 and self._actor != NOBODY:
                self._by[key] = self._actor
        if key == GUARD and self._actor != NOBODY:
            self._by[key] = self._actor
        if isinstance(key, LinkKey) and any(k.link == key.name not in self.machine.links for k in self._copy):
            self._copy_good = False  # renamed: what is known under the old name is worth nothing
        self._changes.add(key)
        self._something.set()

    def _keep_copy(self, key: AddressKey) -> None:
        now: Address | None = self.machine.addresses.get(key)
        if now is None:
            self._copy.pop(key, None)
        else:
            self._copy[key] = now

    def _fault(self, verb: type[Action]) -> _Fault | None:
        for fault in self._faults:
            if fault.verb == verb and not (fault.once and fault.hits):
                fault.hits += 1
                return fault
        return None

    def _hook(self, verb: Verb) -> None:
        for entry in [entry for entry in self._hooks if entry[0] == verb][:1]:
            self._hooks.remove(entry)
            entry[1]()

    def _meaning(self, action: Action, code: int) -> DsrError | None:
        """What errno *code* comes to, in the words of the real kernel's room; None where it is success."""
        if isinstance(action, AddAddress | ReplaceAddress) and code == errno.ENODEV:
            link = action.address.link
            return NotYet(f"there is no device {link}", f"create it, or correct device = {link!r}")
        if isinstance(action, AddAddress | ReplaceAddress) and code in (errno.EACCES, errno.EOPNOTSUPP):
            link = action.address.link
            remedy = f"sysctl -w net.ipv6.conf.{link}.disable_ipv6=0"
            return Unsupported(f"cannot {action}: IPv6 is switched off on {link}", remedy)
        if isinstance(action, AddAddress) and code == errno.EEXIST:
            if action.key in self.machine.addresses:
                return None
            where = f"{action.address.ip} is on {action.address.link} with another prefix length"
            return Foreign(where, "remove that address")
        if isinstance(action, AddLink) and code == errno.EOPNOTSUPP:
            return Unsupported(f"this kernel has no links of kind {action.link.kind}")
        if isinstance(action, AddPort) and code == errno.EADDRINUSE:
            if any(port.serves(action.port) for port in self.machine.ports):
                return None
            return Foreign(f"cannot {action}: another program has that port")
        success: dict[type, set[int]] = {
            DeleteAddress: {errno.EADDRNOTAVAIL, errno.ENODEV},
            DeleteLink: {errno.ENODEV},
            DeletePort: {errno.EINVAL},
            WriteSysctl: {errno.ENOENT},
        }
        return None if code in success.get(type(action), set()) else explain(code, f"cannot {action}")
