"""Whether somebody listens for what the VIPs declare, and where instead. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from dsr_agent.kernel.sockets import Socket
from dsr_agent.state.model import AddressKey, Vip


class Service(NamedTuple):
    """A service that a VIP declares, as the file writes it: ``udp/1812``."""

    vip: AddressKey
    name: str

    @property
    def transport(self) -> str:
        return self.name.partition("/")[0]

    @property
    def port(self) -> int:
        return int(self.name.partition("/")[2])


def services_of(key: AddressKey, vip: Vip) -> Iterator[Service]:
    """What one VIP declares."""
    return (Service(key, name) for name in vip.services)


class Verdict(StrEnum):
    """Where a service is listened to."""

    BOUND = "bound"  # to the VIP
    WILDCARD = "wildcard"  # to every address
    ELSEWHERE = "elsewhere"  # where the VIP's requests do not come
    NOBODY = "nobody"


class ServiceFinding(NamedTuple):
    """What was seen of one service; *at* are the sockets that were decisive, *vrf* is that of the VIP."""

    service: str
    verdict: Verdict
    at: tuple[str, ...] = ()
    vrf: str = ""

    @property
    def listening(self) -> bool:
        """Whether a request would reach somebody."""
        return self.verdict in (Verdict.BOUND, Verdict.WILDCARD)

    @property
    def doubtful(self) -> bool:
        """
        Whether the answer may leave from another address than the VIP.

        TCP cannot; UDP does, unless the application asks for each request's destination. The kernel does not tell
        whether it does, and not all do (FreeRADIUS issue 752).
        """
        return self.verdict is Verdict.WILDCARD and self.service.startswith("udp/")

    def __str__(self) -> str:
        at = ", ".join(self.at)
        if self.verdict is Verdict.BOUND:
            return "bound to the VIP"
        if self.verdict is Verdict.ELSEWHERE and self.vrf:
            start = f"start it in VRF {self.vrf} (ip vrf exec {self.vrf} PROGRAM), or bind it to that device"
            return f"bound to {at} only, where the VIP's requests never come: {start}"
        if self.verdict is Verdict.ELSEWHERE:
            return f"bound to {at} only, where the VIP's requests never come: bind it to the VIP"
        if self.verdict is Verdict.NOBODY:
            return "nobody listens"
        text = f"bound to every address ({at})"
        if self.doubtful:
            text += ", so it may answer from another one than the VIP (unless it uses IP_PKTINFO): bind it to the VIP"
        return text


def declared(vips: Mapping[AddressKey, Vip]) -> tuple[Service, ...]:
    """All that is declared."""
    return tuple(service for key, vip in vips.items() for service in services_of(key, vip))


def find(
    services: Iterable[Service],
    vips: Mapping[AddressKey, Vip],
    sockets: Iterable[Socket],
    links: Mapping[str, str],
    out_of_vrfs: Collection[str] = (),
) -> dict[Service, ServiceFinding]:
    """
    What *sockets* mean for each service; *links* says which link carries which tunnel.

    *out_of_vrfs* are the transports whose sockets get what arrives in VRFs, although they are bound to no device.
    """
    at: dict[tuple[str, int], list[Socket]] = {}
    for each in sockets:
        at.setdefault((each.transport, each.port), []).append(each)
    return {
        service: _judge(
            service,
            vips[service.vip],
            at.get((service.transport, service.port), []),
            links,
            everywhere=service.transport in out_of_vrfs,
        )
        for service in services
    }


def _judge(
    service: Service, vip: Vip, sockets: list[Socket], links: Mapping[str, str], *, everywhere: bool
) -> ServiceFinding:
    reached = [each for each in sockets if each.takes(vip.ip) and _comes_to(each, vip, links, everywhere=everywhere)]
    # The kernel prefers the socket that says more.
    if bound := [each for each in reached if not each.is_wildcard]:
        return ServiceFinding(service.name, Verdict.BOUND, _texts(bound))
    if reached:
        return ServiceFinding(service.name, Verdict.WILDCARD, _texts(reached))
    if sockets:
        return ServiceFinding(service.name, Verdict.ELSEWHERE, _texts(sockets), vip.vrf)
    return ServiceFinding(service.name, Verdict.NOBODY)


def _comes_to(each: Socket, vip: Vip, links: Mapping[str, str], *, everywhere: bool) -> bool:
    """
    Whether a request comes in where the socket is bound: out of a tunnel, or by the device of a VRF.

    What arrives in a VRF goes to sockets of that VRF (``include/net/inet_sock.h``, inet_bound_dev_eq), unless a sysctl
    says that it goes *everywhere*.
    """
    if not vip.tunnels:
        return True
    if not each.device:
        return everywhere or not vip.vrf
    doors = {links.get(tunnel, tunnel) for tunnel in vip.tunnels}
    return each.device in doors or each.device == vip.vrf or (each.device == vip.device != "lo")


_SHOWN = 3


def _texts(sockets: list[Socket]) -> tuple[str, ...]:
    """Each place once, and not all of very many: a pool of workers shares one (SO_REUSEPORT)."""
    found = sorted({str(each) for each in sockets})
    return (*found[:_SHOWN], *([f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else []))


# --- from look to look ------------------------------------------------------------------------------------------------


class Standing(NamedTuple):
    """
    How a service stands after all looks so far: what was last seen, and what is held true.

    *against* counts the looks in a row that contradict *up*.
    """

    finding: ServiceFinding
    up: bool
    against: int = 0

    @property
    def settled(self) -> bool:
        """Whether another look that sees the same changes nothing."""
        return not self.against

    @property
    def why_not(self) -> str:
        """Why the VIP is not ready; empty if it is not for this."""
        if self.up:
            return ""
        seen = "listened to again, to be seen once more" if self.finding.listening else str(self.finding)
        return f"{self.finding.service}: {seen}"

    def after(self, finding: ServiceFinding, rise: int, fall: int) -> Standing:
        """This after one more look."""
        if finding.listening == self.up:
            return Standing(finding, self.up)
        against = self.against + 1
        if against >= (rise if finding.listening else fall):
            return Standing(finding, finding.listening)
        return Standing(finding, self.up, against)


Standings = Mapping[Service, Standing]


def after(before: Standings, found: Mapping[Service, ServiceFinding], rise: int, fall: int) -> dict[Service, Standing]:
    """How all stand after one more look; what was never seen before is as it is seen."""
    return {
        service: before[service].after(finding, rise, fall)
        if service in before
        else Standing(finding, finding.listening)
        for service, finding in found.items()
    }
