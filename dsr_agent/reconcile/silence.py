"""
Silence on the segments that this host shares with VIPs: the ARP sysctls of links that are not ours. Pure.

It comes before the VIPs: from the moment this host has one, it would answer for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.reconcile.resolve import Wanted
from dsr_agent.state.actions import WriteSysctl
from dsr_agent.state.model import Observed, Sysctl, SysctlKey
from dsr_agent.state.why import Why


def steps(wanted: Wanted, observed: Observed) -> Iterator[WriteSysctl]:
    """What is to be raised."""
    for name, sysctl in wanted.sysctls:
        if sysctl.at_least and not satisfied(sysctl, observed):
            yield WriteSysctl(sysctl, name, Why.CHANGED)


def satisfied(sysctl: Sysctl, observed: Observed) -> bool:
    """
    Whether the value is as wanted; one that does not exist is not wanted.

    What is only raised counts as the kernel counts it: the larger of ``all`` and the link's own.
    """
    found = observed.sysctls.get(sysctl.key)
    if found is None:
        return True
    if sysctl.at_least:
        *front, _, name = sysctl.path.split("/")
        found = max(found, observed.sysctls.get(SysctlKey("/".join((*front, "all", name))), 0))
    return sysctl.satisfied_by(found)
