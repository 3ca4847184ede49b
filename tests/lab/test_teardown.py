"""``dsr-agent teardown`` removes what is marked ours, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from dsr_agent.state.marks import owns_address
from tests.lab.agent import Agent, tunnel, vip
from tests.lab.eye import FALLBACKS, Eye
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import VIPS, real_server
from tests.lab.spaces import inside, run
from tests.lab.world import RS1

CONFIG = tunnel("ipip") + tunnel("gre") + "".join(vip(address) for address in VIPS)

FOREIGN = (
    "ip addr add 198.51.100.7/32 dev lo",
    "ip addr add 192.0.2.99/32 dev lo label lo:other",
    "ip addr add 2001:db8:f::99/128 dev lo proto 0x77",
    "ip link add foreign0 group 54741 type dummy",  # our group on something that cannot be ours
    "ip link add foreign1 type ipip local 10.3.0.11 remote 10.3.0.12",
    "ip link add foreign2 type gre local 10.3.0.11 key 3",
    "ip addr add 198.51.100.8/32 dev foreign2",
)


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def server() -> Iterator[Eye]:
    with real_server() as eye:
        with inside(RS1):
            for command in FOREIGN:
                run(*command.split())
        yield eye


def test_ours_goes_and_theirs_stays(server: Eye) -> None:
    before = server.view()
    with Agent(RS1, CONFIG) as agent:
        both = server.view()
        refused = agent.call("teardown")
        assert refused.returncode == 1
        assert "runs here" in refused.stderr
        assert server.view() == both
        agent.stop()
        agent.file.unlink()  # it is not needed
        done = agent.call("teardown")
        assert done.returncode == 0, done.stdout + done.stderr
    after = server.view()
    fallbacks = {link for link in after.links if link.name in FALLBACKS}
    assert after.links - fallbacks == {link for link in before.links if link.name not in FALLBACKS}
    assert after.addresses == before.addresses
    assert not [at for at in after.addresses if owns_address(at)]


def test_the_modules_own_devices_stay_down(server: Eye) -> None:
    with Agent(RS1, CONFIG):
        there = [link for name, link in server.links().items() if name in FALLBACKS]
        assert there, "this kernel makes none in a namespace; the test says nothing"
        assert not [link for link in there if link.up]


@pytest.mark.usefixtures("server")
def test_twice_is_fine() -> None:
    with contextlib.closing(Agent(RS1, CONFIG)) as agent:
        assert agent.call("teardown").returncode == 0
        again = agent.call("teardown")
    assert (again.returncode, again.stdout) == (0, "nothing here is marked ours\n")
