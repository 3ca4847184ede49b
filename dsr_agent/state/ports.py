"""The UDP ports at which the kernel takes packets out of UDP and hands them to the tunnels (``ip fou``)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address


@dataclass(frozen=True, slots=True)
class PortKey:
    """
    Which UDP port: the kernel tells them apart by number, version of IP, local address (None: any) and device.

    *device* is the VRF in which the packets arrive, because a socket that is bound to none gets nothing from there.
    """

    number: int
    version: int
    local: IPv4Address | IPv6Address | None = None
    device: str = ""

    def __str__(self) -> str:
        of = f"every IPv{self.version} address" if self.local is None else str(self.local)
        return f"UDP port {self.number} of {of}" + (f" in {self.device}" if self.device else "")

    def keeps_out(self, other: PortKey) -> bool:
        """Whether the kernel refuses *other* while this is there (``net/ipv4/udp.c``, ``inet_rcv_saddr_equal``)."""
        if (self.number, self.version) != (other.number, other.version):
            return False
        here = None in (self.local, other.local) or self.local == other.local
        return here and ("" in (self.device, other.device) or self.device == other.device)


@dataclass(frozen=True, slots=True)
class UdpPort:
    """
    A port as the kernel holds it.

    *gue*: it reads what comes as GUE, which IP right behind the UDP header is, too (GUE's variant 1); one that does
    not takes everything as *protocol*. *narrow*: it takes packets of one peer only. *ours*: it carries our mark.
    """

    key: PortKey
    gue: bool = True
    protocol: int = 0
    narrow: bool = False
    ours: bool = True

    def __str__(self) -> str:
        return f"{self.key} ({self.form})"

    @property
    def form(self) -> str:
        """Which packets it takes, and how."""
        form = "gue" if self.gue else f"protocol {self.protocol}"
        return f"{form}{', of one peer only' if self.narrow else ''}"

    def serves(self, wanted: PortKey) -> bool:
        """Whether everything that is sent to *wanted* is taken out of UDP here as it should be."""
        here = self.key.local in (None, wanted.local) and self.key.device == wanted.device
        return here and (self.key.number, self.key.version) == (wanted.number, wanted.version) and self.takes_all

    @property
    def takes_all(self) -> bool:
        """Whether it takes everything that a port of ours does."""
        return self.gue and not self.narrow
