"""What the doctor says of each fault, from small pieces of evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.guard.outer import counted_in
from dsr_agent.guard.sets import element
from dsr_agent.kernel.capture import Captured
from dsr_agent.kernel.policy import Route, Rule
from dsr_agent.kernel.stats import Received
from dsr_agent.printing_doctor import diagnosed, diagnosed_json
from dsr_agent.state.count import Count
from dsr_agent.state.marks import TUNNEL_ADDRESS
from dsr_agent.state.probe import Seen, Sight
from dsr_agent.state.table import GuardPolicy
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage, StageResult
from dsr_agent.truth.doctor.evidence import Counters, Evidence, Word
from dsr_agent.truth.doctor.walk import Diagnosis, diagnose
from dsr_agent.truth.listeners import Service, ServiceFinding, Verdict
from dsr_agent.truth.probe import Pair
from tests.unit.truth.doctor_cases import (
    AT_CARD,
    BLACKHOLE,
    CASES,
    DROP,
    UNREACHABLE,
)
from tests.unit.truth.doctor_evidence import (
    BALANCER,
    CLIENT,
    CLIENT6,
    HERE,
    OUT,
    SERVED,
    STRANGER,
    V4,
    V6,
    arriving,
    broken,
    evidence,
    file,
    host,
    lost,
    sent,
    vrf,
)


def first(found: Diagnosis) -> Finding:
    assert found.causes, found
    return found.causes[0]


def test_a_healthy_host_is_well_at_every_stage() -> None:
    found = diagnose(evidence())
    assert found.causes == ()
    assert found.fine
    for stages in found.vips.values():
        unclear = [each for each in stages if each.result is not StageResult.OK]
        assert [each.stage for each in unclear] == [Stage.ANSWER] * len(unclear), unclear
        assert [each.stage for each in stages] == sorted((each.stage for each in stages), key=list(Stage).index)
        assert {each.stage for each in stages} == {*Stage} - {Stage.AGENT}
    assert diagnosed(found).endswith("\nnothing is wrong")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[4]}")
def test_each_fault_is_named_first_and_alone(
    case: tuple[Cause, Stage, StageResult, Callable[[], Evidence], str],
) -> None:
    cause, stage, result, make, remedy = case
    found = diagnose(make())
    told = first(found)
    assert (told.cause, told.stage, told.result) == (cause, stage, result), found.causes
    assert remedy in told.remedy
    assert told.saw
    assert {each.cause for each in found.causes if each.result is StageResult.FAULT} <= {cause}, found.causes
    assert found.fine is (result is not StageResult.FAULT)
    assert str(cause) in diagnosed(found)
    assert diagnosed_json(found)["causes"][0]["cause"] == cause


def test_every_cause_is_known_by_an_example() -> None:
    """Those of UDP and of what comes without a tunnel are in `test_doctor_sent`, `_kinds` and `_bare`."""
    elsewhere = {
        Cause.BALANCER_SENDS_PORT,
        Cause.BALANCER_SENDS_CODE_POINT,
        Cause.PORT_CLOSED,
        Cause.PORT_TAKEN,
    }
    assert {cause for cause, *_ in CASES} == {*Cause} - elsewhere


def test_counters_are_told_by_the_kernels_names() -> None:
    made = replace(broken("dsr-gre"), before=Counters({"IcmpOutDestUnreachs": 5}))
    made = replace(made, after=Counters({"IcmpOutDestUnreachs": 17}, guard={}))
    assert first(diagnose(made)).evidence == ("IcmpOutDestUnreachs +12 in 3 s",)


def test_what_follows_from_a_fault_is_told_as_that() -> None:
    stages = {each.stage: each for each in diagnose(broken("dsr-gre", "ip_gre")).vips[V4]}
    assert stages[Stage.TUNNEL].saw == stages[Stage.FIREWALL].saw == "follows from module_missing"
    assert stages[Stage.WAY_BACK].result is StageResult.OK


def test_a_packet_that_is_lost_for_want_of_a_way_back_was_dropped_by_no_firewall() -> None:
    """Both the reverse-path filter and what the self-test lost follow from the VRF."""
    made = replace(vrf(), sights=lost(tunnel=1))
    assert [each.cause for each in diagnose(made).causes] == [Cause.WAY_BACK_VRF]
    stages = {each.stage: each for each in diagnose(made).vips[V4]}
    assert stages[Stage.FIREWALL].saw == "follows from way_back_vrf"


def test_a_fault_of_one_vip_is_not_the_others() -> None:
    found = diagnose(evidence(sights=lost("TcpExtIPReversePathFilter")))
    bad = {ip for ip, stages in found.vips.items() if any(each.blocks for each in stages)}
    assert bad == {V4}


def test_what_the_guard_has_let_in_stands_for_what_cannot_be_seen() -> None:
    place = counted_in("dsr-gre"), element(BALANCER)
    made = evidence(captured=None, uncaptured="needs root", after=Counters(guard={place: Count(9, 900)}))
    stages = {each.stage: each for each in diagnose(made).vips[V4]}
    assert stages[Stage.ARRIVING].saw == "the guard has let in 9 packets in 3 s"
    stages = {each.stage: each for each in diagnose(evidence(captured=None, uncaptured="needs root")).vips[V4]}
    assert (stages[Stage.ARRIVING].result, stages[Stage.ARRIVING].saw) == (StageResult.UNKNOWN, "needs root")


def test_others_who_reach_the_host_are_named_where_nothing_wrapped_comes() -> None:
    found = diagnose(sent(arriving(protocol=6, inner=None)))
    assert first(found).saw == f"no GRE from any load balancer in 3 s, though {BALANCER} reaches this host otherwise"


def test_what_others_drop_of_other_tunnels_is_not_this_ones_fault() -> None:
    drops = (replace(AT_CARD, packet=f"IPIP from {BALANCER} to {HERE}"), replace(AT_CARD, source=str(STRANGER)))
    assert diagnose(evidence(drops=drops)).causes == ()


def test_many_vips_that_look_alike_are_told_once() -> None:
    found = diagnose(broken("dsr-gre"))
    many = Diagnosis({ip_address(number): found.vips[V4] for number in range(1, 1001)}, found.causes * 3, 64)
    text = diagnosed(many)
    assert "VIP 0.0.0.1 and 999 more VIPs\n" in text
    assert "the self-test was sent to 64 of 1000 VIPs" in text
    assert len(text.splitlines()) < 30


def test_causes_alike_are_told_with_the_vips_they_are_about() -> None:
    """Two services of one VIP are no two VIPs, and each is named."""
    one, other = ("nobody listens at udp/1812", "nobody listens at tcp/49")
    found = [
        Finding(Stage.LISTENER, StageResult.FAULT, saw, cause=Cause.NOT_LISTENING, vip=vip, remedy=f"start {saw[-4:]}")
        for vip, saw in ((V4, one), (V4, other), (V6, one))
    ]
    text = diagnosed(Diagnosis({}, tuple(found)))
    assert f"(VIP {V4}) and 1 more VIP: {one}\n   and: {other}\n" in text
    assert "to mend it: start 1812\n" in text
    assert text.endswith("to mend it: start p/49")


PIECES = {
    "links": st.sampled_from([{}, {"dsr-gre": Received(5, 500, 1, 0, 0, 1)}]),
    "sight": st.one_of(
        st.builds(Sight, st.sampled_from(Seen), st.sampled_from(["", "dsr-gre", "gre0"]), st.just("so")),
        st.sampled_from([*lost("TcpExtIPReversePathFilter").values(), *lost(tunnel=2).values()]),
    ),
    "packet": st.builds(
        arriving,
        vip=st.sampled_from([V4, V6, ip_address("192.0.2.99")]),
        source=st.sampled_from([BALANCER, STRANGER, HERE, CLIENT6]),
        destination=st.sampled_from([HERE, BALANCER, V4, V6]),
        protocol=st.sampled_from([4, 6, 17, 41, 47]),
        port=st.sampled_from([None, 6080]),
        variant=st.sampled_from([None, 0, 1]),
        length=st.sampled_from([60, 84, 300]),
        key=st.sampled_from([None, 7]),
        flags=st.sampled_from([0, 0x8000]),
        fragment=st.booleans(),
    ),
    "without": st.lists(
        st.sampled_from(["dsr-gre", "eth0", str(V4), str(V6), "ip_gre", "table", str(TUNNEL_ADDRESS)]), max_size=3
    ),
    "way": st.sampled_from([OUT, Route("eth1"), Route(refused="x"), Route(kind="blackhole"), Route(kind="local")]),
    "rule": st.sampled_from([UNREACHABLE, BLACKHOLE, Rule(6, 3, "lookup", 100)]),
    "drop": st.sampled_from([DROP, AT_CARD]),
    "verdict": st.sampled_from(Verdict),
    "says": st.sampled_from([None, {}, {"not_ready": {str(V4): ["x"]}}, {"reload": {"successful": False}}]),
}


@given(st.data())
def test_whatever_was_seen_something_is_said(data: st.DataObject) -> None:
    """Each VIP's stages in order, a cause and a remedy wherever something is wrong, and "ok" only where nothing is."""

    def some(name: str) -> Any:
        return data.draw(PIECES[name])

    desired = data.draw(st.sampled_from([file(), file(guard=None), file(guard=GuardPolicy(False, True, 0))]))
    found = diagnose(
        evidence(
            desired,
            host(desired, *some("without"), rp_filter=data.draw(st.integers(0, 2))),
            sights={Pair(ip, "dsr-gre"): some("sight") for ip in data.draw(st.sets(st.sampled_from([V4, V6])))},
            captured=data.draw(st.one_of(st.none(), st.builds(Captured, st.lists(PIECES["packet"]).map(tuple)))),
            after=Counters({"IpReasmFails": data.draw(st.integers(0, 2))}, some("links")),
            answers={V4: {CLIENT: some("way")}, V6: {CLIENT6: some("way")}},
            ordinary={CLIENT: some("way")},
            rules=tuple(data.draw(st.lists(PIECES["rule"], max_size=2))),
            drops=data.draw(st.one_of(st.none(), st.lists(PIECES["drop"], max_size=2).map(tuple))),
            listening={Service(key, SERVED): ServiceFinding(SERVED, some("verdict"), ("x",)) for key in desired.vips},
            agent=Word(data.draw(st.sampled_from([None, 7])), some("says")),
        )
    )
    faults = [each for stages in found.vips.values() for each in stages if each.result is StageResult.FAULT]
    assert found.fine is not bool(faults)
    for stages in found.vips.values():
        assert {each.stage for each in stages} >= {*Stage} - {Stage.AGENT}
        for each in stages:
            assert bool(each.cause) == bool(each.remedy) == (each.result in (StageResult.FAULT, StageResult.WARNING))
            assert each.saw
    results = [each.result for each in found.causes]
    assert results == sorted(results, key=lambda result: result is not StageResult.FAULT)
    assert diagnosed(found)
