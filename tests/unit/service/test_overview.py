"""What is known after one pass and another: never more than was looked at."""

from __future__ import annotations

from dsr_agent.service.board import Board, FileState, sentence
from dsr_agent.service.overview import Overview
from dsr_agent.state.actions import Problem
from dsr_agent.state.errors import NotPermitted, NotYet, Transient
from dsr_agent.state.model import HOST, THIS_HOST, LinkKey, Observed, Scope, TunnelKey
from dsr_agent.state.report import Report, Result
from tests.unit.service.reports import VIP1, VIP2, desired, key, observed, report

GOOD = FileState(0.0, 0.0)


def test_before_the_first_pass_nothing_is_in_sync() -> None:
    assert not Overview().in_sync
    assert sentence(Overview(), GOOD) == "starting"


def test_a_pass_that_found_all_well() -> None:
    overview = Overview().after(report())

    assert overview.in_sync
    assert sentence(overview, GOOD) == "in sync: 1 tunnel, 2 VIPs"


def test_what_could_not_be_done_stays_undone_until_it_is_looked_at_again() -> None:
    refused = report(found_missing=(VIP1,), result=Result.FAILED, error=NotPermitted("may not"))
    overview = Overview().after(refused)
    assert overview.undone == {key(VIP1): ("may not",)}

    overview = overview.after(report(scope=HOST))
    overview = overview.after(report(scope=Scope(addresses=frozenset({key(VIP2)}))))
    assert not overview.in_sync, "nobody has looked at that VIP since"

    overview = overview.after(report(scope=Scope(addresses=frozenset({key(VIP1)}))))
    assert overview.in_sync


def test_a_look_at_the_host_can_say_that_a_tunnel_is_well_again() -> None:
    problem = Problem(TunnelKey("dsr-ipip"), NotYet("no route"))
    overview = Overview().after(report(problems=(problem,)))
    assert sentence(overview, GOOD) == "not in sync: tunnel dsr-ipip: no route"

    assert overview.after(report(scope=HOST)).in_sync


def test_a_step_that_was_not_tried_says_what_it_would_be() -> None:
    overview = Overview().after(report(found_missing=(VIP1,), result=Result.HELD, error=NotYet("held back")))
    assert overview.undone[key(VIP1)] == ("held back",)


def test_a_step_whose_answer_was_lost_but_which_was_done_is_done() -> None:
    refused = report(found_missing=(VIP1,), result=Result.FAILED)
    done = Report(refused.scope, refused.cause, refused.plan, refused.outcomes, desired=refused.desired)

    assert Overview().after(done).in_sync


def test_a_look_at_one_vip_keeps_what_is_known_of_links() -> None:
    before = Overview().after(report(saw=observed(VIP1, VIP2)))
    single = Observed(addresses=observed(VIP1).addresses)

    overview = before.after(report(scope=Scope(addresses=frozenset({key(VIP2)})), saw=single))

    assert overview.observed.links == before.observed.links
    assert overview.observed.sysctls == before.observed.sysctls
    assert key(VIP2) not in overview.observed.addresses


def test_a_kernel_that_cannot_be_read_shows_nothing_new() -> None:
    before = Overview().after(report())
    unseen = Report(HOST, remaining=report(problems=(Problem(THIS_HOST, Transient("cannot be read")),)).remaining)

    overview = before.after(unseen)

    assert overview.observed is before.observed
    assert not overview.in_sync


def test_the_sentence_is_one_line_and_says_how_many_more() -> None:
    problems = (Problem(LinkKey("a"), NotYet("one\ntwo")), Problem(LinkKey("b"), NotYet("three")))
    overview = Overview().after(report(problems=problems))

    assert sentence(overview, GOOD) == "not in sync: a: one two (and 1 more)"


def test_the_sentence_names_a_fight_and_a_refused_file() -> None:
    fought = report()
    fought = Report(fought.scope, desired=desired(VIP1), observed=observed(VIP1), fights={key(VIP1): 12})

    said = sentence(Overview().after(fought), FileState(0.0, 1.0, ("a.toml:1: wrong", "and more")))

    assert said == (
        f"in sync: 1 tunnel, 1 VIP; somebody keeps undoing VIP {VIP1}/32 on lo; "
        "the file cannot be used, going on as before: a.toml:1: wrong"
    )


def test_a_refused_file_keeps_the_time_of_the_last_good_one() -> None:
    now = [100.0]
    board = Board(wall=lambda: now[0])
    now[0] = 200.0
    board.file_refused(("no",))
    assert board.file == FileState(100.0, 200.0, ("no",))
    now[0] = 300.0
    board.file_good()
    assert board.file == FileState(300.0, 300.0)


def test_a_loop_is_alive_while_it_turns() -> None:
    now = [0.0]
    board = Board(clock=lambda: now[0], patience=15.0)
    now[0] = 15.0
    assert board.alive
    now[0] = 15.1
    assert not board.alive
    board.turned()
    assert board.alive
