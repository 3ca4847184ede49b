"""The guard's table on the real kernel: what is written is read back, and any table becomes any other in one step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsr_agent.guard.inner import GuardedVip
from dsr_agent.guard.outer import Entrance
from dsr_agent.guard.ruleset import Request, ruleset
from dsr_agent.guard.transaction import commands, removal
from dsr_agent.kernel.libnftables import Nftables
from dsr_agent.kernel.monitor import Monitor
from dsr_agent.state.count import Count
from dsr_agent.state.table import Chain, FilterSet, SetShape, Table
from tests.netns.filter import OURS, can, carry_out, counts, need_tables, nft, table, text
from tests.unit.guard.packets import GRE, IPIP
from tests.unit.guard.strategies import LOCALS, NETWORKS, requests

_NETFILTER, _TABLES, _NEW_GENERATION = 12, 7, 0x0A0F

some = settings(
    max_examples=max(40, settings().max_examples // 10),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

REQUEST = Request(
    entrances=(
        Entrance("dsr-ipip", LOCALS[0], IPIP, (NETWORKS[0], NETWORKS[3], NETWORKS[4])),
        Entrance("dsr-gre", LOCALS[0], GRE, (NETWORKS[3],), key=7, checksum=True),
        Entrance("open", LOCALS[1], GRE, ()),
    ),
    vips=(
        GuardedVip(ip_address("192.0.2.10")),
        GuardedVip(ip_address("192.0.2.11"), (), ("dsr-gre", "dsr-gre.new")),
        GuardedVip(ip_address("2001:db8::10"), ("udp/1812",)),
        GuardedVip(ip_address("2001:db8::11"), ("udp/1812",), ("dsr-gre",)),
    ),
    own=frozenset({LOCALS[0], ip_address("fe80::1")}),
    mss={4: 1400, 6: 1380},
)


@pytest.fixture(autouse=True)
def nftables(space: None) -> Iterator[Nftables]:
    """The library, in the test's namespace."""
    need_tables()
    opened = Nftables()
    yield opened
    opened.close()


def write(nftables: Nftables, wanted: Table) -> None:
    """Bring the table to *wanted* as the agent does: by what is read back, in one transaction."""
    listener = Monitor(1 << 22, _NETFILTER, (_TABLES,))
    try:
        steps = commands(wanted, table())
        complaint = nftables.transaction(steps) if steps else ""
        assert not complaint
        heard = listener.drain(1 << 20, lambda: pytest.fail("announcements were lost"))
        generations = sum(message.type == _NEW_GENERATION for message in heard)
    finally:
        listener.close()
    assert generations == bool(steps), "no packet meets half of it"
    assert table() == wanted
    assert commands(wanted, table()) == ()


def fresh(nftables: Nftables) -> None:
    """No table of ours."""
    if table() is not None:
        assert nftables.transaction(removal()) == ""


def spoken(element: str) -> str:
    """An element in ``nft``'s own language."""
    value = json.loads(element)
    return " . ".join(value["concat"]) if isinstance(value, dict) else str(value)


def count_on(nftables: Nftables, there: Table) -> dict[tuple[str, str], Count]:
    """Have every element count something else; what is counted then."""
    number = 0
    for name, found in there.sets.items():
        if not found.shape.counted or not found.elements:
            continue
        plain, counting = [], []
        for element in sorted(found.elements):
            number += 1
            plain.append(spoken(element))
            counting.append(f"{spoken(element)} counter packets {number} bytes {100 * number}")
        listed = ", ".join(plain)
        assert nftables.run(f"delete element {OURS} {name} {{ {listed} }}")[1] == ""
        assert nftables.run(f"add element {OURS} {name} {{ {', '.join(counting)} }}")[1] == ""
    found_counts = counts()
    assert sum(count.packets for count in found_counts.values()) == number * (number + 1) // 2
    return found_counts


@some
@given(one=requests(), other=requests())
def test_any_table_becomes_any_other_in_one_transaction(nftables: Nftables, one: Request, other: Request) -> None:
    """And what stays counts on: an element in both, in a set of the same shape."""
    fresh(nftables)
    first, second = ruleset(one), ruleset(other)
    write(nftables, first)
    before = count_on(nftables, first)

    write(nftables, second)

    after = counts()
    for (name, element), count in after.items():
        shapes = [there.sets[name].shape if name in there.sets else None for there in (first, second)]
        stays = shapes[0] == shapes[1] and (name, element) in before
        assert count == (before[name, element] if stays else Count()), (name, element)


# Shapes that the guard's rules do not use today, and that the table as a value can have.
_SHAPES = [
    SetShape(("ipv4_addr",)),
    SetShape(("ipv4_addr",), 1024),
    SetShape(("ipv4_addr",), 2048, counted=True),
    SetShape(("ipv4_addr",), interval=True),
    SetShape(("ipv4_addr",), interval=True, counted=True),
]
_SINGLE = ['"10.1.0.5"', '"10.1.0.6"', '"192.0.2.0"']
_INTERVALS = ['{"prefix":{"addr":"10.1.0.0","len":16}}', '{"prefix":{"addr":"10.0.0.0","len":8}}', '"192.0.2.7"']


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Any table."""
    sets = {}
    for name in draw(st.sets(st.sampled_from(["a", "b", "c"]))):
        shape = draw(st.sampled_from(_SHAPES))
        chosen = _SINGLE if not shape.interval else [_INTERVALS[draw(st.integers(0, 1))], _INTERVALS[2]]
        sets[name] = FilterSet(shape, draw(st.frozensets(st.sampled_from(chosen))))
    counters = draw(st.frozensets(st.sampled_from(["x", "y"])))
    chains = {}
    for name in draw(st.sets(st.sampled_from(["one", "two"]))):
        asked = [f'[{{"match":{{"left":{_SADDR},"op":"==","right":"@{of}"}}}},{{"drop":null}}]' for of in sorted(sets)]
        rules = [*asked, *(f'[{{"counter":"{of}"}}]' for of in sorted(counters)), '[{"accept":null}]']
        place = draw(st.sampled_from([("", 0), ("input", 0), ("input", -310), ("output", 5)]))
        chains[name] = Chain(tuple(draw(st.permutations(rules))), *place)
    return Table(sets, counters, chains)


_SADDR = '{"payload":{"field":"saddr","protocol":"ip"}}'


@some
@given(one=tables(), other=tables())
def test_whatever_its_sets_chains_and_counters_are(nftables: Nftables, one: Table, other: Table) -> None:
    """Intervals, sets of another size, chains that move to another hook."""
    fresh(nftables)

    write(nftables, one)
    write(nftables, other)


@pytest.mark.parametrize(
    "name", ["a.b", "UPPER_case", "1", "a+b", "a=b", "a,b", "{x}", "a;b", "#a", "a'b", "@a", "*a", "a*", "*"]
)
@pytest.mark.parametrize("senders", [NETWORKS[:1], NETWORKS[3:5], []])
def test_tunnels_may_be_called_what_links_may_be_called(
    nftables: Nftables, name: str, senders: list[IPv4Network]
) -> None:
    """Their sets and counters are called like them."""
    entrances = (Entrance(name, LOCALS[0], GRE, tuple(senders)), Entrance("other", LOCALS[0], IPIP, tuple(senders)))

    write(nftables, ruleset(Request(entrances)))


def test_thousands_of_vips(nftables: Nftables) -> None:
    """In one transaction, and one more and one less are one more."""
    wanted = {GuardedVip(ip_address("10.64.0.0") + number) for number in range(5000)}
    write(nftables, ruleset(Request((), tuple(wanted))))
    wanted ^= {GuardedVip(ip_address("10.64.0.7")), GuardedVip(ip_address("192.0.2.99"))}

    write(nftables, ruleset(Request((), tuple(wanted))))


def test_named_counters_count_on(nftables: Nftables) -> None:
    """Those of reasons, and of a tunnel that anybody may use; also when all rules are written again."""
    nft(
        f"add table {OURS}",
        f"add counter {OURS} source {{ packets 5 bytes 6 }}",
        f"add counter {OURS} from-open {{ packets 7 bytes 8 }}",
        f"add counter {OURS} somebodys {{ packets 9 bytes 10 }}",
    )

    write(nftables, ruleset(REQUEST))

    found = counts()
    assert (found["source", ""], found["from-open", ""]) == (Count(5, 6), Count(7, 8))
    assert ("somebodys", "") not in found


# --- others meddle ----------------------------------------------------------------------------------------------------

MEDDLING = {
    "a rule in front": [f"insert rule {OURS} entrance accept"],
    "a rule behind": [f"add rule {OURS} entrance meta l4proto 4 accept"],
    "a rule edited": [f"flush chain {OURS} forward", f"add rule {OURS} forward accept"],
    "a chain emptied": [f"flush chain {OURS} entrance"],
    "all chains emptied": [f"flush table {OURS}"],
    "a chain added": [f"add chain {OURS} theirs"],
    "a chain added at a hook": [f"add chain {OURS} theirs {{ type filter hook input priority 0; }}"],
    "a chain with rules": [f"add chain {OURS} theirs", f"add rule {OURS} theirs jump outer_refused"],
    "a detour": [f"add chain {OURS} theirs", f"insert rule {OURS} entrance jump theirs"],
    "an element out": [f"delete element {OURS} vips4 {{ 192.0.2.10 }}"],
    "an element in": [f"add element {OURS} from-dsr-ipip {{ 198.51.100.1 }}"],
    "an element in, with a word about it": [f'add element {OURS} from-dsr-ipip {{ 198.51.100.1 comment "me" }}'],
    "a set emptied": [f"flush set {OURS} vips4"],
    "a set": [f"add set {OURS} theirs {{ type ipv4_addr; elements = {{ 198.51.100.1 }} }}"],
    "a set that is used": [
        f"add set {OURS} theirs {{ type ipv4_addr; flags interval, timeout; }}",
        f"insert rule {OURS} entrance ip saddr @theirs accept",
    ],
    "a set without a name": [f"insert rule {OURS} entrance ip saddr {{ 198.51.100.1, 198.51.100.2 }} accept"],
    "a set with a name of what it is": [f"add set {OURS} theirs {{ typeof ip saddr . tcp dport; }}"],
    "a map": [f"add map {OURS} theirs {{ type ipv4_addr : verdict; elements = {{ 198.51.100.1 : accept }} }}"],
    "a map that is used": [
        f"add map {OURS} theirs {{ type ipv4_addr : verdict; elements = {{ 198.51.100.1 : accept }} }}",
        f"insert rule {OURS} entrance ip saddr vmap @theirs",
    ],
    "a map to a chain of ours": [
        f"add map {OURS} theirs {{ type ipv4_addr : verdict; elements = {{ 198.51.100.1 : goto gre_header }} }}"
    ],
    "a quota": [f"add quota {OURS} theirs {{ over 5 mbytes }}"],
    "a quota that is used": [
        f"add quota {OURS} theirs {{ over 5 mbytes }}",
        f'add rule {OURS} entrance quota name "theirs" drop',
    ],
    "a limit": [f"add limit {OURS} theirs {{ rate 5/second }}"],
    "a counter": [f"add counter {OURS} theirs"],
    "a flowtable": [f"add flowtable {OURS} theirs {{ hook ingress priority 0; devices = {{ lo }}; }}"],
    "a helper": [f'add ct helper {OURS} theirs {{ type "ftp" protocol tcp; l3proto ip; }}'],
    "a timeout": [f"add ct timeout {OURS} theirs {{ protocol tcp; l3proto ip; policy = {{ established : 100 }}; }}"],
    "an expectation": [
        f"add ct expectation {OURS} theirs {{ protocol tcp; dport 9876; timeout 2m; size 12; l3proto ip; }}"
    ],
    "a proxy": [f"add synproxy {OURS} theirs {{ mss 1460; wscale 7; timestamp; }}"],
    "a mark": [f'add secmark {OURS} theirs {{ "system_u:object_r:ssh_server_packet_t:s0" }}'],
    "a map to a chain": [
        f"add chain {OURS} theirs",
        f"add map {OURS} their_map {{ type ipv4_addr : verdict; elements = {{ 198.51.100.1 : goto theirs }} }}",
    ],
    "a map to a counter": [
        f"add counter {OURS} theirs",
        f'add map {OURS} their_map {{ type ipv4_addr : counter; elements = {{ 198.51.100.1 : "theirs" }} }}',
    ],
    "a chain that refuses all that it does not know": [f"add chain {OURS} forward {{ policy drop; }}"],
    "a table that sleeps": [f"add table {OURS} {{ flags dormant; }}"],
}


@pytest.mark.parametrize("what", MEDDLING)
def test_what_others_do_to_the_table_is_undone(nftables: Nftables, what: str) -> None:
    """It is seen, and afterwards the table is what it was, to the letter."""
    wanted = ruleset(REQUEST)
    write(nftables, wanted)
    before = text()
    if not can(*MEDDLING[what]):
        pytest.skip(f"this kernel or its nftables has no such thing: {what}")
    assert text() != before

    for _ in range(2):  # what nftables cannot even list is found by the second look
        carry_out(commands(wanted, table()))

    assert table() == wanted
    assert text() == before
