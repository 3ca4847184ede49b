"""
The network around this machine, and the application on it, as two services of its own.

This machine is the lab's first real server: ``rs1`` is its own first namespace; client, router, balancer and the other
real server are namespaces beside it. ``python3 -m tests.installed.network`` builds them, at every boot, as an
administrator's network configuration would.
"""

from __future__ import annotations

from pathlib import Path

from tests.lab import world
from tests.lab.servers import WRAPPED
from tests.lab.world import RS1

KEPT = Path("/var/lib/lab")
SEEN = KEPT / "seen"

_SERVICE = """\
[Unit]
Description={what}
{order}

[Service]
{how}
WorkingDirectory={kept}/repo
Environment=PYTHONPATH={kept}/repo PYTHONUNBUFFERED=1

[Install]
WantedBy=multi-user.target
"""

UNITS = {
    "lab-network.service": _SERVICE.format(
        what="Network of the lab",
        order="Wants=network.target\nBefore=network.target",
        how="Type=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/python3 -m tests.installed.network",
        kept=KEPT,
    ),
    "lab-application.service": _SERVICE.format(
        what="Application on the VIPs",
        order="Wants=network-online.target\nAfter=network-online.target",
        how=f"ExecStartPre=/bin/sh -c 'ip -o address show dev lo >{SEEN}'\n"
        "ExecStart=/usr/bin/python3 -m tests.installed.application",
        kept=KEPT,
    ),
}


def build() -> None:
    """All of it."""
    world.build(WRAPPED, home=RS1)


if __name__ == "__main__":
    build()
