"""What the file means in kernel terms."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import Any

import pytest

from dsr_agent.config import Settings
from dsr_agent.config.desired import desired
from dsr_agent.state.local import LocalAddress, LocalOf, LocalTowards
from dsr_agent.state.marks import LONGEST_NAME, owns_address
from dsr_agent.state.model import Address, AddressKey, Tunnel, Vip


def tunnel(**keys: Any) -> Tunnel:
    entry = {"encapsulation": "ipip", "load_balancers": ["10.1.0.5"], **keys}
    (found,) = desired(Settings.model_validate({"tunnel": [entry]})).tunnels.values()
    return found


def test_an_ipv4_vip_is_marked_and_no_source_for_the_host() -> None:
    found = desired(Settings.model_validate({"vip": [{"address": "192.0.2.10/32"}]}))

    key = AddressKey("lo", IPv4Address("192.0.2.10"), 32)
    assert found.vips == {key: Vip(key.ip, "192.0.2.10")}
    assert found.addresses == {
        key: Address("lo", key.ip, 32, scope=254, proto=0xD5, label="lo:dsr", permanent=True, deprecated=False)
    }


def test_an_ipv6_vip_is_marked_and_no_source_for_the_host() -> None:
    found = desired(Settings.model_validate({"vip": [{"address": "2001:DB8:0::1", "device": "dummy0"}]}))

    key = AddressKey("dummy0", IPv6Address("2001:db8::1"), 128)
    assert found.addresses == {
        key: Address("dummy0", key.ip, 128, scope=0, proto=0xD5, label="", permanent=True, deprecated=True)
    }
    assert found.vips[key].name == "2001:db8::1"


@pytest.mark.parametrize(
    ("device", "label"), [("eleven-long", "eleven-long:dsr"), ("twelve-longs", ""), ("fifteen-letters", "")]
)
def test_the_label_is_left_out_where_the_kernel_has_no_room(device: str, label: str) -> None:
    found = desired(Settings.model_validate({"vip": [{"address": "192.0.2.10", "device": device}]}))

    (address,) = found.addresses.values()
    assert (address.label, owns_address(address)) == (label, True)


def test_a_vip_without_tunnels_written_comes_through_all_of_them() -> None:
    tunnels = [{"encapsulation": kind, "load_balancers": "any"} for kind in ("ipip", "gre")]
    vips = [{"address": "192.0.2.10"}, {"address": "192.0.2.11", "tunnels": ["dsr-gre"]}]
    vips.append({"address": "192.0.2.12", "tunnels": [], "services": ["udp/1812"]})

    found = desired(Settings.model_validate({"tunnel": tunnels, "vip": vips}))

    assert [vip.tunnels for vip in found.vips.values()] == [("dsr-ipip", "dsr-gre"), ("dsr-gre",), ()]
    assert [vip.services for vip in found.vips.values()] == [(), (), ("udp/1812",)]
    assert list(found.tunnels) == ["dsr-ipip", "dsr-gre"]


def test_a_tunnel_says_what_the_file_said() -> None:
    assert tunnel(encapsulation="gre", key=7, checksum=True, name="x", local="10.0.0.2") == Tunnel(
        name="x",
        encapsulation="gre",
        local=LocalAddress(IPv4Address("10.0.0.2")),
        load_balancers=(IPv4Network("10.1.0.5/32"),),
        key=7,
        checksum=True,
    )
    assert tunnel(local="eth0").local == LocalOf("eth0")


@pytest.mark.parametrize(
    ("balancers", "targets"),
    [
        (["10.1.0.5"], ["10.1.0.5"]),
        (["10.1.0.4/31"], ["10.1.0.4"]),
        (["10.1.0.4/30"], ["10.1.0.5"]),
        (["10.2.0.0/16", "10.1.0.6"], ["10.2.0.1", "10.1.0.6"]),
        (["10.1.0.0/24", "10.1.0.1", "10.1.0.0/25"], ["10.1.0.1"]),
        ("any", []),
    ],
)
def test_auto_asks_for_the_first_host_of_each_load_balancer(balancers: Any, targets: list[str]) -> None:
    assert tunnel(load_balancers=balancers).local == LocalTowards(tuple(map(IPv4Address, targets)))


def test_arp_is_silenced_unless_it_is_to_be_ignored() -> None:
    assert desired(Settings()).silence_arp
    assert not desired(Settings.model_validate({"agent": {"arp": "ignore"}})).silence_arp


@pytest.mark.parametrize("encapsulation", ["ipip", "gre", "gue", "fou"])
def test_a_tunnel_over_ipv4_and_one_over_ipv6_have_two_names(encapsulation: str) -> None:
    """And the outer header's version is that of the load balancers, or of the address where anybody may send."""
    port = {"port": 5555} if encapsulation == "fou" else {}
    four = tunnel(encapsulation=encapsulation, load_balancers=["10.1.0.5"], **port)
    six = tunnel(encapsulation=encapsulation, load_balancers=["2001:db8:1::/64"], **port)
    anybody = tunnel(encapsulation=encapsulation, load_balancers="any", local="2001:db8::2", **port)

    assert (four.name, four.version) == (f"dsr-{encapsulation}", 4)
    assert (six.name, six.version) == (f"dsr-{encapsulation}6", 6)
    assert (anybody.name, anybody.version) == (f"dsr-{encapsulation}6", 6)
    assert six.local == LocalTowards((ip_address("2001:db8:1::1"),))
    assert len(six.name + ".new") <= LONGEST_NAME


def test_the_port_of_gue_is_ianas_and_that_of_fou_is_written() -> None:
    assert tunnel(encapsulation="gue", load_balancers="any").port == 6080
    assert tunnel(encapsulation="gue", load_balancers="any", port=19523).port == 19523
    assert tunnel(encapsulation="ipip", load_balancers="any").port is None


def test_ipip_gue_and_fou_may_stand_side_by_side_at_one_address() -> None:
    """They share a link; over IPv6 there is another one."""
    entries = [
        {"encapsulation": kind, "load_balancers": [sender], **({"port": 5555} if kind == "fou" else {})}
        for kind in ("ipip", "gue", "fou")
        for sender in ("10.1.0.5", "2001:db8:1::5")
    ]
    assert len(desired(Settings.model_validate({"tunnel": entries})).tunnels) == 6
