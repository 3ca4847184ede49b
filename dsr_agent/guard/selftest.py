"""
The self-test's packets: let past the sets that count the balancers' packets, and counted for themselves. Pure.

They carry a mark, which no packet from outside does; still they have to come from this host itself and look like the
self-test's. What does not is asked for like any other packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dsr_agent.guard.expressions import ACCEPT, NOT_OURS, OURS, jump, match, meta, packet, rule
from dsr_agent.guard.outer import Entrance, asked_for
from dsr_agent.guard.sets import ADDRESS, element, hashed, of_addresses
from dsr_agent.guard.vrfs import from_here
from dsr_agent.state.marks import PROBE_MARK
from dsr_agent.state.probe import ANYBODY, CLIENTS
from dsr_agent.state.table import Chain, FilterSet

CHAIN = COUNTED = "self_test"
_UDP = 17


def sets(links: Iterable[str]) -> Iterator[tuple[str, FilterSet]]:
    """*links* are those that the packets come out of; each is counted by them."""
    yield COUNTED, hashed(("ifname",), (element(link) for link in links), counted=True)
    for version in ADDRESS:
        yield f"{COUNTED}{version}", of_addresses(version, CLIENTS)


def entrance() -> str:
    """The rule that has them looked at."""
    return rule(match(meta("mark"), PROBE_MARK), jump(CHAIN))


def chain(entrances: Iterable[Entrance], *, vrfs: bool = False) -> Chain:
    """What lets them in, as they arrive and as they come out."""
    every = tuple(entrances)
    senders = list(asked_for(every))
    for version in sorted({entrance.version for entrance in every if not entrance.senders}):
        source = packet("ip" if version == 4 else "ip6", "saddr")
        senders.append(match(source, str(ANYBODY[version])))
    arriving = (rule(NOT_OURS, here, sender, ACCEPT) for here in from_here(vrfs=vrfs) for sender in senders)
    return Chain((*arriving, *_out()))


def _out() -> Iterator[str]:
    for version, protocol in ((4, "ip"), (6, "ip6")):
        client = match(packet(protocol, "saddr"), f"@{COUNTED}{version}")
        yield rule(OURS, match(meta("l4proto"), _UDP), client, match(meta("iifname"), f"@{COUNTED}"), ACCEPT)
