"""Reports for tests, from plain words."""

from __future__ import annotations

from ipaddress import ip_address

from dsr_agent.config.desired import address_of
from dsr_agent.state.actions import AddAddress, Plan, Problem
from dsr_agent.state.errors import DsrError, NotYet
from dsr_agent.state.local import LocalAddress
from dsr_agent.state.marks import ALIAS, LINK_GROUP
from dsr_agent.state.model import (
    EVERYTHING,
    Address,
    AddressKey,
    Desired,
    Link,
    Observed,
    Outer,
    Scope,
    SysctlKey,
    Tunnel,
    Vip,
)
from dsr_agent.state.report import Outcome, PassCause, Report, Result
from dsr_agent.state.why import Why

LOCAL = ip_address("10.0.0.2")
VIP1, VIP2 = "192.0.2.10", "2001:db8::10"


def vip(address: str, *tunnels: str) -> Vip:
    """A VIP on lo."""
    return Vip(ip_address(address), address, tunnels=tunnels)


def key(address: str) -> AddressKey:
    """The key of a VIP on lo."""
    return vip(address).key


def desired(*addresses: str, tunnels: tuple[str, ...] = ("dsr-ipip",)) -> Desired:
    """VIPs, and ipip tunnels of these names."""
    assert LOCAL.version == 4
    vips = [vip(address, *tunnels) for address in addresses]
    return Desired(
        tunnels={name: Tunnel(name, "ipip", LocalAddress(LOCAL)) for name in tunnels},
        vips={each.key: each for each in vips},
        addresses={each.key: address_of(each) for each in vips},
        silence_arp=False,
    )


def observed(*addresses: str, links: tuple[str, ...] = ("dsr-ipip",), up: bool = True, rp_filter: int = 2) -> Observed:
    """What the kernel holds when it is as `desired`, of these VIPs and links."""
    there = [address_of(vip(address)) for address in addresses]
    there += [Address("eth0", LOCAL, 24)]
    sysctls = {SysctlKey("net/ipv4/conf/all/rp_filter"): 1}
    for name in links:
        sysctls[SysctlKey(f"net/ipv4/conf/{name}/rp_filter")] = rp_filter
        sysctls[SysctlKey(f"net/ipv4/conf/{name}/forwarding")] = 0
    return Observed(
        links={name: Link(name, "ipip", up, LINK_GROUP, ALIAS, Outer(local=LOCAL, protocol=4)) for name in links},
        addresses={address.key: address for address in there},
        sysctls=sysctls,
    )


def add(address: str, why: Why = Why.MISSING) -> AddAddress:
    """The step that puts a VIP back."""
    return AddAddress(address_of(vip(address)), why)


def report(
    cause: PassCause = PassCause.DRIFT,
    *,
    scope: Scope = EVERYTHING,
    found_missing: tuple[str, ...] = (),
    result: Result = Result.DONE,
    error: DsrError | None = None,
    problems: tuple[Problem, ...] = (),
    seconds: float = 0.002,
    saw: Observed | None = None,
    wanted: Desired | None = None,
) -> Report:
    """A pass that found VIPs missing and did about each what *result* says."""
    actions = tuple(add(address) for address in found_missing)
    if error is None and result is not Result.DONE:
        error = NotYet("no")
    left = () if result is Result.DONE else actions
    return Report(
        scope,
        cause,
        Plan(actions, problems),
        tuple(Outcome(action, result, error) for action in actions),
        Plan(left, problems),
        seconds,
        desired=wanted or desired(VIP1, VIP2),
        observed=saw or observed(VIP1, VIP2),
    )
