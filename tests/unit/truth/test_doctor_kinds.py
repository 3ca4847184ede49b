"""What the doctor says of the tunnels of each encapsulation, over IPv4 and IPv6: ports, modules, modes, what fits."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from dsr_agent.kernel.policy import Route
from dsr_agent.state.errors import Unsupported
from dsr_agent.state.model import (
    Link,
    Observed,
)
from dsr_agent.state.ports import PortKey, UdpPort
from dsr_agent.state.probe import Seen, Sight
from dsr_agent.truth.doctor.causes import Cause, Stage, StageResult
from dsr_agent.truth.doctor.evidence import Counters
from dsr_agent.truth.doctor.walk import diagnose
from dsr_agent.truth.probe import Pair
from tests.unit.truth.kinds import (
    BALANCERS,
    HERES,
    KINDS,
    PORT,
    VIPS,
    World,
    first,
    sent,
    told,
    tunnel,
)

# --- ports, modules, modes --------------------------------------------------------------------------------------------


def changed(world: World, **changes: Any) -> Observed:
    return replace(world.observed(), **changes)


def key_of(version: int) -> PortKey:
    return PortKey(PORT, version, ip_address(HERES[version]))


@pytest.mark.parametrize(("kind", "version"), [each for each in KINDS if each[0] in ("gue", "fou")])
def test_a_port_that_somebody_closed(kind: str, version: int) -> None:
    world = World((tunnel(kind, version),))
    counted = Counters({"UdpNoPorts": 7, "Udp6NoPorts": 7, "IcmpOutDestUnreachs": 7}, guard={})
    sights = {
        Pair(ip_address(VIPS[4]), tunnel(kind, version).name): Sight(Seen.NO_TUNNEL, why="packets are not taken out")
    }
    found = diagnose(
        world.evidence(sent(kind, version), observed=changed(world, ports=frozenset()), after=counted, sights=sights)
    )
    assert told(found) == [("port_closed", tunnel(kind, version).name)]
    assert (first(found).remedy, first(found).saw) == (
        "dsr-agent apply",
        f"packets are not taken out of {key_of(version)}",
    )
    assert "IcmpOutDestUnreachs +7 in 3 s" in first(found).evidence


def test_a_port_that_somebody_else_has() -> None:
    world = World((tunnel("gue"),))
    observed = changed(world, ports=frozenset({UdpPort(key_of(4), gue=False, protocol=4, ours=False)}))
    found = diagnose(world.evidence(observed=observed))
    assert told(found)[0] == ("port_taken", "dsr-gue")
    assert "ip fou del port 6080 local 10.0.0.2" in first(found).remedy


def test_a_port_that_a_socket_has() -> None:
    world = World((tunnel("fou", 6),))
    found = diagnose(world.evidence(observed=changed(world, ports=frozenset()), squatters={key_of(6): "[::]:6080"}))
    assert told(found)[0] == ("port_taken", "dsr-fou6")
    assert "a socket on [::]:6080" in first(found).saw
    assert "ss -lnup sport = 6080" in first(found).remedy


def test_without_module_fou() -> None:
    world = World((tunnel("gue"),))
    observed = changed(world, ports=frozenset(), modules=frozenset({"sit"}))
    found = diagnose(world.evidence(observed=observed))
    assert told(found)[0] == ("module_missing", "dsr-gue")
    assert first(found).remedy == "modprobe fou"
    obstacle = {"fou": Unsupported("module fou is blacklisted in /etc/x, line 3", "remove that line")}
    found = diagnose(world.evidence(observed=replace(observed, obstacles=obstacle)))
    assert (first(found).cause, first(found).remedy) == (Cause.MODULE_FORBIDDEN, "remove that line")
    stages = {each.stage: each for each in found.vips[ip_address(VIPS[4])]}
    assert stages[Stage.TUNNEL].saw == "follows from module_forbidden"


@pytest.mark.parametrize(("mode", "words"), [(4, "takes only IPv4 inside"), (41, "takes only IPv6 inside")])
def test_a_link_in_the_wrong_mode(mode: int, words: str) -> None:
    world = World((tunnel("ipip", 6),))
    observed = world.observed()
    link = observed.links["dsr-ipip6"]
    assert link.outer
    links = {**observed.links, link.name: replace(link, outer=replace(link.outer, protocol=mode))}
    found = diagnose(world.evidence(sent("ipip", 6), observed=replace(observed, links=links)))
    assert told(found) == [("tunnel_other", "dsr-ipip6")]
    assert words in first(found).saw


@pytest.mark.parametrize(("kind", "fallback"), [("ipip", "ip6tnl0"), ("gre", "ip6gre0")])
def test_fallback_devices_over_ipv6(kind: str, fallback: str) -> None:
    world = World((tunnel(kind, 6),))
    observed = world.observed()
    own = observed.links[f"dsr-{kind}6"]
    links = {**observed.links, own.name: replace(own, up=False), fallback: Link(fallback, own.kind, up=True)}
    found = diagnose(world.evidence(observed=replace(observed, links=links)))
    assert ("tunnel_masked", own.name) in told(found)


# --- what fits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "version", "overhead"),
    [
        ("ipip", 4, 20),
        ("ipip", 6, 40),
        ("gre", 4, 24),
        ("gre", 6, 44),
        ("fou", 4, 28),
        ("fou", 6, 48),
        ("gue", 4, 40),
        ("gue", 6, 60),
    ],
)
def test_how_much_fits(kind: str, version: int, overhead: int) -> None:
    """GUE with room for remote checksum offload, because nobody knows who uses it."""
    found = diagnose(World((tunnel(kind, version),)).evidence(sent(kind, version)))
    stages = {each.stage: each for each in found.vips[ip_address(VIPS[4])]}
    assert stages[Stage.MTU].saw == f"{1500 - overhead} bytes fit into 1500"


def test_an_encapsulation_limit_takes_its_room() -> None:
    made = World((tunnel("ipip", 6),)).evidence(sent("ipip", 6, limit=True), told_mss={4: 1420, 6: 1400})
    (found,) = diagnose(made).causes
    assert (found.cause, found.result) == (Cause.MTU_BLACK_HOLE, StageResult.WARNING)
    assert "clients are told of TCP segments of 1420 bytes, and 1412 fit; 1452 bytes fit into 1500" in found.saw
    assert found.remedy == "write mss = 1392 in [guard]"


def test_what_a_balancers_own_link_says_takes_no_room_from_requests() -> None:
    """A link of Linux solicits routers and reports groups, with its encapsulation limit around that."""
    packet = sent("ipip", 6, 6, limit=True)
    assert packet.inner
    solicitation = replace(packet, inner=replace(packet.inner, destination=ip_address("ff02::2")))
    found = diagnose(World((tunnel("ipip", 6),)).evidence(sent("ipip", 6), solicitation))
    stages = {each.stage: each for each in found.vips[ip_address(VIPS[4])]}
    assert stages[Stage.MTU].saw == "1460 bytes fit into 1500"


def test_pieces_that_get_lost_over_ipv6() -> None:
    piece = replace(sent("gue", 6), fragment=True)
    made = World((tunnel("gue", 6),)).evidence(sent("gue", 6), piece, after=Counters({"Ip6ReasmFails": 3}))
    assert first(diagnose(made)).cause is Cause.MTU_BLACK_HOLE
    assert "raise the MTU between balancer and server to 1560" in first(diagnose(made)).remedy


def test_the_way_to_a_balancer_over_ipv6_may_be_narrow() -> None:
    way = replace(Route("eth0"), mtu=1400)
    made = World((tunnel("gre", 6),)).evidence(sent("gre", 6), to_balancers={ip_address(BALANCERS[6]): way})
    stages = {each.stage: each for each in diagnose(made).vips[ip_address(VIPS[4])]}
    assert "1356 bytes fit into 1400" in stages[Stage.MTU].saw
