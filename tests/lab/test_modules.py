"""The kernel's modules: loaded when they are missing, and named, with the reason, when they cannot be had."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.agent import Agent, tunnel, vip
from tests.lab.drift import shell
from tests.lab.eye import Eye
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import GRE, IPIP, clean, real_server, streams, total
from tests.lab.test_rights import NOBODY, ONE_CAPABILITY
from tests.lab.world import RS1

CONFIG = tunnel("ipip") + tunnel("gre") + vip(IPIP) + vip(GRE)
BLACKLIST = Path("/etc/modprobe.d/lab.conf")

pytestmark = pytest.mark.skipif(os.environ.get("DSR_LAB") == "here", reason="the modules here are the host's own")


@pytest.fixture(params=MOSTLY_FAST)
def server() -> Iterator[Eye]:
    """Without the modules."""
    with real_server() as eye:
        unload()
        yield eye


def unload() -> None:
    shell("modprobe -r sit", "modprobe -r ipip", "modprobe -r ip_gre")()


def loaded() -> set[str]:
    return {name for name in ("sit", "ipip", "ip_gre") if Path("/sys/module", name).exists()}


@contextlib.contextmanager
def blacklist(text: str) -> Iterator[None]:
    """Another file for modprobe, for a while."""
    BLACKLIST.parent.mkdir(exist_ok=True)
    BLACKLIST.write_text(text)
    try:
        yield
    finally:
        BLACKLIST.unlink()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("wrapper", [(), (*NOBODY, *ONE_CAPABILITY)], ids=["root", "one-capability"])
def test_they_are_loaded(wrapper: tuple[str, ...]) -> None:
    assert not loaded()
    with Agent(RS1, CONFIG, wrapper=wrapper) as agent:
        assert "not in sync" not in agent.log()
        assert loaded() == {"sit", "ip_gre"}
        with streams([IPIP, GRE]) as found:
            assert clean(total(found))


@pytest.mark.parametrize(
    ("text", "wrapper"),
    [
        ("blacklist sit\nblacklist ipip\n", ()),
        ("# no\ninstall sit /bin/false\ninstall ipip /bin/false\n", (*NOBODY, *ONE_CAPABILITY)),
    ],
    ids=["blacklist", "install"],
)
def test_a_blacklist_is_named(text: str, wrapper: tuple[str, ...], server: Eye) -> None:
    with blacklist(text), Agent(RS1, CONFIG, wrapper=wrapper) as agent:
        where = f"module ipip is blacklisted in {BLACKLIST}, line {len(text.splitlines())}"
        agent.wait_log(where)
        assert [link.name for link in server.ours()] == ["dsr-gre"], "the other tunnel is not held up"
        status = agent.call("status")
        assert status.returncode == 1
        assert where in status.stdout
        assert where in agent.call("plan").stdout
        applied = agent.call("apply")
        assert applied.returncode == 1
        assert where in applied.stdout
        assert "load module ipip" not in applied.stdout
        assert "load module sit" not in applied.stdout
        BLACKLIST.write_text("")
        agent.wait_log("in sync again")  # without a restart
        with streams([IPIP, GRE]) as found:
            assert total(found).lost == 0


def test_where_one_module_is_forbidden_the_other_will_do_for_ipv4(server: Eye) -> None:
    """A link of kind ipip takes IPv4 as well."""
    with blacklist("blacklist sit\n"), Agent(RS1, CONFIG) as agent:
        assert "not in sync" not in agent.log()
        assert sorted(link.kind for link in server.ours()) == ["gre", "ipip"]
        with streams([IPIP, GRE]) as found:
            assert clean(total(found))


@pytest.mark.irreversible
def test_loading_switched_off_is_named(server: Eye) -> None:
    """Until the machine is gone, so this is the last of all tests."""
    Path("/proc/sys/kernel/modules_disabled").write_text("1\n")
    with Agent(RS1, CONFIG) as agent:
        for module in ("ipip", "ip_gre"):
            agent.wait_log(f"module {module} is not loaded, and loading is switched off until reboot")
        assert agent.call("apply").returncode == 1
        assert agent.status()["in_sync"] is False
        assert server.ours() == []
