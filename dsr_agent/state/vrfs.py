"""
Which VRF a link belongs to. Pure.

What arrives by a link that belongs to a VRF is looked up in the VRF's own routes, and the VRF's own link is to those
what ``lo`` is to the others: an address on it is accepted there and nowhere else.
Source: ``Documentation/networking/vrf.rst``.
"""

from __future__ import annotations

from collections.abc import Mapping

from dsr_agent.state.model import Link

KIND = "vrf"


def vrf_of(name: str, links: Mapping[str, Link]) -> str:
    """The VRF of the link called *name*, itself if it is one; empty for none."""
    link = links.get(name)
    if link is None or link.kind == KIND:
        return name if link else ""
    master = links.get(link.master)
    return link.master if master and master.kind == KIND else ""
