"""
Sysctls, read and written as files below a root (tests hand in another one).

``/proc/sys/net`` shows the network namespace of whoever reads, so nothing here needs to know which one that is.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dsr_agent.kernel.refusals import explain
from dsr_agent.state.errors import DsrError
from dsr_agent.state.model import SysctlKey

# What is looked at on a link; the reverse-path and ARP values take effect as the larger of the link's and "all".
IPV4_NAMES = ("rp_filter", "forwarding", "arp_ignore", "arp_announce")
IPV6_NAMES = ("disable_ipv6", "forwarding", "addr_gen_mode")


# Whether a socket that is bound to no device gets what arrives in VRFs (Documentation/networking/vrf.rst).
OUT_OF_VRFS = {transport: f"net/ipv4/{transport}_l3mdev_accept" for transport in ("tcp", "udp")}


def paths_of(links: Iterable[str], *, vrfs: bool = False) -> list[str]:
    """The sysctls that matter for *links*, and those of ``all``; *vrfs*: and for VRFs."""
    paths = ["net/ipv6/conf/all/forwarding"]  # there or not tells whether this host has IPv6
    paths += OUT_OF_VRFS.values() if vrfs else ()
    for link in ("all", *links):
        paths += [f"net/ipv4/conf/{link}/{name}" for name in IPV4_NAMES]
        if link != "all":
            paths += [f"net/ipv6/conf/{link}/{name}" for name in IPV6_NAMES]
    return paths


def read(paths: Iterable[str], root: Path) -> dict[SysctlKey, int]:
    """The values of those *paths* that exist and hold a number."""
    found = {}
    for path in paths:
        try:
            with open(root / path, "rb") as file:
                found[SysctlKey(path)] = int(file.read(64))
        except (OSError, ValueError):
            continue  # IPv6 switched off, the link just gone, or not a number: not there to be wanted
    return found


def write(path: str, value: int, root: Path) -> DsrError | None:
    """Write *value*; what stands in the way, or None."""
    try:
        with open(root / path, "wb", buffering=0) as file:
            file.write(str(value).encode())
    except FileNotFoundError:
        return None  # the link is gone, or has no IPv6: nothing there to be wanted, and the next look tells
    except OSError as error:
        return explain(error.errno or 0, f"cannot set {path} to {value}")
    return None
