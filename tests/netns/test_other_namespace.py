"""An agent that is started in one network namespace and works in another one, which its file names."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.agent import Agent, Response, process
from tests.netns.space import sh

VIP = "192.0.2.10"


@pytest.fixture
def name() -> Iterator[str]:
    """A namespace as ``ip netns`` makes it, with ``lo`` down and nothing in it."""
    made = f"dsr-{secrets.token_hex(4)}"
    sh(f"ip netns add {made}")
    yield made
    sh(f"ip netns del {made}")


def written(folder: Path, netns: str, *more: str, poll_interval: float = 10.0) -> Path:
    """The file."""
    path = folder / "dsr-agent.toml"
    lines = [f'[agent]\nnetns = "{netns}"\npoll_interval = {poll_interval}', f'[[vip]]\naddress = "{VIP}"', *more]
    path.write_text("\n".join(lines) + "\n")
    return path


def addresses(name: str) -> tuple[str, str]:
    """Of ``lo``, there and here."""
    return sh(f"ip -n {name} address show dev lo"), sh("ip address show dev lo")


def asked(verb: str, file: Path, *more: str) -> Response:
    return process(verb, *more, config=file)


@pytest.mark.parametrize("by", ["name", "file"])
def test_everything_is_done_there_and_nothing_here(name: str, by: str, tmp_path: Path) -> None:
    """Sysctls and HTTP as well; the unix socket and the verbs are found from here."""
    file = written(tmp_path, name if by == "name" else f"/run/netns/{name}")
    assert f"add {VIP}/32 on lo" in asked("plan", file).out
    with Agent(file) as agent:
        there, here = addresses(name)
        assert (VIP in there, VIP in here) == (True, False)
        assert "UP" in there, "lo was brought up"
        done = asked("status", file, "--json")
        assert (done.code, done.json["agent"]["pid"]) == (0, agent.process.pid)
        sh(f"ip -n {name} address del {VIP}/32 dev lo")
        agent.says("put back")
        held = asked("drain", file, VIP)
        while "cannot be asked" in held.err:  # its socket comes after its first pass
            held = asked("drain", file, VIP)
        assert VIP in held.out
        assert "runs here" in asked("teardown", file).err
    assert asked("status", file).code == 0
    assert asked("teardown", file).code == 0
    assert VIP not in addresses(name)[0]


def test_apply_goes_there_too_and_again(name: str, tmp_path: Path) -> None:
    """And from within, where there is nothing to enter."""
    file = written(tmp_path, name)
    assert asked("apply", file).code == 0
    assert VIP in addresses(name)[0]
    done = process("plan", config=file, prefix=("ip", "netns", "exec", name))
    assert (done.code, done.out) == (0, "in sync: nothing to do\n")


def test_a_namespace_that_is_not_there(tmp_path: Path) -> None:
    done = asked("run", written(tmp_path, "dsr-nowhere"))

    assert done.code == 1
    assert "network namespace dsr-nowhere is not there (yet): no /run/netns/dsr-nowhere: ip netns add" in done.err


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = asked("plan", written(tmp_path, str(tmp_path / "file")))
    assert (done.code, done.err) == (
        1,
        f"dsr-agent: {tmp_path}/file is no network namespace (any more): correct netns\n",
    )


def test_who_may_not_enter_is_told_who_can(name: str, tmp_path: Path) -> None:
    """The service has no right to; systemd does it for it."""
    without = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    done = process("plan", config=written(tmp_path, name), prefix=without)
    assert done.code == 1
    assert f"cannot enter network namespace {name}: that takes CAP_SYS_ADMIN" in done.err
    assert f"[Service] NetworkNamespacePath=/run/netns/{name}" in done.err


def test_teardown_needs_no_file_and_of_a_bad_one_only_where_to_go(name: str, tmp_path: Path) -> None:
    file = written(tmp_path, name)
    assert asked("apply", file).code == 0
    assert asked("teardown", tmp_path / "none.toml").code == 0
    assert VIP in addresses(name)[0]
    file.write_text("netns")
    assert asked("teardown", file).code == 0
    assert VIP in addresses(name)[0]
    file.write_text(f'[agent]\nnetns = "{name}"\nlog_level = "loud"\n')
    assert asked("teardown", file).code == 0
    assert VIP not in addresses(name)[0]


def test_one_that_is_made_anew_is_where_it_starts_again(name: str, tmp_path: Path) -> None:
    """The old one lives on as long as the agent works in it, and nobody would see what is missing in the new one."""
    file = written(tmp_path, name, poll_interval=0.5)
    with Agent(file) as agent:
        sh(f"ip netns del {name}")
        line = agent.says("was deleted")
        assert f"network namespace {name} was deleted (no /run/netns/{name} any more)" in line
        sh(f"ip netns add {name}")
        assert f"network namespace {name} was made anew, and this agent is in the old one" in agent.says("made anew")
        assert agent.process.wait(30) == 1, "systemd is to start it again"
    with Agent(file):
        assert VIP in addresses(name)[0]


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a network namespace of its own."""
    command = ["unshare", "--net", "sh", "-c", "echo there; exec sleep 600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as started:
        assert started.stdout
        started.stdout.readline()
        yield started
        started.kill()


def test_that_of_a_process_is_no_name(owner: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Its number may be another process's tomorrow, which says nothing; the namespace is kept, and kept right."""
    segment = '[[tunnel]]\nencapsulation = "l2"'
    with Agent(written(tmp_path, f"/proc/{owner.pid}/ns/net", segment, poll_interval=0.5)) as agent:
        owner.kill()
        owner.wait()
        for _ in range(2):  # found by polling, so whoever looks as often has looked in between
            sh(f"nsenter --net=/proc/{agent.process.pid}/ns/net sysctl -qw net.ipv4.conf.all.arp_ignore=0")
            agent.says("net/ipv4/conf/all/arp_ignore: it was changed")
        assert "was deleted" not in "".join(agent.log)


def test_a_reload_cannot_lead_elsewhere(name: str, tmp_path: Path) -> None:
    """What runs goes on as before, and it is said what to do."""
    file = written(tmp_path, name)
    with Agent(file) as agent:
        written(tmp_path, "elsewhere", '[[vip]]\naddress = "192.0.2.11"')
        agent.reload()
        line = agent.says("agent.netns")
        assert (
            f'{file}: agent.netns: found netns = "elsewhere", and the agent was started with netns = "{name}"' in line
        )
        agent.says("going on as before")
        file.write_text(f'[agent]\nnetns = "{name}"\nlog_level = "loud"\n')
        said = asked("status", file).out
        assert f"process {agent.process.pid}" in said, "it is found where it is"
        assert "192.0.2.11" not in addresses(name)[0]
        file.write_text(f'[agent]\nnetns = "{name}"\n[[vip]]\naddress = "192.0.2.11"\n')
        os.kill(agent.process.pid, signal.SIGHUP)
        agent.says("read the file again")
        assert "192.0.2.11" in addresses(name)[0]
