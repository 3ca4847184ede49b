"""What is answered to a path."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address

from dsr_agent.service.board import Board
from dsr_agent.service.readiness import About
from dsr_agent.service.web.endpoints import Endpoints
from dsr_agent.state.actions import Problem
from dsr_agent.state.errors import NotPermitted, NotYet
from dsr_agent.state.model import GUARD, THIS_HOST, Key, LinkKey, SysctlKey, TunnelKey
from dsr_agent.state.probe import Seen, Sight
from dsr_agent.state.report import Report, Result
from dsr_agent.truth.listeners import Service, ServiceFinding, Standing, Verdict
from dsr_agent.truth.probe import Pair
from dsr_agent.truth.reach import Reach, Reached
from dsr_agent.truth.spans import Span, Spans
from tests.unit.service.reports import VIP1, VIP2, desired, key, observed, report


class Clock:
    """A steady clock."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def answers(*reports: Report, clock: Clock | None = None) -> Endpoints:
    """Answers after these passes."""
    board = Board(clock=clock or Clock())
    for each in reports:
        board.add(each)
    return Endpoints(board)


def said(found: Endpoints, path: str) -> tuple[int, str]:
    """Status and text."""
    answer = found(path)
    return answer.status, answer.body.decode().rstrip("\n")


def test_nothing_is_ready_before_the_first_pass() -> None:
    assert said(answers(), "/readyz") == (503, "the first pass has not ended yet")
    assert answers()("/livez").status == 200


def test_all_is_ready_when_all_is_as_the_file_says() -> None:
    found = answers(report())
    assert said(found, "/readyz") == (200, "ok")
    assert said(found, f"/readyz/{VIP1}") == (200, "ok")
    assert found("/readyz/192.0.2.99").status == 404
    assert found("/readyz/").status == 404


def test_a_vip_that_is_missing_is_not_ready_and_the_other_is() -> None:
    found = answers(report(found_missing=(VIP1,), result=Result.FAILED, error=NotPermitted("may not")))
    assert said(found, "/readyz") == (503, f"{VIP1}/32 on lo: may not")
    assert said(found, f"/readyz/{VIP1}") == (503, f"{VIP1}/32 on lo: may not")
    assert found("/readyz/2001:db8::10").status == 200
    assert found("/readyz/2001:DB8:0:0::10").status == 200


def test_a_vip_is_not_ready_when_its_tunnel_is_not() -> None:
    two = desired(VIP1, tunnels=("a", "b"))
    saw = observed(VIP1, links=("a", "b"), rp_filter=0)
    for part in (TunnelKey("a"), LinkKey("a"), LinkKey("a.new"), SysctlKey("net/ipv4/conf/a/rp_filter"), THIS_HOST):
        found = answers(report(problems=(Problem(part, NotYet("not yet")),), wanted=two, saw=saw))
        assert said(found, f"/readyz/{VIP1}") == (503, f"{part}: not yet"), part


def test_a_vip_is_ready_whatever_becomes_of_a_tunnel_it_does_not_use() -> None:
    two = desired(VIP1, tunnels=("a", "b"))
    only_a = desired(VIP1, tunnels=("a",))
    mixed = type(two)(tunnels=two.tunnels, vips=only_a.vips, addresses=only_a.addresses, silence_arp=False)
    found = answers(report(problems=(Problem(TunnelKey("b"), NotYet("no")),), wanted=mixed, saw=observed(VIP1)))
    assert found(f"/readyz/{VIP1}").status == 200
    assert found("/readyz").status == 503


def test_a_vip_that_the_self_test_does_not_reach_is_not_ready() -> None:
    board = Board(clock=Clock())
    board.add(report())
    found = Endpoints(board)
    board.probes.started()
    pair = Pair(ip_address(VIP1), "dsr-ipip")
    board.probes.show(pair, Reach(Reached.UP, Sight(Seen.LOST), against=2))
    assert said(found, "/readyz") == (200, "ok"), "lost packets say nothing before they are declared to"
    board.probes.show(pair, Reach(Reached.FALLEN, Sight(Seen.ELSEWHERE, "tunl0")))
    line = (
        f"{VIP1}/32 on lo: self-test by dsr-ipip: arrived, but by tunl0, which takes the tunnel's packets in its place"
    )
    assert said(found, "/readyz") == said(found, f"/readyz/{VIP1}") == (503, line)
    assert found(f"/readyz/{VIP2}").status == 200
    told = json.loads(found("/status").body)["agent"]["self_test"]
    assert told == {
        "off": None,
        "silent": None,
        "pairs": 0,
        "arriving": 0,
        "fallen": {VIP1: {"dsr-ipip": line.split(": ", 2)[2]}},
    }
    board.probes.show(pair, Reach(Reached.UP, Sight(Seen.ARRIVED)))
    assert said(found, "/readyz") == (200, "ok")


def test_a_vip_is_not_ready_while_the_guard_is_not_as_it_has_to_be() -> None:
    """The self-test goes past what the guard lets in by; that it is as it has to be is known by looking at it."""
    found = answers(report(problems=(Problem(GUARD, NotYet("no")),)))
    assert said(found, f"/readyz/{VIP1}") == (503, "guard: no")


def test_a_loop_that_is_stuck_is_neither_alive_nor_ready() -> None:
    clock = Clock()
    found = answers(report(), clock=clock)
    clock.now = 61.0
    assert said(found, "/livez") == (503, "the loop has not turned for 61 s")
    assert found("/readyz").status == 503
    assert found(f"/readyz/{VIP1}").status == 503


def test_many_reasons_are_counted() -> None:
    problems = tuple(Problem(LinkKey(f"l{number}"), NotYet("no")) for number in range(60))
    lines = said(answers(report(problems=problems)), "/readyz")[1].splitlines()
    assert len(lines) == 51
    assert lines[-1] == "... and 10 more (/status has all)"


def test_status_says_what_the_reconciler_knows() -> None:
    found = answers(report(found_missing=(VIP1,), result=Result.FAILED, error=NotPermitted("may not")))
    body = json.loads(found("/status").body)
    assert body["in_sync"] is False
    assert body["agent"]["undone"] == {f"{VIP1}/32 on lo": ["may not"]}
    assert [vip["address"] for vip in body["vips"]] == [VIP1, VIP2]
    assert body["agent"]["reload"]["successful"] is True


def test_unknown_paths_say_which_there_are() -> None:
    for path in ("/", "/metric", "/readyzx", "/status/x", "/%2e%2e/etc/passwd"):
        assert said(answers(report()), path) == (404, "/metrics /livez /readyz /readyz/VIP /status")


def test_a_vip_that_nobody_serves_is_not_ready_and_the_other_is() -> None:
    board = Board(clock=Clock())
    board.add(report())
    board.services = {Service(key(VIP1), "udp/1812"): Standing(ServiceFinding("udp/1812", Verdict.NOBODY), up=False)}
    wanted = board.overview.desired
    vips = {at: replace(vip, services=("udp/1812",) if at == key(VIP1) else ()) for at, vip in wanted.vips.items()}
    board.overview = replace(board.overview, desired=replace(wanted, vips=vips))
    found = Endpoints(board)
    for path in ("/readyz", f"/readyz/{VIP1}"):
        assert said(found, path) == (503, f"{VIP1}/32 on lo: udp/1812: nobody listens")
    assert found(f"/readyz/{VIP2}").status == 200
    body = json.loads(found("/status").body)
    assert body["in_sync"] is True
    assert body["agent"]["not_ready"] == {VIP1: [f"{VIP1}/32 on lo: udp/1812: nobody listens"]}
    row = {"service": "udp/1812", "listening": False, "doubtful": False, "state": "nobody listens"}
    assert [vip["services"] for vip in body["vips"]] == [[row], []]


def test_who_is_drained_is_not_ready_and_speaks_for_nobody_else() -> None:
    now = 10.0
    board = Board(clock=Clock(), wall=lambda: now)
    board.add(report())
    board.drains = Spans({ip_address(VIP1): Span(0.0, 20.0)})
    found = Endpoints(board)
    assert said(found, f"/readyz/{VIP1}") == (503, "drained")
    assert [found(path).status for path in (f"/readyz/{VIP2}", "/readyz")] == [200, 200]
    board.drains = board.drains.plus([ip_address(VIP2)], Span(0.0))
    assert said(found, "/readyz") == (503, "drained")
    now = 20.0
    assert [found(path).status for path in (f"/readyz/{VIP1}", f"/readyz/{VIP2}", "/readyz")] == [200, 503, 200]
    board.drains = Spans(host=Span(0.0))
    assert said(found, "/readyz") == (503, "drained")


def test_who_is_held_is_not_ready_and_speaks_for_nobody_else() -> None:
    """Nor does it when it is away, and nobody listens on it for that."""
    board = Board(clock=Clock(), wall=lambda: 10.0)
    held = desired(VIP1, VIP2).holding([ip_address(VIP1)])
    board.add(report(wanted=held, saw=observed(VIP2)))
    board.holds = Spans({ip_address(VIP1): Span(0.0, 20.0), ip_address("192.0.2.99"): Span(5.0)})
    board.services = {Service(key(VIP1), "udp/1812"): Standing(ServiceFinding("udp/1812", Verdict.NOBODY), up=False)}
    found = Endpoints(board)
    assert said(found, f"/readyz/{VIP1}") == (503, "held")
    assert [found(path).status for path in (f"/readyz/{VIP2}", "/readyz")] == [200, 200]
    body = json.loads(found("/status").body)
    assert body["in_sync"] is True
    assert body["agent"]["held"] == {
        "vips": [
            {"vip": VIP1, "name": VIP1, "declared": True, "since": 0.0, "until": 20.0},
            {"vip": "192.0.2.99", "name": None, "declared": False, "since": 5.0, "until": None},
        ]
    }
    assert [(vip["held"], vip["present"], vip["state"]) for vip in body["vips"]] == [
        (True, False, "missing; it is held"),
        (False, True, "there"),
    ]


def test_a_host_whose_vips_are_all_held_or_drained_is_not_ready() -> None:
    board = Board(clock=Clock(), wall=lambda: 10.0)
    board.add(report(wanted=desired(VIP1, VIP2).holding([ip_address(VIP1)])))
    board.drains = Spans({ip_address(VIP2): Span(0.0)})
    assert said(Endpoints(board), "/readyz") == (503, "drained")
    board.add(report(wanted=desired(VIP1, VIP2).holding([ip_address(VIP1), ip_address(VIP2)])))
    assert said(Endpoints(board), "/readyz") == (503, "held")
    assert said(Endpoints(board), f"/readyz/{VIP2}") == (503, "held\ndrained")


def test_each_reason_says_what_it_is_about() -> None:
    two = desired(VIP1, tunnels=("a",))
    saw = observed(VIP1, links=("a",), rp_filter=0)
    parts: dict[Key, About] = {
        key(VIP1): About.VIP,
        LinkKey("lo"): About.DEVICE,
        TunnelKey("a"): About.TUNNEL,
        LinkKey("a.new"): About.TUNNEL,
        SysctlKey("net/ipv4/conf/a/rp_filter"): About.TUNNEL,
        GUARD: About.GUARD,
        THIS_HOST: About.HOST,
    }
    for part, about in parts.items():
        found = answers(report(problems=(Problem(part, NotYet("not yet")),), wanted=two, saw=saw))
        ((_, why),) = found.reasons(found._board.overview)
        assert [reason.about for reason in why] == [about], part
        assert found.agent_check(VIP1) == f"down #{about}: {part}: not yet"
        assert found.agent_check("") == f"down #{about}: {part}: not yet"
    assert answers().agent_check("") == "down #starting: the first pass has not ended yet"
