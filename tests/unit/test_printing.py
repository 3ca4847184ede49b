"""How plans, reports and states look on a terminal, and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from dsr_agent import printing
from dsr_agent.config import load
from dsr_agent.reconcile.loop import apply_once, plan_now
from dsr_agent.reconcile.plan import plan, teardown
from dsr_agent.reconcile.resolve import resolve
from dsr_agent.service.span_keeper import moment
from dsr_agent.service.status import Status
from dsr_agent.state.actions import AddLink, Plan
from dsr_agent.state.errors import NotPermitted, Unsupported
from dsr_agent.state.model import EVERYTHING, Observed
from dsr_agent.state.table import ObservedGuard
from tests.fake.clock import FakeClock
from tests.fake.kernel import FakeKernel
from tests.fake.story import FILE, HOST, IN_SYNC, NO_GUARD, desired

BROKEN = (
    IN_SYNC.replace("10.0.3.2 up ours", "10.0.3.2 down ours")
    .replace("  192.0.2.10/32 ours\n", "")
    .replace("10.1.0.5 is reached from 10.0.3.2\n", "")
)
MANY = FILE + "".join(f'\n[[vip]]\naddress = "198.18.0.{n}"\n' for n in range(1, 31))


async def seen(file: str, host: str, running: int | None = None) -> Status:
    """What ``dsr-agent status`` is about."""
    todo, observed = await plan_now(FakeKernel(host), desired(file))
    return Status(desired(file), observed, resolve(desired(file), observed), todo, running)


async def test_a_status_that_is_fine() -> None:
    """A line for each tunnel and VIP."""
    assert printing.status(await seen(FILE, IN_SYNC, 4711), {}) == (
        "in sync; the agent is running (process 4711)\n"
        "guard: off: whoever reaches this host may send through its tunnels\n"
        "tunnel dsr-ipip: ipip to 10.0.3.2, up\n"
        "VIP 192.0.2.10 on lo: there\n"
        "VIP 2001:db8::10 on lo: there"
    )


async def test_a_status_says_what_is_wrong_where_it_is() -> None:
    """Below the tunnel, beside the VIP, and last what belongs to neither."""
    assert printing.status(await seen(FILE, BROKEN)) == (
        "not in sync; the agent is not running\n"
        "guard: off: whoever reaches this host may send through its tunnels\n"
        "tunnel dsr-ipip: ipip to 10.0.3.2, down\n"
        "  there is no route to its load balancers (yet), so its local address is not known\n"
        "  bring dsr-ipip up (it is down)\n"
        "VIP 192.0.2.10 on lo: add 192.0.2.10/32 on lo (it is missing)\n"
        "VIP 2001:db8::10 on lo: there"
    )


async def test_a_status_of_a_host_without_a_route() -> None:
    """The local address is not known yet."""
    text = printing.status(await seen(FILE, HOST.replace("10.1.0.5 is reached from 10.0.3.2", "")))

    assert "tunnel dsr-ipip: ipip to unknown, missing\n" in text


async def test_a_status_of_many_vips_lists_those_that_lack_something() -> None:
    """The rest is counted."""
    host = IN_SYNC.replace("lo up\n", "lo up\n" + "".join(f"  198.18.0.{n}/32 ours\n" for n in range(1, 30)))

    assert printing.status(await seen(MANY, host)).splitlines()[3:] == [
        "VIP 198.18.0.30 on lo: add 198.18.0.30/32 on lo (it is missing)",
        "31 of 32 VIPs are there",
    ]


async def test_a_status_in_a_vrf() -> None:
    """Where the tunnel's requests are."""
    file = FILE.replace("[[vip]]", 'vrf = "blue"\n[[vip]]', 1)
    host = HOST.replace("10.1.0.5 is", "10.1.0.5 in VRF blue is") + "blue vrf up\n"
    text = printing.status(await seen(file, host))

    assert "tunnel dsr-ipip: ipip to 10.0.3.2 in VRF blue, missing\n" in text
    assert "192.0.2.10 on blue" in text


async def test_a_status_in_json() -> None:
    """Everything, however much."""
    value = json.loads(json.dumps(printing.status_json(await seen(FILE, BROKEN, 4711))))

    assert (value["in_sync"], value["agent"]) == (
        False,
        {"running": True, "pid": 4711, "held": {"vips": []}},
    )
    assert value["tunnels"] == [
        {
            "name": "dsr-ipip",
            "encapsulation": "ipip",
            "link": "dsr-ipip",
            "local": "10.0.3.2",
            "key": None,
            "checksum": False,
            "port": None,
            "vrf": None,
            "load_balancers": ["10.1.0.5/32"],
            "state": "down",
            "troubles": [
                "there is no route to its load balancers (yet), so its local address is not known",
                "bring dsr-ipip up (it is down)",
            ],
        }
    ]
    assert [vip["present"] for vip in value["vips"]] == [False, True]
    assert [action["action"] for action in value["actions"]] == ["AddAddress", "BringUp"]
    assert value["problems"] == [
        {
            "key": "tunnel dsr-ipip",
            "move": "host",
            "problem": "there is no route to its load balancers (yet), so its local address is not known",
            "remedy": "",
        }
    ]


async def test_a_long_plan_fits_a_screen_and_json_has_all_of_it() -> None:
    """Twenty steps, and how many more."""
    todo, _ = await plan_now(FakeKernel(IN_SYNC), desired(MANY))

    lines = printing.plan(todo).splitlines()

    assert lines[0] == "add 198.18.0.1/32 on lo  (it is missing)"
    assert (len(lines), lines[-1]) == (21, "... and 10 more (--json has all)")
    assert len(printing.plan_json(todo)["actions"]) == 30


def test_a_plan_with_nothing_in_it() -> None:
    """Says so."""
    assert printing.plan(Plan()) == "in sync: nothing to do"
    assert printing.plan_json(Plan()) == {
        "in_sync": True,
        "actions": [],
        "problems": [],
        "warnings": [],
        "held": [],
    }


async def test_a_report_says_what_was_done_and_what_was_not() -> None:
    """And whether the host is now as the file says."""
    kernel = FakeKernel(IN_SYNC.replace("dsr-ipip", "other").replace("up ours", "down"))
    kernel.meddle("ip link del other")
    kernel.fail_always(AddLink, Unsupported("the running kernel has no module ipip", "install it"))

    report = await apply_once(kernel, desired(FILE), FakeClock())

    lines = printing.report(report).splitlines()
    assert lines[0] == (
        "failed   add sit tunnel dsr-ipip local 10.0.3.2 remote any: the running kernel has no module ipip: install it"
    )
    assert lines[-2] == "skipped  bring dsr-ipip up: it waits for dsr-ipip"
    assert {line.split()[0] for line in lines[1:-1]} == {"skipped"}
    assert lines[-1] == "not in sync"
    value = printing.report_json(report)
    assert value["in_sync"] is False
    assert value["outcomes"][0] == {
        "action": "AddLink",
        "key": "dsr-ipip",
        "text": "add sit tunnel dsr-ipip local 10.0.3.2 remote any",
        "why": "it is missing",
        "result": "failed",
        "error": "the running kernel has no module ipip: install it",
    }
    assert value["problems"][0]["move"] == "host"


def test_a_teardown_of_nothing() -> None:
    """Says so."""
    assert printing.torn_down((), Plan()) == "nothing here is marked ours"
    assert printing.torn_down_json((), Plan()) == {"ok": True, "outcomes": [], "problems": []}


def test_a_teardown_that_may_not_look() -> None:
    """Who cannot see the guard does not say that there is none."""
    left = teardown(Observed(guard=ObservedGuard(unavailable=NotPermitted("it cannot be seen", "run as root"))))

    assert printing.torn_down((), left) == "cannot: guard: it cannot be seen: run as root"
    assert printing.torn_down_json((), left)["ok"] is False
    assert not teardown(Observed(guard=ObservedGuard(unavailable=Unsupported("there is no nftables"))))


def test_a_check_says_what_it_read_and_what_is_suspicious(tmp_path: Path) -> None:
    """Warnings first; one line that the file is fine."""
    path = tmp_path / "dsr-agent.toml"
    path.write_text('[[vip]]\naddress = "192.0.2.10"\n')
    loaded = load(path, environ=NO_GUARD)

    *warnings, fine = printing.checked(loaded).splitlines()

    assert fine == f"{path}: fine, 0 tunnels, 1 VIP"
    assert [warning.startswith("warning: ") for warning in warnings] == [True] * len(loaded.warnings)
    assert printing.checked_json(loaded) == {
        "ok": True,
        "files": [str(path)],
        "tunnels": 0,
        "vips": 1,
        "warnings": list(loaded.warnings),
    }


HOLDS = {
    "vips": [
        {"vip": "192.0.2.10", "name": "radius", "declared": True, "since": 0.0, "until": None},
        {"vip": "192.0.2.99", "name": None, "declared": False, "since": 0.0, "until": 3600.0},
    ]
}
HELD = (
    "VIP 192.0.2.10 is held until somebody releases\n"
    f"VIP 192.0.2.99 is held until {moment(3600.0)}; it is not in the file"
)


async def test_what_is_held_is_told_and_left_alone() -> None:
    """By status, plan and apply."""
    kernel = FakeKernel(IN_SYNC.replace("  192.0.2.10/32 ours\n", ""))
    wanted = desired(FILE).holding([ip_address("192.0.2.10")])
    todo, observed = await plan_now(kernel, wanted)
    assert printing.plan(todo, HOLDS) == f"in sync: nothing to do\n{HELD}"
    assert printing.plan_json(todo, HOLDS)["held"] == HOLDS["vips"]
    done = await apply_once(kernel, wanted, FakeClock())
    assert printing.report(done, HOLDS) == f"nothing to do\nin sync\n{HELD}"
    assert printing.report_json(done, HOLDS)["held"] == HOLDS["vips"]
    status = Status.of(wanted, observed, None)
    assert printing.status(status, holds=HOLDS) == (
        f"in sync; the agent is not running\n{HELD}\n"
        "guard: off: whoever reaches this host may send through its tunnels\n"
        "tunnel dsr-ipip: ipip to 10.0.3.2, up\n"
        "VIP 192.0.2.10 on lo: missing; it is held\n"
        "VIP 2001:db8::10 on lo: there"
    )


async def test_of_many_vips_a_held_one_that_is_away_does_not_count_as_there() -> None:
    host = IN_SYNC.replace("lo up\n", "lo up\n" + "".join(f"  198.18.0.{n}/32 ours\n" for n in range(1, 30)))
    wanted = desired(MANY).holding([ip_address("198.18.0.30")])
    _, observed = await plan_now(FakeKernel(host), wanted)
    assert printing.status(Status.of(wanted, observed, None)).splitlines()[-1] == "31 of 32 VIPs are there"


MARKED = """
[[tunnel]]
encapsulation = "dscp"

[[vip]]
address = "192.0.2.10"
dscp = 7
"""


async def test_an_agent_that_runs_and_is_silent_is_told_as_that() -> None:
    first, second, *_ = printing.status(await seen(FILE, IN_SYNC, 4711), None).splitlines()
    assert first == "in sync; the agent is running (process 4711)"
    assert second == "agent: it does not answer (yet), so this is only what can be seen of the host"


async def test_rules_that_cannot_be_seen_are_not_in_place() -> None:
    """Who may only look says that they cannot be seen; who is to write them, that they are missing."""
    unseen = NotPermitted("the guard cannot be seen or changed", "run with CAP_NET_ADMIN")
    wanted = desired(MARKED)
    _, found = await plan_now(FakeKernel(HOST), wanted)
    looks = replace(found, guard=ObservedGuard(unavailable=unseen))
    writes = replace(found, guard=ObservedGuard(unavailable=unseen, can_hold=True))

    assert ", its rules cannot be seen: run with CAP_NET_ADMIN" in printing.status(Status.of(wanted, looks, None))
    assert "cannot: tunnel dsr-dscp: its rules cannot be seen or changed: run with CAP_NET_ADMIN" in printing.plan(
        plan(wanted, writes, EVERYTHING)
    )
