"""Seeing what a real server has, from outside and fast enough to time a repair."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from dsr_agent.kernel import addresses, links, netlink
from dsr_agent.state.marks import TUNNEL_ADDRESS, owns_link
from dsr_agent.state.model import Address, Link
from tests.lab.agent import DEADLINE
from tests.lab.spaces import inside, within

# Made by the modules themselves in every namespace; they have to stay down.
FALLBACKS = ("tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0")
_SYSCTLS = (
    *("ipv4/conf/{}/rp_filter", "ipv4/conf/{}/forwarding", "ipv4/conf/{}/arp_ignore", "ipv4/conf/{}/arp_announce"),
    *("ipv6/conf/{}/addr_gen_mode", "ipv6/conf/{}/forwarding", "ipv6/conf/{}/disable_ipv6"),
)

# Looking takes a few milliseconds of the only processor that user-mode Linux has; the agent needs it as well.
_PAUSE = 0.003


def _lasting(address: Address) -> bool:
    """Link-local addresses are made and removed by the kernel as it likes."""
    return not address.ip.is_link_local


@dataclass(frozen=True)
class View:
    """What there is at one moment; two views are equal when nothing that matters differs (an ifindex does not)."""

    links: frozenset[Link] = frozenset()
    addresses: frozenset[Address] = frozenset()
    sysctls: frozenset[tuple[str, str]] = frozenset()

    def minus(self, other: View) -> str:
        """What is here and not in the other one."""
        missing = (
            *(repr(link) for link in self.links - other.links),
            *(repr(address) for address in self.addresses - other.addresses),
            *(f"{path} = {value}" for path, value in self.sysctls - other.sysctls),
        )
        return ", ".join(sorted(missing))


@dataclass
class Eye:
    """Looks into one namespace, by a netlink socket of its own."""

    space: str
    _channel: netlink.Channel = field(init=False)

    def __post_init__(self) -> None:
        self._channel = within(self.space, netlink.Channel)

    def close(self) -> None:
        """Stop looking."""
        self._channel.close()

    def links(self) -> dict[str, Link]:
        """All links by name."""
        return {link.name: link for link in links.read(self._channel).values()}

    def addresses(self) -> frozenset[Address]:
        """All addresses that last."""
        names = {index: link.name for index, link in links.read(self._channel).items()}
        found = addresses.read(self._channel, names).values()
        # The kernel shortens the label of a link's first address when the link is renamed.
        return frozenset(replace(at, label="" if at.ip == TUNNEL_ADDRESS else at.label) for at in found if _lasting(at))

    def view(self) -> View:
        """All that the agent looks after, and what it must leave alone."""
        found = self.links()
        values = []
        with inside(self.space):
            for name in found:
                if name in FALLBACKS or name == "lo":
                    continue
                for path in _SYSCTLS:
                    try:
                        values.append((path.format(name), Path("/proc/sys/net", path.format(name)).read_text().strip()))
                    except OSError:  # just gone
                        continue
        return View(frozenset(found.values()), self.addresses(), frozenset(values))

    def until(self, good: Callable[[View], bool], what: str, deadline: float = DEADLINE) -> float:
        """Seconds until *good*; `AssertionError` with what is seen instead."""
        started = time.monotonic()
        while not good(seen := self.view()):
            time.sleep(_PAUSE)
            if time.monotonic() - started > deadline:
                raise AssertionError(f"{what}: not within {deadline:.0f} s; there is {View.minus(seen, View())}")
        return time.monotonic() - started

    def until_again(self, before: View, deadline: float = DEADLINE) -> float:
        """Seconds until all is as it was *before*."""
        started = time.monotonic()
        while (seen := self.view()) != before:
            time.sleep(_PAUSE)
            if time.monotonic() - started > deadline:
                missing, more = before.minus(seen), seen.minus(before)
                raise AssertionError(f"not repaired within {deadline:.0f} s: missing [{missing}], instead [{more}]")
        return time.monotonic() - started

    def ours(self) -> list[Link]:
        """The links with the agent's mark."""
        return [link for link in self.links().values() if owns_link(link)]
