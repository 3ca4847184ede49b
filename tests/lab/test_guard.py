"""The guard on a real kernel: in place before traffic, put back whatever is done to it, and seen from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.agent import Agent, has_inet_tables, tunnel, vip, wait_for
from tests.lab.ledger import Ledger
from tests.lab.marks import BOTH
from tests.lab.servers import PORT, VIPS, clean, real_server, streams, total
from tests.lab.spaces import inside, run
from tests.lab.traffic import ask_udp
from tests.lab.world import RS1

CONFIG = tunnel("ipip") + tunnel("gre") + "".join(vip(address) for address in VIPS)

# What somebody does to the table, with nft's own words.
MEDDLING = {
    "everything flushed": "flush ruleset",
    "table deleted": "delete table inet dsr_agent",
    "chain flushed": "flush chain inet dsr_agent entrance",
    "a way around it": "insert rule inet dsr_agent entrance accept",
    "sender removed": "delete element inet dsr_agent from-dsr-ipip {{ {balancer} }}",
    "VIP removed": "delete element inet dsr_agent vips4 {{ 192.0.2.10 }}",
    "stranger declared": "add element inet dsr_agent from-dsr-ipip {{ 10.6.6.6 }}",
    "set of somebody's": "add set inet dsr_agent other {{ type ipv4_addr; }}",
}


@pytest.fixture(scope="module", params=BOTH)
def server() -> Iterator[None]:
    if not has_inet_tables():
        pytest.skip("this kernel has no nftables family inet")
    with real_server():
        yield


def nft(*arguments: str) -> str:
    """``nft`` on the real server."""
    with inside(RS1):
        return run("nft", *arguments)


def table() -> list[dict[str, Any]]:
    """The guard's table as nft tells it."""
    found: list[dict[str, Any]] = json.loads(nft("-j", "list", "table", "inet", "dsr_agent"))["nftables"]
    return found


def uncounted(part: Any) -> Any:
    """The same without what counters say: self-tests count, too. What was made anew has another handle."""
    if isinstance(part, dict):
        return {key: uncounted(value) for key, value in part.items() if key not in ("packets", "bytes")}
    return [uncounted(item) for item in part] if isinstance(part, list) else part


def owned() -> bool:
    """Whether the kernel keeps everybody else from changing it."""
    return "owner" in next(item["table"] for item in table() if "table" in item).get("flags", ())


def test_traffic_flows_and_is_counted_by_balancer_and_vip(server: None) -> None:
    with Agent(RS1, CONFIG) as agent:
        with streams() as found:
            tally = total(found)
        assert clean(tally)
        row = agent.status()["guard"]
        assert row["in_place"]
        counts = dict(_counted(table()))
    for place in ("from-dsr-ipip", "from-dsr-gre", "vips4", "vips6"):
        assert counts[place] > 0, counts
    refused = {reason: counts[reason] for reason in ("source", "protocol", "gre_header", "nested", "inner_source")}
    assert set(refused.values()) == {0}


def _counted(found: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    for item in found:
        if "counter" in item:
            yield item["counter"]["name"], item["counter"]["packets"]
        elif "stmt" in item.get("set", {}):
            yield item["set"]["name"], sum(each["elem"]["counter"]["packets"] for each in item["set"].get("elem", ()))


def test_it_is_held_where_kernel_and_library_can(server: None) -> None:
    """Linux 6.9 and nftables 1.1 can; a foreign flush then changes nothing, and a deletion is refused."""
    with Agent(RS1, CONFIG) as agent:
        version = nft("--version").split()[1].lstrip("v")
        if tuple(map(int, version.split(".")[:2])) < (1, 1):
            pytest.skip(f"nftables {version} knows no persistent tables")
        wait_for(owned, "the table is owned")
        assert agent.status()["guard"]["held"]
        before = table()
        nft("flush", "ruleset")
        after = table()
        assert uncounted(after) == uncounted(before)
        counts = dict(_counted(before))
        assert all(count >= counts[name] for name, count in _counted(after))
        with pytest.raises(Exception, match="not permitted"):
            nft("delete", "table", "inet", "dsr_agent")
    assert not owned()
    assert table(), "the guard stays when the agent stops"
    with Agent(RS1, CONFIG) as agent:
        wait_for(owned, "a restarted agent takes it back")
        assert agent.status()["in_sync"]


def test_the_sandbox_of_traffic(server: None, ledger: Ledger) -> None:
    """Restarted ten times under traffic, nothing is lost and no count starts anew."""
    with streams() as found:
        for _ in range(3):
            with Agent(RS1, CONFIG):
                pass
        tally = total(found)
    assert clean(tally)
    ledger.add("the agent restarted 3 times, guarded", None, tally)
    assert ask_udp(VIPS[0], PORT).source == VIPS[0]
