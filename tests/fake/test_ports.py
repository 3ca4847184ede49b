"""Tunnels in UDP: their ports are kept like everything else, although the kernel tells nothing about them."""

from __future__ import annotations

from dsr_agent.reconcile.plan import teardown
from dsr_agent.state.actions import BringUp, DeleteLink, RenameLink
from dsr_agent.state.errors import Foreign, Transient
from dsr_agent.state.guard_actions import WriteGuard
from dsr_agent.state.model import EVERYTHING
from dsr_agent.state.port_actions import AddPort, DeletePort
from tests.fake.story import HOST, Story
from tests.fake.test_guard import done
from tests.unit.guard.interpreter import judge
from tests.unit.guard.packets import UDP, datagram, gue, outer

VIP = '[[vip]]\naddress = "192.0.2.10"\n'
GUE = '[[tunnel]]\nencapsulation = "gue"\nload_balancers = ["10.1.0.5"]\n' + VIP
PORT = "port 6080 local 10.0.3.2 ours"


async def test_a_port_that_is_gone_is_found_by_the_poll() -> None:
    """Within five seconds, unless the file says otherwise."""
    async with Story(GUE) as story:
        assert PORT in story.host
        story.log()
        await story.hears("ip fou del port 6080 local 10.0.3.2")
        assert PORT not in story.host
        await story.seconds(5)
        assert PORT in story.host
        assert story.log() == ["WARNING UDP port 6080 of 10.0.3.2: it is missing; opened again in 0.0 ms"]


async def test_the_port_is_opened_when_the_link_is_up_and_not_before_the_guard() -> None:
    """What comes then has somewhere to go."""
    async with Story("[guard]\nenabled = true\n" + GUE) as story:
        kinds = [type(step) for step in done(story.reports[0])]
        assert kinds.index(WriteGuard) < kinds.index(BringUp) < kinds.index(AddPort)
        table = story.kernel.machine.guard
        assert table is not None
        sent = [outer(source, "10.0.3.2", UDP, datagram(6080, gue())) for source in ("10.1.0.5", "10.1.0.6")]
        assert [judge(table, packet).accepted for packet in sent] == [True, False]


async def test_no_port_without_its_link() -> None:
    """It waits, and comes with it."""
    story = Story(GUE)
    story.kernel.fail_always(BringUp, Transient("out of memory"))
    async with story:
        await story.seconds(10)
        assert PORT not in story.host
        story.kernel.heal()
        await story.seconds(60)
        assert PORT in story.host


async def test_another_port_is_opened_before_the_old_one_is_closed() -> None:
    """By reload; the link stays as it is."""
    async with Story(GUE) as story:
        story.passes()
        await story.reload(GUE.replace("[[vip]]", "port = 7000\n[[vip]]"))
        steps = done(story.reports[0])
        assert [(type(step), step.key.number) for step in steps if isinstance(step, AddPort | DeletePort)] == [
            (AddPort, 7000),
            (DeletePort, 6080),
        ]
        assert not [step for step in steps if isinstance(step, DeleteLink)]
        assert story.reports[-1].in_sync


async def test_from_ipip_to_gue_and_back_the_link_stays() -> None:
    """It is the same for both, and only gets another name."""
    ipip = GUE.replace('"gue"', '"ipip"')
    async with Story(ipip) as story:
        for file, there in ((GUE, True), (ipip, False)):
            story.passes()
            await story.reload(file)
            steps = done(story.reports[0])
            assert any(isinstance(step, RenameLink) for step in steps)
            assert not any(isinstance(step, DeleteLink) for step in steps)
            assert (PORT in story.host) == there
            assert story.reports[-1].in_sync


async def test_a_port_that_another_program_has() -> None:
    """Told, and taken as soon as it is free."""
    async with Story(GUE, HOST + "port 6080 protocol 4\nmodules fou\n") as story:
        assert "somebody else has UDP port 6080 of every IPv4 address" in "".join(story.log())
        await story.hears("ip fou del port 6080")
        await story.seconds(5)
        assert PORT in story.host
        assert story.log()[-1] == "INFO in sync again"


async def test_teardown_closes_what_is_ours() -> None:
    """And nothing else."""
    async with Story(GUE, HOST + "port 7777\nmodules fou\n") as story:
        kernel = story.kernel
    await kernel.apply(teardown(await kernel.observe(EVERYTHING)).actions)
    assert PORT not in str(kernel)
    assert "port 7777" in str(kernel)
    assert "dsr-gue" not in str(kernel)


async def test_a_port_that_stays_open_because_another_cannot_be_had_lets_in_nobody_else() -> None:
    """The link is behind it all the same. Once the other can be had, it is closed, and nobody gets in by it."""
    guarded = "[guard]\nenabled = true\n"

    def get_in(story: Story, *senders: str) -> list[bool]:
        table = story.kernel.machine.guard
        assert table is not None
        sent = [outer(source, "10.0.3.2", UDP, datagram(6080, gue())) for source in senders]
        return [judge(table, packet).accepted for packet in sent]

    async with Story(guarded + GUE) as story:
        story.kernel.fail_always(AddPort, Foreign("another program has that port"))
        await story.reload(guarded + GUE.replace("[[vip]]", "port = 7000\n[[vip]]"))
        assert PORT in story.host
        assert get_in(story, "10.1.0.5", "10.1.0.6") == [True, False]
        story.kernel.heal()
        await story.seconds(60)
        assert "port 7000 local 10.0.3.2 ours" in story.host
        assert PORT not in story.host
        table = story.kernel.machine.guard
        assert table is not None
        assert "6080" not in str(table), "nothing is known of it any more"
