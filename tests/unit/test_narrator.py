"""One line for each change of state: what is said about a pass, and what is not said twice."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from ipaddress import ip_address
from typing import get_args

import pytest

from dsr_agent.service import narrator
from dsr_agent.service.narrator import Narrator
from dsr_agent.state.actions import (
    Action,
    AddAddress,
    AddLink,
    BringUp,
    ChangeLink,
    DeleteAddress,
    LoadModule,
    MarkLink,
    MoveLink,
    Plan,
    Problem,
    RenameLink,
    ReplaceAddress,
    WriteSysctl,
)
from dsr_agent.state.errors import DsrError, NotYet, Transient
from dsr_agent.state.model import (
    EVERYTHING,
    HOST,
    AddressKey,
    Key,
    Scope,
    Sysctl,
    TunnelKey,
)
from dsr_agent.state.report import Outcome, PassCause, Report, Result
from dsr_agent.state.why import Why
from tests.fake.story import FILE, desired
from tests.fake.words import address_of, link_of

VIP = address_of("192.0.2.10/32 ours", "lo")
LINK = link_of("dsr-ipip ipip local 10.0.3.2 down ours")
NO_MODULE = Transient("the running kernel has no module ipip", "install it")


def done(*actions: Action) -> tuple[Outcome, ...]:
    """All of them went well."""
    return tuple(Outcome(action, Result.DONE) for action in actions)


def failed(action: Action, error: DsrError = NO_MODULE) -> Outcome:
    """It did not."""
    return Outcome(action, Result.FAILED, error)


def report(
    *outcomes: Outcome,
    scope: Scope = EVERYTHING,
    cause: PassCause = PassCause.DRIFT,
    problems: tuple[Problem, ...] = (),
    by: Mapping[Key, str] | None = None,
    fights: Mapping[Key, int] | None = None,
    lost: bool = False,
    seconds: float = 0.0123,
) -> Report:
    """A pass."""
    undone = tuple(outcome.action for outcome in outcomes if outcome.result is not Result.DONE)
    return Report(
        scope=scope,
        cause=cause,
        outcomes=outcomes,
        remaining=Plan(undone, problems),
        seconds=seconds,
        by=by or {},
        fights=fights or {},
        lost=lost,
    )


class Listener:
    """Who listens to a narrator."""

    def __init__(self) -> None:
        self.narrator = Narrator(desired(FILE))

    def hears(self, told: Report) -> list[str]:
        """The lines about one pass."""
        return [f"{logging.getLevelName(line.level)} {line.text}" for line in self.narrator.tell(told)]


# --- the first pass, and reloads --------------------------------------------------------------------------------------


def test_a_start_is_one_line() -> None:
    """However many steps it took."""
    told = Listener().hears(
        report(*done(AddAddress(VIP, Why.MISSING), AddLink(LINK, Why.MISSING)), cause=PassCause.START)
    )

    assert told == ["INFO started: 1 tunnel, 2 VIPs; 2 steps, in sync after 12.3 ms"]


def test_a_reload_is_one_line() -> None:
    """Seconds are said as seconds."""
    told = Listener().hears(report(cause=PassCause.RELOAD, seconds=1.26))

    assert told == ["INFO read the file again: 1 tunnel, 2 VIPs; nothing to do, in sync after 1.3 s"]


def test_what_was_adopted_is_said_one_by_one() -> None:
    """Somebody made it by hand, and will want to know."""
    steps = done(ReplaceAddress(VIP, Why.ADOPTED), MarkLink("tun0", 1, "x", Why.ADOPTED))
    told = Listener().hears(report(*steps, cause=PassCause.START))

    assert told == [
        "INFO started: 1 tunnel, 2 VIPs; 2 steps, in sync after 12.3 ms",
        "INFO VIP 192.0.2.10/32 on lo: adopted: it was there already, identical and unmarked",
        "INFO tun0: adopted: it was there already, identical and unmarked",
    ]


def test_a_start_that_fails_says_so_and_why() -> None:
    """The line about the whole, and one about each trouble."""
    told = Listener().hears(report(failed(AddLink(LINK, Why.MISSING)), cause=PassCause.START))

    assert told == [
        "INFO started: 1 tunnel, 2 VIPs; nothing to do, not in sync after 12.3 ms",
        "ERROR tunnel dsr-ipip: the running kernel has no module ipip: install it",
    ]


# --- drift ------------------------------------------------------------------------------------------------------------


def test_a_repair_is_one_line_with_the_reason_the_time_and_the_culprit() -> None:
    """In this order."""
    told = Listener().hears(report(*done(AddAddress(VIP, Why.MISSING)), by={VIP.key: "chef (process 7)"}))

    assert told == ["WARNING VIP 192.0.2.10/32 on lo: it is missing; put back in 12.3 ms (undone by chef (process 7))"]


def test_parts_of_a_new_link_are_told_with_it() -> None:
    """Nine steps, one line."""
    steps = done(
        LoadModule("ipip", Why.NEEDED),
        AddLink(LINK, Why.MISSING),
        WriteSysctl(Sysctl("net/ipv4/conf/dsr-ipip/rp_filter", 2), "dsr-ipip", Why.NEW),
        MarkLink("dsr-ipip", 1, "x", Why.NEW),
        BringUp("dsr-ipip", Why.NEW),
    )

    assert Listener().hears(report(*steps)) == ["WARNING tunnel dsr-ipip: it is missing; made again in 12.3 ms"]


def test_many_of_a_kind_are_told_as_a_number() -> None:
    """A flush of ten thousand is not ten thousand lines."""
    vips = [address_of(f"192.0.2.{number}/32 ours", "lo") for number in range(1, 7)]
    told = Listener().hears(report(*done(*[DeleteAddress(vip, Why.UNWANTED) for vip in vips])))

    assert told == ["WARNING 6 things, each: it is not in the file (any more); removed in 12.3 ms"]


def test_five_of_a_kind_are_told_one_by_one() -> None:
    """That fits an eye."""
    vips = [address_of(f"192.0.2.{number}/32 ours", "lo") for number in range(1, 6)]

    assert len(Listener().hears(report(*done(*[DeleteAddress(vip, Why.UNWANTED) for vip in vips])))) == 5


def test_a_retry_that_works_is_no_warning() -> None:
    """Nobody undid anything."""
    told = Listener().hears(report(*done(RenameLink("x", "dsr-ipip", Why.MISNAMED)), cause=PassCause.RETRY))

    assert told == ["INFO tunnel dsr-ipip: it is ours under another name; renamed in 12.3 ms"]


def test_a_pass_that_found_nothing_is_silent() -> None:
    """A quiet hour is a quiet journal."""
    assert Listener().hears(report()) == []


def test_lost_announcements_are_said_first() -> None:
    """Before what came of reading everything back."""
    told = Listener().hears(report(*done(AddAddress(VIP, Why.MISSING)), lost=True))

    assert told[0] == "WARNING announcements of the kernel were lost; everything was read back"


# --- troubles ---------------------------------------------------------------------------------------------------------

NO_ROUTE = Problem(TunnelKey("dsr-ipip"), NotYet("there is no route to its load balancers (yet)"))
NO_SPACE = failed(AddAddress(VIP, Why.MISSING), Transient("no space"))


def test_a_trouble_is_told_once_and_its_end_is_told() -> None:
    """However many passes meet it."""
    listener = Listener()

    assert listener.hears(report(problems=(NO_ROUTE,))) == [
        "ERROR tunnel dsr-ipip: there is no route to its load balancers (yet)"
    ]
    assert listener.hears(report(problems=(NO_ROUTE,))) == []
    assert listener.hears(report()) == ["INFO in sync again"]
    assert listener.hears(report()) == []


def test_a_trouble_that_changes_its_reason_is_told_again() -> None:
    """The operator did something, and it was not enough."""
    listener = Listener()
    listener.hears(report(NO_SPACE))

    assert listener.hears(report(failed(AddAddress(VIP, Why.MISSING), Transient("no memory")))) == [
        "ERROR VIP 192.0.2.10/32 on lo: no memory"
    ]


def test_a_pass_that_looked_elsewhere_cannot_say_that_all_is_well() -> None:
    """Neither one at the host, nor one at another VIP; one at this VIP can."""
    listener = Listener()
    listener.hears(report(NO_SPACE))
    other = AddressKey("lo", ip_address("2001:db8::10"), 128)

    assert listener.hears(report(scope=HOST)) == []
    assert listener.hears(report(scope=Scope(addresses=frozenset({other})))) == []
    assert listener.hears(report(scope=Scope(addresses=frozenset({VIP.key})))) == ["INFO in sync again"]


def test_a_look_at_a_vip_cannot_say_that_the_tunnel_is_well() -> None:
    """It did not look at it."""
    listener = Listener()
    listener.hears(report(problems=(NO_ROUTE,)))

    assert listener.hears(report(scope=Scope(addresses=frozenset({VIP.key})))) == []
    assert listener.hears(report(scope=HOST)) == ["INFO in sync again"]


def test_a_look_at_the_host_can_say_that_the_tunnels_own_address_is_well() -> None:
    """It belongs to the tunnel, and is looked at with it; a VIP is not."""
    listener = Listener()
    address = address_of("192.0.0.8/32 ours", "dsr-ipip")
    listener.hears(report(failed(AddAddress(address, Why.MISSING), Transient("no space"))))

    assert listener.hears(report(scope=HOST)) == ["INFO in sync again"]


def test_two_troubles_end_one_by_one_and_in_sync_is_said_once() -> None:
    """When the last one is gone."""
    listener = Listener()
    listener.hears(report(NO_SPACE, problems=(NO_ROUTE,)))

    assert listener.hears(report(NO_SPACE)) == []
    assert listener.hears(report()) == ["INFO in sync again"]


def test_a_trouble_elsewhere_is_not_forgotten_by_a_pass_with_troubles_of_its_own() -> None:
    """And so not told a second time either."""
    listener = Listener()
    listener.hears(report(NO_SPACE))
    listener.hears(report(scope=HOST, problems=(NO_ROUTE,)))

    assert listener.hears(report(NO_SPACE, problems=(NO_ROUTE,))) == []


def test_the_cause_is_told_and_not_what_was_skipped_for_it() -> None:
    """Both are about the same link."""
    skipped = Outcome(BringUp("dsr-ipip", Why.NEW), Result.SKIPPED, NotYet("it waits for dsr-ipip"))

    assert Listener().hears(report(failed(AddLink(LINK, Why.MISSING)), skipped)) == [
        "ERROR tunnel dsr-ipip: the running kernel has no module ipip: install it"
    ]


def test_many_troubles_are_told_as_a_number() -> None:
    """Five of them, and how many more."""
    vips = [address_of(f"192.0.2.{number}/32 ours", "lo") for number in range(1, 9)]
    told = Listener().hears(report(*[failed(AddAddress(vip, Why.MISSING)) for vip in vips]))

    assert len(told) == 6
    assert told[5] == "ERROR and 3 more; see dsr-agent status"


# --- fights -----------------------------------------------------------------------------------------------------------


def test_a_fight_is_told_at_its_begin_and_at_its_end() -> None:
    """With how often, and who did it last; its repairs are no news meanwhile."""
    listener = Listener()
    fought: dict[Key, int] = {VIP.key: 10}

    assert listener.hears(report(fights=fought, by={VIP.key: "chef (process 7)"})) == [
        "ERROR VIP 192.0.2.10/32 on lo: somebody keeps undoing it, 10 times within a minute"
        " (last by chef (process 7)); repairing it less often from now on"
    ]
    assert listener.hears(report(*done(AddAddress(VIP, Why.MISSING)), fights={VIP.key: 11})) == []
    assert listener.hears(report()) == ["INFO VIP 192.0.2.10/32 on lo: left in peace again"]


def test_names_are_those_of_the_file_after_a_reload() -> None:
    """What is a VIP now is called one."""
    listener = Listener()
    vip = address_of("192.0.2.77/32 ours", "lo")
    before = listener.hears(report(*done(DeleteAddress(vip, Why.UNWANTED))))
    listener.narrator.reload(desired(FILE.replace("192.0.2.10", "192.0.2.77")))
    after = listener.hears(report(*done(AddAddress(vip, Why.MISSING))))

    assert before[0].startswith("WARNING 192.0.2.77/32 on lo: ")
    assert after[0].startswith("WARNING VIP 192.0.2.77/32 on lo: ")


@pytest.mark.parametrize("kind", get_args(Action), ids=lambda kind: kind.__name__)
def test_there_is_a_word_for_every_step(kind: type) -> None:
    """One that is missing would end the agent at the first such repair."""
    assert kind in narrator._VERBS or kind in (WriteSysctl, ChangeLink, MoveLink)
