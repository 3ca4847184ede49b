"""VIPs and tunnels that the file puts elsewhere: nothing is taken away before its successor is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsr_agent.reconcile.protection import told_mss
from dsr_agent.reconcile.resolve import resolve
from dsr_agent.state.actions import AddAddress
from dsr_agent.state.errors import Transient
from dsr_agent.state.model import EVERYTHING
from tests.fake.kernel import FakeKernel
from tests.fake.story import FILE, HOST, Story, desired

OLD = "lo up\n  192.0.2.10/32 ours"


async def test_a_vip_stays_where_it_is_while_it_cannot_be_added_elsewhere() -> None:
    async with Story(FILE, HOST + "dummy0 dummy up\n") as story:
        story.kernel.fail_always(AddAddress, Transient("out of memory"))
        await story.reload(FILE.replace('"192.0.2.10"', '"192.0.2.10"\ndevice = "dummy0"'))
        assert OLD in story.host
        story.kernel.heal()
        await story.seconds(60)
        assert OLD not in story.host
        assert "dummy0 dummy up\n  192.0.2.10/32 ours" in story.host


@pytest.mark.parametrize("where", ['device = "dummy7"', 'vrf = "bleu"'])
async def test_a_vip_stays_where_it_is_while_its_new_place_is_not_there(where: str) -> None:
    """Whatever is announced about the old one meanwhile."""
    section = "[[vip]]" if where.startswith("device") else "[[tunnel]]"
    async with Story(FILE, HOST) as story:
        await story.reload(FILE.replace(section, f"{section}\n{where}"))
        assert OLD in story.host
        await story.hears("ip addr del 192.0.2.10/32 dev lo", "ip addr add 192.0.2.10/32 dev lo proto 0xd5")
        await story.seconds(120)
        assert "192.0.2.10/32" in story.host
        await story.reload(FILE)
        assert "192.0.2.10/32 ours" in story.host


@pytest.mark.parametrize(("mtu", "mss"), [(65536, 1440), (1400, 1340), (9000, 8940), (0, 1440)])
async def test_the_segment_size_goes_by_a_card_and_not_by_lo(mtu: int, mss: int) -> None:
    """An address of the host on ``lo``, as where it is announced by BGP: nobody comes by that link."""
    wanted = desired("[guard]\nenabled = true\n" + FILE.replace("[[tunnel]]", '[[tunnel]]\nlocal = "10.255.0.1"'))
    observed = await FakeKernel("lo up\n  10.255.0.1/32\n").observe(EVERYTHING)
    observed = replace(observed, links={"lo": replace(observed.links["lo"], mtu=mtu)})
    assert dict(told_mss(wanted, resolve(wanted, observed), observed)) == {4: mss, 6: mss - 20}
