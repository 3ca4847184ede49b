"""
The agent beside the firewall that a server has: traffic goes on, and their rules stay byte for byte what they were.

A table of ours that accepts does not help against one of theirs that drops, so the agent has to say who does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.lab.agent import Agent, tunnel, vip, wait_for
from tests.lab.eye import Eye
from tests.lab.guarded import need_guard, nft
from tests.lab.ledger import Ledger
from tests.lab.marks import BOTH
from tests.lab.servers import IPIP, VIPS, clean, real_server, streams, total
from tests.lab.spaces import inside, run
from tests.lab.traffic import ask_tcp
from tests.lab.world import RS1

CONFIG = tunnel("ipip") + tunnel("gre") + "".join(vip(address) for address in VIPS)

NFTABLES = """
table inet filter {
    set administrators {
        type ipv4_addr
        flags interval
        elements = { 10.1.0.0/24 }
    }
    chain input {
        type filter hook input priority filter; policy drop;
        ct state invalid drop
        ct state { established, related } accept
        iif "lo" accept
        ip protocol { icmp, ipencap, gre } accept
        meta l4proto ipv6-icmp accept
        ip saddr @administrators tcp dport 22 accept
        tcp dport { 49, 7001 } accept
        udp dport { 1812, 1813, 7001 } accept
        limit rate 5/minute log prefix "refused: "
        counter
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
    }
    chain output {
        type filter hook output priority filter; policy accept;
    }
}
"""

IPTABLES = """
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp -m udp --dport 1812 -j CT --notrack
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:REFUSED - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p {icmp} -j ACCEPT
{tunnels}-A INPUT -p tcp -m multiport --dports 22,49,7001 -j ACCEPT
-A INPUT -p udp -m multiport --dports 1812,1813,7001 -j ACCEPT
-A INPUT -j REFUSED
-A REFUSED -j DROP
COMMIT
"""
IPTABLES4 = IPTABLES.format(icmp="icmp", tunnels="-A INPUT -p ipencap -j ACCEPT\n-A INPUT -p gre -j ACCEPT\n")
IPTABLES6 = IPTABLES.format(icmp="ipv6-icmp", tunnels="")


@dataclass(frozen=True)
class Firewall:
    """Somebody else's rules: how they are loaded, and how they read now, their counters left away."""

    load: Callable[[], object]
    read: Callable[[], str]


def _load_iptables() -> None:
    with inside(RS1):
        run("iptables-nft-restore", given=IPTABLES4)
        run("ip6tables-nft-restore", given=IPTABLES6)


def _read_iptables() -> str:
    with inside(RS1):
        text = run("iptables-nft-save") + run("ip6tables-nft-save")
    rules = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    return re.sub(r"\[\d+:\d+\]", "[0:0]", rules) + _read_nftables("ip") + _read_nftables("ip6")


def _read_nftables(family: str) -> str:
    """All tables of a family but ours."""
    names = re.findall(rf"(?m)^table {family} (\S+)$", nft("list", "tables", family))
    return "".join(nft("-s", "list", "table", family, name) for name in names if not name.startswith("dsr_agent"))


FIREWALLS = {
    "nftables": Firewall(lambda: nft("-f", "-", given=NFTABLES), lambda: _read_nftables("inet")),
    "iptables": Firewall(_load_iptables, _read_iptables),
}


@pytest.fixture(params=BOTH)
def server() -> Iterator[Eye]:
    need_guard()
    with real_server() as eye:
        yield eye


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("first", "name"),
    [
        ("firewall", "nftables"),
        ("agent", "iptables"),
        pytest.param("firewall", "iptables", marks=pytest.mark.long),
        pytest.param("agent", "nftables", marks=pytest.mark.long),
    ],
)
def test_beside_the_firewall_of_a_server(name: str, first: str, ledger: Ledger) -> None:
    firewall = FIREWALLS[name]
    if first == "firewall":
        firewall.load()
        theirs = firewall.read()
    with Agent(RS1, CONFIG) as agent, streams() as found:
        if first == "agent":
            firewall.load()
            theirs = firewall.read()
        for stream in found:
            stream.wait_answered(20)
        for address in VIPS:
            ask_tcp(address, 7001)
        agent.reload()
        tally = total(found)
    ledger.add(f"{name} of a server, the {first} first", None, tally)
    assert clean(tally)
    assert firewall.read() == theirs, "the agent touched somebody else's rules"
    gone = Agent(RS1, CONFIG)
    assert gone.call("teardown").returncode == 0
    gone.close()
    assert firewall.read() == theirs, "teardown touched somebody else's rules"


DROPPING = {
    "outer packets": ("no_ipip", "type filter hook input priority filter; policy accept;", "ip protocol ipencap drop"),
    "outer packets, early": ("early", "type filter hook prerouting priority raw; policy accept;", "ip protocol 4 drop"),
    "a VIP": (
        "no_radius",
        "type filter hook input priority 10; policy accept;",
        f"ip daddr {IPIP} udp dport 7001 drop",
    ),
    "all that is not accepted": (
        "strict",
        "type filter hook input priority filter; policy drop;",
        "tcp dport 22 accept",
    ),
}


def says(agent: Agent, *words: str) -> bool:
    """Whether ``dsr-agent status`` speaks of another firewall, with these words."""
    lines = [line for line in agent.call("status").stdout.splitlines() if line.startswith("another firewall")]
    return any(all(word in line for word in words) for line in lines)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("what", DROPPING)
def test_says_that_another_firewall_drops(what: str) -> None:
    """While there is traffic to see it by; and no longer when it does not any more."""
    need_guard()
    chain, hook, rule = DROPPING[what]
    with Agent(RS1, CONFIG) as agent, streams([IPIP]) as found:
        nft("-f", "-", given=f"table inet site {{\n chain {chain} {{\n  {hook}\n  {rule}\n }}\n}}\n")
        wait_for(lambda: says(agent, f"chain {chain} of table inet site"), "status to name the chain that drops")
        nft("delete", "table", "inet", "site")
        wait_for(lambda: not says(agent), "status to forget it")
        found[0].wait_answered(5)
        assert "another firewall drops what the guard lets in" in agent.log()


@pytest.mark.usefixtures("server")
def test_says_that_iptables_drops() -> None:
    need_guard()
    with Agent(RS1, CONFIG) as agent, streams([IPIP]):
        with inside(RS1):
            run("iptables-nft", "-A", "INPUT", "-p", "4", "-j", "DROP")
        wait_for(lambda: says(agent, "chain INPUT of table ip filter"), "status to name the chain that drops")
