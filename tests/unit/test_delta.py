"""From what was announced to where to look."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.reconcile.delta import only_routes, scope_of
from dsr_agent.state.local import LocalOf
from dsr_agent.state.model import (
    EVERYTHING,
    HOST,
    ROUTES,
    AddressKey,
    Changes,
    Desired,
    Key,
    LinkKey,
    Scope,
    SysctlKey,
    Tunnel,
)
from tests.fake.story import desired
from tests.fake.worlds import files

FILE = """
[[tunnel]]
encapsulation = "ipip"
load_balancers = ["10.1.0.5"]
local = "bond0"

[[vip]]
address = "192.0.2.10"

[[vip]]
address = "2001:db8::10"
device = "dummy0"
"""
VIP = AddressKey("lo", ip_address("192.0.2.10"), 32)
SIX = AddressKey("dummy0", ip_address("2001:db8::10"), 128)
NOTHING = Scope()


@pytest.mark.parametrize(
    ("key", "scope"),
    [
        (VIP, Scope(addresses=frozenset({VIP}))),
        (SIX, Scope(host=True, addresses=frozenset({SIX}))),
        (AddressKey("eth0", IPv4Address("10.0.3.2"), 24), HOST),
        (AddressKey("lo", IPv4Address("198.51.100.1"), 32), HOST),
        (AddressKey("eth0", ip_address("2001:db8:1::1"), 64), NOTHING),
        (AddressKey("dsr-ipip", ip_address("fe80::1"), 64), HOST),
        (AddressKey("eth0", ip_address("2001:db8::10"), 64), HOST),
        (AddressKey("lo", ip_address("::1"), 128), EVERYTHING),
        (LinkKey("dsr-ipip"), HOST),
        (LinkKey("dsr-ipip.new"), HOST),
        (LinkKey("adopted0"), HOST),
        (LinkKey("bond0"), HOST),
        (LinkKey("eth7"), NOTHING),
        (LinkKey("lo"), EVERYTHING),
        (LinkKey("dummy0"), EVERYTHING),
        (SysctlKey("net/ipv4/conf/dsr-ipip"), HOST),
        (SysctlKey("net/ipv4/conf/adopted0"), HOST),
        (SysctlKey("net/ipv4/conf/all"), HOST),
        (SysctlKey("net/ipv4/conf/eth7"), NOTHING),
        (ROUTES, HOST),
    ],
    ids=str,
)
def test_where_to_look(key: Key, scope: Scope) -> None:
    """A VIP on ``lo`` is looked at alone, on a card with what else is there; the rest only if it can concern us."""
    found = scope_of(Changes(frozenset({key})), desired(FILE), frozenset({"adopted0"}))

    assert found == scope


def test_several_changes_are_one_look() -> None:
    """At all of their places."""
    changes = Changes(frozenset({VIP, SIX, LinkKey("dsr-ipip"), LinkKey("eth7")}))

    assert scope_of(changes, desired(FILE), frozenset()) == Scope(host=True, addresses=frozenset({VIP, SIX}))


def test_lost_announcements_are_a_look_at_everything() -> None:
    """Whatever else was announced."""
    assert scope_of(Changes(frozenset({VIP}), lost=True), desired(FILE), frozenset()) == EVERYTHING


@pytest.mark.parametrize(
    ("changes", "alone"),
    [
        (Changes(frozenset({ROUTES})), True),
        (Changes(frozenset({ROUTES, VIP})), False),
        (Changes(frozenset({VIP})), False),
        (Changes(frozenset({ROUTES}), lost=True), False),
        (Changes(), False),
    ],
)
def test_routes_alone_can_wait(changes: Changes, alone: bool) -> None:
    """Routing daemons announce by the thousand."""
    assert only_routes(changes) == alone


@given(files(), st.sampled_from(["eth7", "veth3", "docker0", "wg0"]))
def test_other_peoples_links_never_concern_us(file: Desired, name: str) -> None:
    """Whatever is in the file (that does not name them)."""
    assert scope_of(Changes(frozenset({LinkKey(name)})), file, frozenset()) == NOTHING


@given(files())
def test_what_is_in_the_file_always_concerns_us(file: Desired) -> None:
    """Every VIP, every device, every tunnel and every interface that a local address comes from."""
    keys: list[Key] = [*file.addresses, *map(LinkKey, [*file.devices, *file.tunnels])]
    keys += [LinkKey(tunnel.local.link) for tunnel in file.tunnels.values() if isinstance(tunnel.local, LocalOf)]
    for key in keys:
        assert scope_of(Changes(frozenset({key})), file, frozenset())


# --- scopes ---------------------------------------------------------------------------------------------------------

scopes = st.builds(Scope, st.booleans(), st.booleans(), st.frozensets(st.sampled_from([VIP, SIX]), max_size=2)).map(
    lambda scope: EVERYTHING if scope.everything else scope
)


@given(scopes, scopes)
def test_two_looks_together_are_both(one: Scope, other: Scope) -> None:
    """Nothing is left of either after looking at both."""
    assert not one - (one | other)
    assert not other - (one | other)
    assert (one | other) == (other | one)


@given(scopes, scopes)
def test_what_is_left_after_a_look_is_what_it_did_not_cover(undone: Scope, looked: Scope) -> None:
    """And after looking at that as well, nothing is."""
    left = undone - looked

    assert not left - undone
    assert left.everything == (undone.everything and not looked.everything)
    assert left.host == (undone.host and (undone.everything or not looked.host) and not looked.everything)


def test_a_look_at_everything_minus_one_at_the_host_still_is_one_at_everything() -> None:
    """Reading all addresses without the links would be worth nothing."""
    assert EVERYTHING - HOST == EVERYTHING


def test_tunnels_are_compared_by_value() -> None:
    """The same file read twice is the same."""
    assert Tunnel("a", "ipip", LocalOf("eth0")) == Tunnel("a", "ipip", LocalOf("eth0"))
    assert desired(FILE).tunnels == desired(FILE + "\n").tunnels
