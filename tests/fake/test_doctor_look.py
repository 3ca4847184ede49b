"""What the doctor goes by while somebody keeps undoing something: the host as it is then, not as repaired just now."""

from __future__ import annotations

from dsr_agent.service import doctor
from dsr_agent.state.actions import BringUp
from tests.fake.kernel import FakeKernel
from tests.fake.story import FILE, IN_SYNC, desired

TUNNEL = "dsr-ipip"


async def test_it_sees_what_is_undone_over_and_over() -> None:
    kernel = FakeKernel(IN_SYNC)

    def one_look_later() -> None:
        kernel.before_next("observe", lambda: kernel.meddle(f"ip link set {TUNNEL} down"))

    kernel.before_next("observe", one_look_later)
    todo, observed = await doctor.look(kernel, desired(FILE), [TUNNEL])

    assert [type(action) for action in todo.actions] == [BringUp]
    assert not observed.links[TUNNEL].up


async def test_of_all_that_is_fought_over_it_sees_as_much_as_can_be_seen() -> None:
    """A look that sees one of two undone counts more than all that see none, and it does not wait for ever."""
    kernel = FakeKernel(IN_SYNC)
    kernel.before_next("observe", lambda: kernel.meddle(f"ip link set {TUNNEL} down"))
    kernel.before_next("observe", lambda: kernel.meddle(f"ip link set {TUNNEL} up"))
    todo, _ = await doctor.look(kernel, desired(FILE), [TUNNEL, "somebody else's"])

    assert [type(action) for action in todo.actions] == [BringUp]


async def test_in_peace_it_looks_once() -> None:
    kernel = FakeKernel(IN_SYNC)
    await doctor.look(kernel, desired(FILE), ())

    assert len(kernel.looks) == 1
