"""Many tunnels on one server at once, at several of its addresses: none is in another one's way."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.lab.agent import Agent, agent_settings, has_inet_tables, vip
from tests.lab.eye import Eye
from tests.lab.guarded import need_guard, refusing
from tests.lab.ledger import Ledger
from tests.lab.marking import send_marked
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import SLOW, clean
from tests.lab.spaces import inside, ip, run
from tests.lab.traffic import Stream, ask_tcp, ask_udp, echoes
from tests.lab.ways import HERE, OTHER, WAYS, Table, Way, balancer, second_interface, way
from tests.lab.world import ROUTER, RS1, world

PORT = 7001
# Packets a second of each. One processor has it all, and the balancer is a program of Python: where that is emulated,
# what it has no time to take is lost before it was sent.
RATE, RATE_OF_FEW, POLL = (1, 10, 5.0) if SLOW else (5, 80, 0.5)
# Every other one is IPv6.
VIPS = [f"2001:db8:f::{10 + i}" if i % 2 else f"192.0.2.{10 + i}" for i in range(len(WAYS))]
AT = {each.name: address for each, address in zip(WAYS, VIPS, strict=True)}
BOUND, MARKED, PLAIN = "192.0.2.98", "192.0.2.99", "192.0.2.100"
BOUND_TO = ("ipip-eth1", "gre-7", "gre6")
REACHED_BY = (*BOUND_TO, "gue-eth1")  # which has the link of ipip-eth1
CODE = 7

TUNNELS = "".join(each.text for each in WAYS)
EVERY = agent_settings(poll_interval=POLL) + TUNNELS + "".join(map(vip, VIPS)) + vip(BOUND, tunnels=BOUND_TO)
UNWRAPPED = (
    '[[tunnel]]\nencapsulation = "l2"\n'
    + vip(PLAIN, tunnels=["dsr-l2"])
    + '[[tunnel]]\nencapsulation = "dscp"\n'
    + vip(MARKED, tunnels=["dsr-dscp"], dscp=CODE)
)

# What another program does, and whose packets it costs.
DRIFT = {
    "ip link del ipip": ("ipip", "gue", "gue-6081", "fou"),
    "ip link change gre-8 type gre nocsum": ("gre-8",),
    "ip link del gre6-eth1": ("gre6-eth1",),
    f"ip fou del port 6080 local {OTHER}": ("gue-eth1",),
}


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def table() -> Iterator[Table]:
    """The network, an echo on each VIP, and each VIP's packets on a way of their own."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(world())
        second_interface()
        stack.enter_context(echoes(RS1, [*VIPS, BOUND, MARKED, PLAIN], [PORT]))
        ip(ROUTER, f"route add {PLAIN} via {HERE}")
        yield stack.enter_context(balancer())


@contextlib.contextmanager
def everything(table: Table) -> Iterator[Agent]:
    """
    An agent with all tunnels, and what needs nftables where there is that.

    Its teardown leaves nothing but the port that somebody made by hand.
    """
    table.ways = dict(zip(VIPS, WAYS, strict=True))
    with inside(RS1):
        run("modprobe", "fou")
        run("ip", "fou", "add", "port", "5556", "ipproto", "4")
    with Agent(RS1, EVERY + UNWRAPPED * has_inet_tables()) as agent, contextlib.closing(Eye(RS1)) as eye:
        yield agent
        agent.stop()
        assert agent.call("teardown").returncode == 0
        assert not eye.ours()
    with inside(RS1):
        assert run("ip", "fou", "show") == "port 5556 ipproto 4\n"
        run("ip", "fou", "del", "port", "5556")


@contextlib.contextmanager
def streams(addresses: Sequence[str], rate: float = RATE) -> Iterator[dict[str, Stream]]:
    """Traffic to all of *addresses*."""
    with contextlib.ExitStack() as stack:
        yield {address: stack.enter_context(Stream(address, PORT, rate)) for address in addresses}


def test_each_carries_its_own_and_drifts_alone(table: Table) -> None:
    """All at once, with a kill in between; and what was undone costs nobody else a packet."""
    with everything(table) as agent, contextlib.closing(Eye(RS1)) as eye, streams(VIPS) as found:
        assert agent.status()["in_sync"]
        assert agent.call("plan").stdout == "in sync: nothing to do\n"
        before = eye.view()
        for stream in found.values():
            stream.wait_answered(3)
        began = time.monotonic()
        agent.stop(signal.SIGKILL)
        agent.start()
        agent.settle()
        spans: list[tuple[tuple[str, ...], float, float]] = [((), began, time.monotonic())]
        for command, costs in DRIFT.items():
            mark, began = agent.mark(), time.monotonic()
            with inside(RS1):
                run(*command.split())
            agent.wait_log("again" if "del" in command else "changed in place", mark)
            eye.until_again(before)
            for name in costs:
                found[AT[name]].wait_answered(3)
            spans.append((costs, began, time.monotonic()))
        for stream in found.values():
            stream.finish()
        for costs, began, ended in spans:
            for name, address in AT.items():
                assert name in costs or clean(found[address].tally(after=began, before=ended)), (costs, name)
        assert [ask_tcp(address, PORT, bytes(20_000)).server for address in VIPS] == [RS1] * len(VIPS)


def test_a_vip_of_some_tunnels(table: Table) -> None:
    """The guard refuses what comes for it by another one; without one, whoever reaches the server reaches the VIP."""
    with everything(table):
        for each in WAYS:
            table.ways[BOUND] = each
            if each.name in REACHED_BY or not has_inet_tables():
                assert ask_udp(BOUND, PORT).server == RS1, each
                continue
            with refusing("inner_destination", 1), pytest.raises(TimeoutError):
                ask_udp(BOUND, PORT, timeout=0.5)


def test_beside_what_is_not_wrapped(table: Table) -> None:
    need_guard()
    send_marked([(MARKED, RS1, CODE)])
    with everything(table) as agent:
        assert agent.status()["in_sync"]
        for address in (MARKED, PLAIN, *VIPS):
            assert ask_udp(address, PORT).server == RS1


EDGE = way("edge", "ipip")
STEPS: dict[str, tuple[Sequence[Way], Sequence[Way]]] = {
    "the first of those that share a link goes": (WAYS[:1] + WAYS[9:10] + WAYS[13:14], WAYS[9:10] + WAYS[13:14]),
    "an earlier one comes, and the order changes": (WAYS[9:10], WAYS[13:14] + WAYS[:1] + WAYS[9:10]),
    "the first of those that share a link becomes GRE": ([EDGE, WAYS[9]], [way("edge", "gre"), WAYS[9]]),
    "a name is handed on": ([EDGE], [way("edge", "gre"), way("old", "ipip")]),
    "two trade names": (
        [way("a", "gre", key=7), way("b", "gre", key=8)],
        [way("a", "gre", key=8), way("b", "gre", key=7)],
    ),
    "from FOU to GUE at one port": ([way("edge", "fou", port=6080)], [way("edge", "gue", port=6080)]),
    "to another address": ([way("edge", "gue", local=HERE)], [way("edge", "gue", OTHER, local=OTHER)]),
}


@pytest.fixture(scope="module")
def agent(table: Table) -> Iterator[Agent]:
    """One that goes through all steps."""
    with Agent(RS1, "") as running:
        yield running
        running.stop()
        running.call("teardown")


@pytest.mark.parametrize("step", STEPS)
def test_by_reload(step: str, agent: Agent, table: Table, ledger: Ledger) -> None:
    """Whatever the file says at a moment arrives: what it says before and after, without a gap."""
    before, after = STEPS[step]
    forms: dict[object, Way] = {_sent(each): each for each in (*before, *after)}
    address = {form: VIPS[number] for number, form in enumerate(forms)}
    table.ways = {address[form]: each for form, each in forms.items()}
    vips = "".join(map(vip, address.values()))
    old, new = {_sent(each) for each in before}, {_sent(each) for each in after}
    agent.reload("".join(each.text for each in before) + vips)
    with streams(list(address.values()), RATE_OF_FEW) as found:
        for form in old:
            found[address[form]].wait_answered(3)
        asked = time.monotonic()
        for form in old:
            found[address[form]].wait_answered(1)  # what was sent until then has arrived: the balancer takes its time
        agent.reload("".join(each.text for each in after) + vips)
        done = time.monotonic()
        for form in new:
            found[address[form]].wait_answered(3)
    assert agent.call("plan").stdout == "in sync: nothing to do\n"
    for form in forms:
        since, until = 0.0 if form in old else done, float("inf") if form in new else asked
        tally = found[address[form]].tally(after=since, before=until)
        ledger.add(
            f"reload: {step}: {'stays' if form in old & new else 'goes' if form in old else 'comes'}", None, tally
        )
        assert clean(tally), form


def _sent(by: Way) -> object:
    """What is sent, whatever the file calls it."""
    return by.encapsulation, by.to, tuple((key, by.values.get(key)) for key in ("key", "checksum", "port"))
