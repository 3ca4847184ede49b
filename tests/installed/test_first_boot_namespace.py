"""The service in a network namespace: it may not enter one, and systemd does it for it. After all else of this boot."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed.machine import AGENT, CONFIG, FILE, Journal, active, in_sync, on_lo, systemctl, wait_for
from tests.lab.servers import VIPS
from tests.lab.spaces import run

NAME, VIP = "elsewhere", "198.18.0.1"
DROP_IN = Path("/run/systemd/system/dsr-agent.service.d/namespace.conf")


@pytest.fixture(scope="module", autouse=True)
def _namespace() -> Iterator[None]:
    """What the machine serves stays meanwhile, and is looked after again at the end."""
    run("ip", "netns", "add", NAME)
    FILE.write_text(f'[agent]\nnetns = "{NAME}"\n[[vip]]\naddress = "{VIP}"\n')
    yield
    DROP_IN.unlink(missing_ok=True)
    FILE.write_text(CONFIG)
    run("systemctl", "daemon-reload")
    systemctl("restart")
    wait_for(in_sync, "all as before")
    assert on_lo() == set(VIPS)
    run("ip", "netns", "del", NAME)


def there() -> str:
    return run("ip", "-n", NAME, "address", "show", "dev", "lo")


def test_it_says_who_lets_it_in() -> None:
    journal = Journal()
    subprocess.run(["systemctl", "restart", "--no-block", AGENT], check=True)
    journal.wait("cannot enter network namespace", "NetworkNamespacePath=/run/netns/elsewhere")
    assert VIP not in there()


def test_systemd_has_it_work_there() -> None:
    """Sysctls and addresses are the namespace's; whoever asks from outside finds it."""
    DROP_IN.write_text(f"[Service]\nNetworkNamespacePath=/run/netns/{NAME}\n")
    run("systemctl", "daemon-reload")
    systemctl("restart")
    wait_for(lambda: active() and VIP in there(), "the VIP is there")
    assert VIP not in run("ip", "address", "show", "dev", "lo")
    assert in_sync()
    journal = Journal()
    run("ip", "-n", NAME, "address", "del", f"{VIP}/32", "dev", "lo")
    journal.wait(VIP, "put back")
    assert on_lo() == set(VIPS), "what was here is left alone"


def test_in_one_that_is_made_anew_it_is_started_again() -> None:
    run("ip", "netns", "del", NAME)
    run("ip", "netns", "add", NAME)
    wait_for(lambda: VIP in there(), "the VIP is there again")
    wait_for(lambda: active() and in_sync(), "it looks after it")
    assert on_lo() == set(VIPS)
