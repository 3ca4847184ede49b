"""A real server as it comes: systemd-networkd on ``lo``, and udev applying sysctl.d to each new link."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.agent import Agent, agent_settings, tunnel, vip
from tests.lab.drift import Drift, repair_of, shell
from tests.lab.eye import Eye
from tests.lab.ledger import Ledger
from tests.lab.servers import IPIP, VIPS, clean, real_server, streams, total
from tests.lab.spaces import run, sysctl
from tests.lab.world import RS1

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(os.environ.get("DSR_LAB_PROFILE") != "full", reason="needs the full profile of the machine"),
]

CONFIG = agent_settings(poll_interval=60) + tunnel("ipip") + tunnel("gre") + "".join(vip(address) for address in VIPS)
NETWORK = Path("/etc/systemd/network/10-lo.network")
SYSCTLS = Path("/etc/sysctl.d/90-lab.conf")


@pytest.fixture(scope="module")
def server() -> Iterator[Eye]:
    """The first real server is the machine itself, because that is where its systemd and udev are."""
    with real_server(home=RS1) as eye:
        yield eye
        with contextlib.closing(Agent(RS1, CONFIG)) as agent:
            agent.call("teardown")


@contextlib.contextmanager
def text_in(path: Path, text: str) -> Iterator[None]:
    """A file, for a while."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    try:
        yield
    finally:
        path.unlink()


@pytest.mark.parametrize(
    "how", ["networkctl reload", "networkctl reconfigure lo", "systemctl restart systemd-networkd"]
)
def test_networkd_that_manages_lo(how: str, server: Eye, ledger: Ledger) -> None:
    """It removes what it does not know from links that it manages."""
    with text_in(NETWORK, "[Match]\nName=lo\n[Network]\nAddress=198.51.100.77/32\n"), Agent(RS1, CONFIG) as agent:
        run("networkctl", "reload")
        server.until(lambda view: any(str(at.ip) == "198.51.100.77" for at in view.addresses), "networkd's address")
        agent.settle()
        repair = repair_of(Drift(how, IPIP, shell(how)), server)
        ledger.add(f"{how} (lo is managed)", repair.seconds, repair.tally)
        with streams() as found:
            assert clean(total(found))
        assert agent.call("status").returncode == 0


@pytest.mark.parametrize("value", [1, 2])
def test_udev_applies_sysctls_to_new_links(value: int, server: Eye, ledger: Ledger) -> None:
    """A moment after a link was made, udev has systemd-sysctl write what the administrator wants on all links."""
    with text_in(SYSCTLS, f"net.ipv4.conf.*.rp_filter = {value}\n"), Agent(RS1, CONFIG) as agent:
        agent.settle()
        repair = repair_of(Drift("the tunnel is made anew", IPIP, shell("ip link del dsr-ipip")), server)
        ledger.add(f"tunnel deleted, udev sets rp_filter = {value}", repair.seconds, repair.tally)
        run("udevadm", "settle")
        _loose_in_the_end(server)
        with streams() as found:
            run("systemctl", "restart", "systemd-sysctl")
            _loose_in_the_end(server)
            tally = total(found)
        ledger.add(f"systemd-sysctl sets rp_filter = {value} everywhere", None, tally)
        with streams() as found:
            assert clean(total(found))
        assert agent.call("status").returncode == 0


def _loose_in_the_end(server: Eye) -> None:
    wanted = {(f"ipv4/conf/{name}/rp_filter", "2") for name in ("dsr-ipip", "dsr-gre")}
    server.until(lambda view: wanted <= view.sysctls, "loose reverse-path filtering on the tunnels")
    assert sysctl(RS1, "ipv4/conf/dsr-ipip/rp_filter") == "2"
