"""``dsr-agent`` as a user runs it, on the real kernel: VIPs, ARP sysctls, signals, restarts, exit codes and JSON."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import pytest

from dsr_agent.state.marks import ADDRESS_PROTO
from dsr_agent.state.model import Address
from tests.netns.agent import Agent, dsr_agent, process
from tests.netns.space import NETWORK_CARD, put, sh

VIPS = """
[[vip]]
address = "192.0.2.10"

[[vip]]
address = "2001:db8::10"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file with two VIPs, and no tunnel, because the kernel may have none."""
    path = tmp_path / "dsr-agent.toml"
    path.write_text(VIPS)
    return path


def addresses() -> set[str]:
    """The addresses of ``lo``, but for its own."""
    words = sh("ip -o addr show dev lo").split()
    return {after for word, after in pairwise(words) if word.startswith("inet")} - {
        "127.0.0.1/8",
        "::1/128",
    }


BOTH = {"192.0.2.10/32", "2001:db8::10/128"}


# --- run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vip", sorted(BOTH))
def test_a_deleted_vip_comes_back(config: Path, vip: str) -> None:
    """As soon as the kernel announces it, and the log says so."""
    with Agent(config) as agent:
        assert addresses() == BOTH

        line = agent.after(lambda: sh(f"ip addr del {vip} dev lo"), f"VIP {vip} on lo: it is missing; put back in ")

        assert " WARNING " in line
        assert addresses() == BOTH


def test_lo_down_comes_up_again_with_its_vips(config: Path) -> None:
    """The kernel forgets the IPv6 VIP when lo goes down; which of the two is seen first is the kernel's choice."""
    with Agent(config) as agent:
        sh("ip link set lo down")
        agent.says_each("lo: it is down; brought up in ", "VIP 2001:db8::10/128 on lo: it is missing; put back in ")

        assert addresses() == BOTH


def test_a_wiped_mark_is_set_again(config: Path) -> None:
    """``ip addr replace`` takes it."""
    with Agent(config) as agent:
        agent.after(lambda: sh("ip addr replace 192.0.2.10/32 dev lo"), "VIP 192.0.2.10/32 on lo: its mark was wiped")

        assert dsr_agent("plan", config=config).code == 0


def test_sigterm_leaves_everything_in_place(config: Path) -> None:
    """Stopping takes no VIP away; the exit code is 0, and the log says what stays."""
    with Agent(config) as agent:
        assert agent.stop() == 0

        agent.says("stopped; tunnels and VIPs stay as they are (dsr-agent teardown removes them)")
        assert addresses() == BOTH


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_stop(config: Path, number: signal.Signals) -> None:
    """Ctrl-C does the same."""
    with Agent(config) as agent:
        agent.process.send_signal(number)

        assert agent.process.wait(30) == 0


def test_after_kill_9_the_next_one_finds_its_own(config: Path) -> None:
    """Again and again: nothing is touched, and nothing is there twice."""
    with Agent(config) as agent:
        agent.kill()
    for _ in range(3):
        with Agent(config) as agent:
            assert " INFO started: 0 tunnels, 2 VIPs; nothing to do, in sync after " in agent.started
    assert addresses() == BOTH


def test_sighup_reads_the_file_again(config: Path) -> None:
    """What is gone from it goes, what is new comes, and what somebody else added stays."""
    with Agent(config) as agent:
        sh("ip addr add 198.51.100.1/32 dev lo")
        config.write_text(VIPS.replace("192.0.2.10", "192.0.2.11"))
        agent.after(agent.reload, "read the file again: 0 tunnels, 2 VIPs; 2 steps, in sync after ")

        assert addresses() == {"192.0.2.11/32", "2001:db8::10/128", "198.51.100.1/32"}


def test_a_bad_file_at_a_reload_changes_nothing(config: Path) -> None:
    """The log says what is wrong with it; what ran before goes on."""
    with Agent(config) as agent:
        config.write_text(VIPS + 'adress = "192.0.2.12"\n')
        agent.after(agent.reload, "ERROR the file cannot be used; going on as before")
        assert "adress" in "".join(agent.log)

        repair(agent)
        assert addresses() == BOTH
        config.write_text(VIPS)
        agent.after(agent.reload, "read the file again")
        assert "Traceback" not in "".join(agent.log)


def test_a_second_agent_is_refused(config: Path) -> None:
    """Two would undo each other; the message names the first. When that is gone, the place is free."""
    with Agent(config) as agent:
        answer = process("run", config=config)

        assert (answer.code, answer.err) == (
            1,
            f"dsr-agent: dsr-agent already runs here (process {agent.process.pid}); stop that one first\n",
        )
        assert dsr_agent("status", config=config).out.startswith(
            f"in sync; the agent is running (process {agent.process.pid})\n"
        )
        agent.stop()
    with Agent(config):
        pass


def test_arp_sysctls_are_raised_where_a_vip_is_a_neighbour_and_never_lowered(config: Path) -> None:
    """On the segment of 10.0.3.77 only; and stopping or removing the VIP lowers nothing."""
    sh(*NETWORK_CARD, "ip link add other type veth peer name far", "ip addr add 172.16.0.1/24 dev other")
    sh("sysctl -w net/ipv4/conf/nic/arp_ignore=2")
    config.write_text('[[vip]]\naddress = "10.0.3.77"\n')
    with Agent(config) as agent:
        assert values() == {"nic arp_ignore": 2, "nic arp_announce": 2, "other arp_ignore": 0, "other arp_announce": 0}
        config.write_text(VIPS)
        agent.after(agent.reload, "read the file again")
        agent.stop()

    assert values()["nic arp_announce"] == 2


def values() -> dict[str, int]:
    """The ARP sysctls of both network cards."""
    return {
        f"{link} {name}": int(Path(f"/proc/sys/net/ipv4/conf/{link}/{name}").read_text())
        for link in ("nic", "other")
        for name in ("arp_ignore", "arp_announce")
    }


def test_nothing_is_left_open_or_running(config: Path) -> None:
    """After many repairs it has the same files open as after the first few, and no children."""
    with Agent(config) as agent:
        agent.serving()
        for _ in range(3):
            repair(agent)
        before = sockets(agent)
        for _ in range(6):  # ten in a minute would be a fight
            repair(agent)

        assert sockets(agent) == before
        assert not Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children").read_text()


def sockets(agent: Agent) -> list[str]:
    """The sockets, pipes and so on that the agent has open."""
    found = []
    for entry in Path(f"/proc/{agent.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a file that it read and closed just now
            found.append(os.readlink(entry))
    return sorted(link for link in found if "[" in link)


def repair(agent: Agent) -> None:
    """One round of drift."""
    agent.after(lambda: sh("ip addr del 192.0.2.10/32 dev lo"), "put back")


# --- the other verbs ------------------------------------------------------------------------------------------------


def test_a_life_from_the_command_line(config: Path) -> None:
    """Exit codes: 0 fine, 1 not in sync."""
    assert dsr_agent("check", config=config).code == 0
    plan = dsr_agent("plan", config=config)
    assert (plan.code, plan.out) == (
        1,
        "add 192.0.2.10/32 on lo  (it is missing)\nadd 2001:db8::10/128 on lo  (it is missing)\n",
    )
    assert addresses() == set(), "a plan does nothing"
    assert dsr_agent("status", config=config).code == 1
    assert dsr_agent("apply", config=config).out == (
        "done     add 192.0.2.10/32 on lo\ndone     add 2001:db8::10/128 on lo\nin sync\n"
    )
    assert dsr_agent("apply", config=config).out == "nothing to do\nin sync\n"
    assert dsr_agent("plan", config=config).out == "in sync: nothing to do\n"
    assert dsr_agent("status", config=config).out == (
        "in sync; the agent is not running\nVIP 192.0.2.10 on lo: there\nVIP 2001:db8::10 on lo: there\n"
    )
    assert dsr_agent("teardown").code == 0
    assert addresses() == set()
    assert dsr_agent("teardown").out == "nothing here is marked ours\n"


def test_a_life_in_json(config: Path) -> None:
    """The same for machines."""
    plan = dsr_agent("plan", "--json", config=config)
    assert (plan.code, plan.json["in_sync"]) == (1, False)
    assert plan.json["actions"][0] == {
        "action": "AddAddress",
        "key": "192.0.2.10/32 on lo",
        "text": "add 192.0.2.10/32 on lo",
        "why": "it is missing",
    }
    apply = dsr_agent("apply", "--json", config=config)
    assert (apply.code, apply.json["in_sync"], apply.json["problems"]) == (0, True, [])
    assert [outcome["result"] for outcome in apply.json["outcomes"]] == ["done", "done"]
    status = dsr_agent("status", "--json", config=config)
    assert (status.code, status.json["agent"]) == (0, {"running": False, "pid": None, "held": {"vips": []}})
    assert [(vip["address"], vip["present"]) for vip in status.json["vips"]] == [
        ("192.0.2.10", True),
        ("2001:db8::10", True),
    ]
    teardown = dsr_agent("teardown", "--json")
    assert (teardown.code, teardown.json["ok"], len(teardown.json["outcomes"])) == (0, True, 2)


def test_teardown_removes_what_is_ours_and_nothing_else(config: Path) -> None:
    """Also what an earlier file left behind; the file is not needed."""
    sh("ip addr add 198.51.100.1/32 dev lo", "ip addr add 2001:db8::1/128 dev lo")
    put(Address("lo", ip_address("198.51.100.2"), 32, proto=3))
    put(Address("lo", ip_address("203.0.113.7"), 32, proto=ADDRESS_PROTO))
    dsr_agent("apply", config=config)
    assert "203.0.113.7/32" not in addresses(), "swept: it carries our mark and is not in the file"

    assert dsr_agent("teardown").code == 0

    assert addresses() == {"198.51.100.1/32", "198.51.100.2/32", "2001:db8::1/128"}


def test_teardown_is_refused_while_an_agent_runs(config: Path) -> None:
    """It would put everything back."""
    with Agent(config) as agent:
        answer = dsr_agent("teardown")

        assert (answer.code, answer.err) == (
            1,
            f"dsr-agent: dsr-agent runs here (process {agent.process.pid}) and would put all back; stop it first\n",
        )
        assert addresses() == BOTH


def test_without_the_right_to_change_anything_looking_still_works(config: Path) -> None:
    """``status`` and ``plan`` need no privilege; ``apply`` says which one it lacks."""
    nobody = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert process("status", config=config, prefix=nobody).out.startswith("not in sync; the agent is not running\n")

    answer = process("apply", "--json", config=config, prefix=nobody)

    assert answer.code == 1
    assert {(problem["move"], problem["remedy"]) for problem in answer.json["problems"]} == {
        ("operator", "run as root or with CAP_NET_ADMIN")
    }
    assert addresses() == set()


def test_a_file_that_cannot_be_used_is_exit_code_2(config: Path) -> None:
    """Whatever the verb; and nothing is touched."""
    config.write_text("[[vip]]\n")
    assert process("run", config=config).code == 2
    for verb in ("check", "plan", "apply", "status"):
        assert dsr_agent(verb, config=config).code == 2, verb
    assert dsr_agent("check", "--json", config=config).json["ok"] is False
    assert dsr_agent("dance").code == 2


def test_nobody_reads_what_it_prints(config: Path) -> None:
    """``dsr-agent check | true`` ends as it says, not with a complaint of the interpreter."""
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "dsr_agent", "check", "--config", str(config)]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(words, env=buffered, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writing)

    assert (done.returncode, done.stderr) == (1, b"")


def test_what_it_prints_has_no_room(config: Path) -> None:
    """A sentence, and no traceback."""
    words = [sys.executable, "-m", "dsr_agent", "check", "--config", str(config)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)

    said = b"dsr-agent: what is printed cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)
