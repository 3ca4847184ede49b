"""Another file and SIGHUP: what stays loses nothing, what goes is gone, what is not ours is not touched."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab.agent import Agent, tunnel, vip
from tests.lab.eye import Eye, View
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import GRE, IPIP, PORT, VIPS, clean, real_server, streams, total
from tests.lab.spaces import inside, ip, run
from tests.lab.traffic import Stream, echoes
from tests.lab.world import RS1, send_keyed

TUNNELS = tunnel("ipip") + tunnel("gre")
KEPT = "".join(vip(address) for address in VIPS)

FOREIGN = (
    "ip addr add 198.51.100.7/32 dev lo",
    "ip addr add 192.0.2.99/32 dev lo label lo:other",
    "ip addr add 2001:db8:f::99/128 dev lo",
    "ip link add foreign0 type dummy",
    "ip addr add 198.51.100.9/24 dev foreign0",
    "ip link set foreign0 up",
    "ip link add foreign1 type ipip local 10.3.0.11 remote 10.3.0.12",
    "ip link set foreign1 up",
    "ip link set foreign1 group 17",
)


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def server() -> Iterator[Eye]:
    with real_server() as eye:
        yield eye


def some_vips(first: int, last: int) -> str:
    return "".join(vip(f"192.0.2.{number}") + vip(f"2001:db8:f::{number}") for number in range(first, last))


def with_vips(view: View, first: int, last: int) -> bool:
    """Whether exactly these of `some_vips` are there."""
    wanted = {f"192.0.2.{number}" for number in range(first, last)}
    wanted |= {f"2001:db8:f::{number}" for number in range(first, last)}
    found = {str(at.ip) for at in view.addresses if at.link == "lo"}
    return found & {f"{net}{number}" for net in ("192.0.2.", "2001:db8:f::") for number in range(20, 80)} == wanted


def test_vips_come_and_go(server: Eye, ledger: Ledger) -> None:
    with inside(RS1):
        for command in FOREIGN:
            run(*command.split())
    foreign = server.view()
    with Agent(RS1, TUNNELS + KEPT) as agent, streams() as found:
        alone = server.view()
        assert foreign.links <= alone.links, "a foreign link was touched"
        assert foreign.addresses <= alone.addresses, "a foreign address was touched"
        for first, last in ((20, 40), (30, 60), (70, 80)):
            line = agent.reload(TUNNELS + KEPT + some_vips(first, last))
            assert "in sync" in line
            assert "not in sync" not in line
            assert with_vips(server.view(), first, last)
        agent.reload(TUNNELS + KEPT)
        assert server.view() == alone
        tally = total(found)
    ledger.add("reloads that add and remove VIPs", None, tally)
    assert clean(tally)


def test_a_tunnel_goes_and_comes_back(server: Eye, ledger: Ledger) -> None:
    with Agent(RS1, TUNNELS + KEPT) as agent, streams([IPIP]) as found:
        before = server.view()
        agent.reload(tunnel("ipip") + vip(IPIP))
        assert [link.name for link in server.ours()] == ["dsr-ipip"]
        agent.reload(TUNNELS + KEPT)
        assert server.view() == before
        tally = total(found)
    ledger.add("reload that removes the other tunnel", None, tally)
    assert clean(tally)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[tunnel]\n", "dsr-agent.toml:1: not valid TOML"),
        (TUNNELS + KEPT + "[[vip]]\naddress = '10.3.0.300'\n", "10.3.0.300"),
        (TUNNELS + KEPT + "[[vips]]\naddress = '192.0.2.77'\n", "vips"),
    ],
    ids=["not-toml", "bad-address", "unknown-key"],
)
def test_a_bad_file_changes_nothing(text: str, complaint: str, server: Eye) -> None:
    with Agent(RS1, TUNNELS + KEPT) as agent, streams() as found:
        before, mark = server.view(), agent.mark()
        agent.reload(text, "the file cannot be used; going on as before")
        assert complaint in agent.said(mark)
        assert str(agent.file) in agent.said(mark)
        assert server.view() == before
        ip(RS1, f"link del {server.ours()[0].name}")  # it still looks after what it had
        server.until_again(before)
        assert "read the file again" in agent.reload(TUNNELS + KEPT)
        assert all(stream.finish().wrong == 0 for stream in found)


def test_a_tunnel_gets_another_name(server: Eye, ledger: Ledger) -> None:
    with Agent(RS1, tunnel("ipip", name="one") + vip(IPIP)) as agent, streams([IPIP]) as found:
        for name in ("another", "a-name-of-15-ch", "one"):
            agent.reload(tunnel("ipip", name=name) + vip(IPIP))
            assert [link.name for link in server.ours()] == [name]
            assert agent.call("plan").returncode == 0
        tally = total(found)
    ledger.add("tunnel renamed in the file, 3 times", None, tally)
    assert clean(tally)


# --- another form of the same tunnel --------------------------------------------------------------------------------


def change_over(agent: Agent, old: Stream, new: Stream, config: str) -> tuple[float, float]:
    """Reload under two streams, one in each form; the moment of the signal, and when all was done."""
    old.wait_answered()
    asked = time.monotonic()
    agent.reload(config)
    done = time.monotonic()
    new.wait_answered()
    return asked, done


@pytest.mark.parametrize("order", [("ipip", "gre"), ("gre", "ipip")], ids=["ipip-to-gre", "gre-to-ipip"])
def test_another_encapsulation_under_the_same_name(order: tuple[str, str], server: Eye, ledger: Ledger) -> None:
    """Whatever is sent in the form that the file says at that moment arrives."""
    address = {"ipip": IPIP, "gre": GRE}
    first, then = order
    vips = vip(IPIP) + vip(GRE)
    with Agent(RS1, tunnel(first, name="edge") + vips) as agent:
        agent.settle()
        with Stream(address[first], PORT) as old, Stream(address[then], PORT) as new:
            asked, done = change_over(agent, old, new, tunnel(then, name="edge") + vips)
            old.finish()
            new.finish()
        assert [(link.name, link.kind) for link in server.ours()] == [("edge", {"ipip": "sit"}.get(then, then))]
        assert agent.status()["in_sync"]
    before, after = old.tally(before=asked), new.tally(after=done)
    ledger.add(f"reload: edge from {first} to {then}, packets as {first} before it", None, before)
    ledger.add(f"reload: edge from {first} to {then}, packets as {then} after it", done - asked, after)
    assert clean(before)
    assert clean(after)


FORMS: list[tuple[str, dict[str, int]]] = [
    ("edge", {"key": 7}),
    ("edge", {"key": 8}),
    ("edge", {"key": 8, "checksum": True}),
    ("edge", {"checksum": True}),
    ("plain", {}),
]


def test_key_and_checksum_change_in_place(server: Eye, ledger: Ledger) -> None:
    """From one form of GRE to the next, and to another name; what is sent in the form that the file says arrives."""
    addresses = [f"192.0.2.{last}" for last in range(50, 50 + len(FORMS))]
    vips = "".join(vip(address) for address in addresses)
    for number, (address, (_, form)) in enumerate(zip(addresses, FORMS, strict=True)):
        send_keyed(address, RS1, form.get("key"), checksum="checksum" in form, name=f"form{number}")
    with Agent(RS1, tunnel("gre", name="edge", key=7) + vips) as agent, echoes(RS1, addresses, [PORT]):
        index = ip(RS1, "-o link show edge").split(":")[0]
        for number, (name, form) in enumerate(FORMS[1:], 1):
            with Stream(addresses[number - 1], PORT) as old, Stream(addresses[number], PORT) as new:
                asked, done = change_over(agent, old, new, tunnel("gre", name=name, **form) + vips)
                old.finish()
                new.finish()
            tally = old.tally(before=asked) + new.tally(after=done)
            words = " ".join(f"{key}={value}" for key, value in {"name": name, **form}.items())
            ledger.add(f"reload: gre in place to {words}", done - asked, tally)
            assert clean(tally)
        assert len(server.ours()) == 1
        assert ip(RS1, f"-o link show {name}").split(":")[0] == index, "the link was replaced instead of changed"


def test_nothing_is_taken_away_before_its_successor_is_there(server: Eye, ledger: Ledger) -> None:
    """A tunnel's new name is somebody else's, and a VIP's new device is not there: both serve until that changes."""
    rest = tunnel("gre") + vip(GRE)
    with Agent(RS1, TUNNELS + vip(IPIP) + vip(GRE)) as agent, streams([IPIP, GRE]) as found:
        ip(RS1, "link add tun0 type dummy")
        line = agent.reload(tunnel("ipip", name="tun0") + vip(IPIP) + rest)
        assert "not in sync" in line
        found[0].wait_answered()
        mark = agent.mark()
        ip(RS1, "link del tun0")
        agent.wait_log("in sync again", mark)
        assert "tun0" in {link.name for link in server.ours()}

        line = agent.reload(tunnel("ipip", name="tun0") + vip(IPIP, device="dummy7") + rest)
        assert "not in sync" in line
        found[0].wait_answered()
        mark = agent.mark()
        ip(RS1, "link add dummy7 type dummy")
        ip(RS1, "link set dummy7 up")
        agent.wait_log("in sync again", mark)
        assert [str(at.link) for at in server.view().addresses if str(at.ip) == IPIP] == ["dummy7"]
        found[0].wait_answered()
        tally = total(found)
        agent.reload(TUNNELS + KEPT)
        ip(RS1, "link del dummy7")
    ledger.add("a name and a device that cannot be had yet", None, tally)
    assert clean(tally)
