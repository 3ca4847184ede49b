"""What the guard has counted: added up over tables made again, and shown by name."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, ip_address

from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.guard.counters import Totals
from dsr_agent.guard.reasons import RefusalReason
from dsr_agent.guard.selftest import COUNTED
from dsr_agent.service.metrics import guard
from dsr_agent.state.count import Count
from dsr_agent.state.local import LocalTowards
from dsr_agent.state.marks import stand_in_name
from dsr_agent.state.model import Desired, Link, Observed, Outer, Tunnel, Vip

PLACE, OTHER = ("from-dsr-ipip", '"10.1.0.5"'), ("vips4", '"192.0.2.10"')


# --- totals -----------------------------------------------------------------------------------------------------------


def test_totals_grow_as_the_kernel_counts() -> None:
    """Looking twice adds nothing."""
    totals = Totals()

    for _ in range(2):
        assert totals.look({PLACE: Count(3, 300)}) == {PLACE: Count(3, 300)}
    assert totals.look({PLACE: Count(5, 500)}) == {PLACE: Count(5, 500)}


def test_a_table_made_again_counts_on_from_where_it_was() -> None:
    """What the new one counts is more."""
    totals = Totals()
    totals.look({PLACE: Count(5, 500)})

    assert totals.look({PLACE: Count(1, 90)})[PLACE] == Count(6, 590)
    assert totals.look({PLACE: Count(2, 180)})[PLACE] == Count(7, 680)


def test_a_table_that_is_away_for_a_while_counts_on_as_well() -> None:
    """Even if it has counted more by then than ever before."""
    totals = Totals()
    totals.look({PLACE: Count(5, 500)})
    totals.look({})

    assert totals.look({PLACE: Count(9, 900)})[PLACE] == Count(14, 1400)


def test_an_element_that_goes_and_comes_back_keeps_its_total() -> None:
    """And the one beside it is none the worse."""
    totals = Totals()
    totals.look({PLACE: Count(5, 500), OTHER: Count(50, 5000)})
    totals.look({OTHER: Count(60, 6000)})

    assert totals.look({PLACE: Count(2, 200), OTHER: Count(70, 7000)}) == {
        PLACE: Count(7, 700),
        OTHER: Count(70, 7000),
    }


def test_what_cannot_be_read_is_not_taken_for_a_table_made_again() -> None:
    """Else everything would be counted twice."""
    totals = Totals()
    totals.look({PLACE: Count(5, 500)})

    assert totals.look(None) == {PLACE: Count(5, 500)}
    assert totals.look({PLACE: Count(6, 600)}) == {PLACE: Count(6, 600)}


def test_fewer_bytes_in_as_many_packets_is_another_table() -> None:
    """Either number may be the one that tells."""
    totals = Totals()
    totals.look({PLACE: Count(5, 500)})

    assert totals.look({PLACE: Count(5, 400)})[PLACE] == Count(10, 900)


def test_what_is_not_kept_is_forgotten_and_begins_anew() -> None:
    """A file that changes every day for a year leaves nothing behind; what is kept goes on."""
    totals = Totals()
    totals.look({PLACE: Count(5, 500), OTHER: Count(50, 5000)})

    totals.keep(lambda place: place == OTHER)

    assert totals.look({}) == {OTHER: Count(50, 5000)}
    assert totals.look({PLACE: Count(2, 200), OTHER: Count(1, 100)}) == {PLACE: Count(2, 200), OTHER: Count(51, 5100)}


_counts = st.builds(Count, st.integers(0, 9), st.integers(0, 900))
_looks = st.lists(st.dictionaries(st.sampled_from([PLACE, OTHER]), _counts), max_size=9)


@given(_looks)
def test_totals_never_step_back(looks: list[Mapping[tuple[str, str], Count]]) -> None:
    """Whatever becomes of the table; and they are never less than what the kernel counts."""
    totals, before = Totals(), dict[tuple[str, str], Count]()
    for now in looks:
        after = dict(totals.look(now))

        for place in before.keys() | now.keys():
            lowest = max(before.get(place, Count()).packets, now.get(place, Count()).packets)
            assert after[place].packets >= lowest
            assert after[place].bytes >= before.get(place, Count()).bytes
        before = after


@given(st.lists(st.lists(_counts, min_size=1, max_size=4), max_size=5))
def test_totals_are_the_sum_of_what_each_table_counted(tables: list[list[Count]]) -> None:
    """One table after the other, each looked at while it grows, and all of them away in between."""
    totals, sum_ = Totals(), Count()
    for growing in tables:
        grown = Count()
        for more in growing:
            grown = grown.plus(more)
            totals.look({PLACE: grown})
        totals.look({})
        sum_ = sum_.plus(grown)

    assert totals.look({}).get(PLACE, Count()) == sum_


# --- rows -------------------------------------------------------------------------------------------------------------


def tunnel(name: str, *senders: str) -> Tunnel:
    """A tunnel of the file."""
    return Tunnel(name, "ipip", LocalTowards(()), tuple(IPv4Network(sender) for sender in senders))


def desired(*tunnels: Tunnel, vips: Mapping[str, tuple[str, ...]] | None = None) -> Desired:
    """A file."""
    declared = [Vip(ip_address(text), text, services=services) for text, services in (vips or {}).items()]
    return Desired({item.name: item for item in tunnels}, {vip.key: vip for vip in declared})


def test_who_got_in_is_told_as_the_file_writes_it() -> None:
    """By tunnel and load balancer; one that has sent nothing is there, with nothing."""
    file = desired(tunnel("dsr-ipip", "10.1.0.5", "10.2.0.0/16", "10.9.9.9"), tunnel("open"), tunnel("new"))
    found = {
        ("from-dsr-ipip", '"10.1.0.5"'): Count(3, 300),
        ("from-dsr-ipip/16", '"10.2.0.0"'): Count(4, 400),
        ("from-dsr-ipip", '"10.7.7.7"'): Count(9, 900),
        ("from-open", ""): Count(5, 500),
    }

    assert guard.accepted(file, found) == {
        ("dsr-ipip", "10.1.0.5"): Count(3, 300),
        ("dsr-ipip", "10.2.0.0/16"): Count(4, 400),
        ("dsr-ipip", "10.9.9.9"): Count(),
        ("open", "any"): Count(5, 500),
        ("new", "any"): Count(),
    }


def test_every_reason_has_a_row() -> None:
    """Also the one that nobody has been refused for: a series that comes into being is not seen to grow."""
    rows = guard.refused({("source", ""): Count(7, 700), ("from-open", ""): Count(5, 500)})

    assert rows == {
        (str(reason),): Count(7, 700) if reason is RefusalReason.SOURCE else Count() for reason in RefusalReason
    }


def test_what_vips_received_is_one_number_whatever_is_asked_of_them() -> None:
    """Services and tunnels may begin to count while the program runs, and then it is another set that counts."""
    file = ("192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11")
    found = {
        ("vips4", '"192.0.2.10"'): Count(1, 10),
        ("vips4", '"192.0.2.11"'): Count(2, 20),
        ("served4", '"192.0.2.11"'): Count(3, 30),
        ("vips6", '"2001:db8::10"'): Count(4, 40),
        ("bound4", '{"concat":["seven","192.0.2.10"]}'): Count(5, 50),
        ("bound_served4", '{"concat":["seven.new","192.0.2.11"]}'): Count(7, 70),
        ("vips4", '"203.0.113.1"'): Count(8, 80),
        ("own4", '"192.0.2.10"'): Count(6, 60),
    }

    assert guard.received(file, found) == {
        "192.0.2.10": Count(6, 60),
        "192.0.2.11": Count(12, 120),
        "2001:db8::10": Count(4, 40),
        "2001:db8::11": Count(),
    }


def test_what_the_file_declares_is_remembered_and_nothing_else() -> None:
    """The places of its VIPs, whatever is asked of them, of its balancers, of its tunnels' links, and of reasons."""
    file = desired(tunnel("dsr-ipip", "10.1.0.5", "10.2.0.0/16"), tunnel("open"), vips={"192.0.2.10": ()})
    stays = [
        ("source", ""),
        ("from-dsr-ipip", '"10.1.0.5"'),
        ("from-dsr-ipip/16", '"10.2.0.0"'),
        ("from-open", ""),
        ("vips4", '"192.0.2.10"'),
        ("bound_served4", '{"concat":["seven","192.0.2.10"]}'),
        (COUNTED, '"theirs"'),
        (COUNTED, f'"{stand_in_name("theirs")}"'),
    ]
    goes = [
        ("from-dsr-ipip", '"10.1.0.6"'),
        ("from-dsr-gre", '"10.1.0.5"'),
        ("from-elsewhere", ""),
        ("vips4", '"192.0.2.11"'),
        ("bound4", '{"concat":["seven","192.0.2.11"]}'),
        (COUNTED, '"dsr-gre"'),
    ]

    assert list(filter(guard.declared(file, ["theirs"]), stays + goes)) == stays


def test_fallback_devices_that_are_there() -> None:
    """And whether they are up; a tunnel of anybody else's is none."""
    links = [Link("tunl0", "ipip", True, outer=Outer()), Link("gre0", "gre", outer=Outer()), Link("dsr-ipip", "ipip")]

    rows = guard.fallback_devices(Observed({link.name: link for link in links}))

    assert list(rows) == [(("gre0",), False), (("tunl0",), True)]
