"""A plan goes as far as its scope, and not a step further."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from dsr_agent.reconcile.local import targets
from dsr_agent.reconcile.plan import plan
from dsr_agent.state.model import EVERYTHING, HOST, AddressKey, Desired, Observed, Scope
from tests.fake.kernel import FakeKernel
from tests.fake.story import FILE, IN_SYNC, desired
from tests.fake.story import HOST as BARE

VIP = AddressKey("lo", ip_address("192.0.2.10"), 32)
SIX = AddressKey("lo", ip_address("2001:db8::10"), 128)
GONE = AddressKey("lo", ip_address("192.0.2.99"), 32)


def seen(host: str, file: Desired) -> Observed:
    """Everything there is to see of *host*."""
    return asyncio.run(FakeKernel(host).observe(EVERYTHING, targets(file)))


def steps(host: str, scope: Scope, file: str = FILE) -> list[str]:
    """The plan for what was seen of *host*, as far as *scope* goes."""
    return [str(action) for action in plan(desired(file), seen(host, desired(file)), scope).actions]


def test_a_look_at_one_vip_plans_that_one() -> None:
    """Although everything else is missing as well."""
    assert steps(BARE, Scope(addresses=frozenset({VIP}))) == ["add 192.0.2.10/32 on lo"]


def test_a_look_at_the_host_plans_no_vip_and_sweeps_no_address() -> None:
    """Only a full look does; what is left over of tunnels goes at once."""
    host = IN_SYNC.replace("192.0.2.10/32", "192.0.2.99/32") + "\ndsr-gre gre local 10.0.3.2 up ours"

    assert steps(host, HOST) == ["delete tunnel dsr-gre"]
    assert steps(host, EVERYTHING) == [
        "add 192.0.2.10/32 on lo",
        "delete tunnel dsr-gre",
        "delete 192.0.2.99/32 on lo",
    ]


@pytest.mark.parametrize(
    ("address", "planned"),
    [("192.0.2.99/32 ours", ["delete 192.0.2.99/32 on lo"]), ("192.0.2.99/32", []), ("192.0.2.99/32 proto 3", [])],
)
def test_a_look_at_an_address_that_is_not_in_the_file_any_more(address: str, planned: list[str]) -> None:
    """The file was read again while the change was collected: ours goes, and nobody else's."""
    host = IN_SYNC.replace("lo up\n", f"lo up\n  {address}\n")

    assert steps(host, Scope(addresses=frozenset({GONE}))) == planned


def test_a_look_at_both_is_both() -> None:
    """Two VIPs, and the host."""
    scope = Scope(host=True, addresses=frozenset({VIP, SIX}))

    assert set(steps(BARE, scope)) == set(steps(BARE, EVERYTHING))


def test_nothing_to_look_at_is_nothing_to_do() -> None:
    """However far from the file the host is."""
    assert steps(BARE, Scope()) == []
