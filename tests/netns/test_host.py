"""The real host: thousands of addresses, errors told apart, announcements lost, links renamed and made again."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from dsr_agent.kernel.host import Host
from dsr_agent.kernel.netlink import BATCH
from dsr_agent.state.actions import AddAddress, AddLink, DeleteAddress
from dsr_agent.state.errors import Unsupported
from dsr_agent.state.local import Towards
from dsr_agent.state.marks import ADDRESS_PROTO, LINK_GROUP
from dsr_agent.state.model import EVERYTHING, HOST, ROUTES, Address, AddressKey, Link, LinkKey, Outer, Scope
from dsr_agent.state.report import Result
from dsr_agent.state.why import Why
from tests.netns.space import NETWORK_CARD, has_kind, sh


def vip(number: int) -> Address:
    """The VIP with this number: 10,000 of them fit 10.64.0.0/18."""
    return Address("lo", IPv4Address(0x0A400000 + number), 32, 254, ADDRESS_PROTO, "lo:dsr")


def six(number: int, link: str = "lo") -> Address:
    """The IPv6 VIP with this number."""
    return Address(link, IPv6Address((0x20010DB8 << 96) + number), 128, 0, ADDRESS_PROTO, "", True, True)


def only(*keys: AddressKey) -> Scope:
    """A look at these addresses alone."""
    return Scope(addresses=frozenset(keys))


def have(addresses: Iterator[Address]) -> None:
    """Somebody added *addresses*, in one go."""
    lines = "".join(f"addr add {address.ip}/{address.prefixlen} dev {address.link}\n" for address in addresses)
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)


async def until(host: Host, key: object) -> None:
    """Wait until *key* is announced."""
    while key not in (await asyncio.wait_for(host.changes(), 30)).keys:
        pass


async def test_errors_are_told_apart_by_their_sequence_numbers() -> None:
    """Three batches; the first, some in the middle, the last of one, the first of the next and the very last fail."""
    sh(*NETWORK_CARD, "sysctl -w net/ipv6/conf/nic/disable_ipv6=1")
    failing = {0, 100, BATCH - 1, BATCH, 2 * BATCH + 50, 599}
    wanted = [six(number, "nic") if number in failing else vip(number) for number in range(600)]
    async with Host() as host:
        await host.observe(EVERYTHING)

        outcomes = await host.apply([AddAddress(address, Why.MISSING) for address in wanted])

        assert [outcome.action.key for outcome in outcomes] == [address.key for address in wanted]
        assert {i for i, outcome in enumerate(outcomes) if outcome.result is Result.FAILED} == failing
        assert {type(outcomes[number].error) for number in failing} == {Unsupported}
        found = (await host.observe(EVERYTHING)).addresses
        assert {key for key in found if key in {address.key for address in wanted}} == {
            address.key for i, address in enumerate(wanted) if i not in failing
        }


async def test_ten_thousand_vips_and_one_of_them_deleted() -> None:
    """Adding them takes one message each; finding and repairing the deleted one takes one message in all."""
    wanted = [vip(number) for number in range(10_000)]
    async with Host() as host:
        await host.observe(EVERYTHING)
        before = host.messages_sent
        await host.apply([AddAddress(address, Why.MISSING) for address in wanted])
        assert host.messages_sent - before == 10_000
        found = (await host.observe(EVERYTHING)).addresses
        assert [found[address.key] for address in wanted] == wanted

        key = wanted[7777].key
        sh(f"ip addr del {key.ip}/32 dev lo")
        await until(host, key)
        before = host.messages_sent
        assert key not in (await host.observe(only(key))).addresses
        await host.apply([AddAddress(wanted[7777], Why.MISSING)])
        assert (await host.observe(only(key))).addresses[key] == wanted[7777]

        assert host.messages_sent - before == 1


async def test_an_ipv6_vip_repaired_costs_two_messages() -> None:
    """Its announcement comes after the acknowledgement, so it is asked for once."""
    wanted = [six(number) for number in range(2000)]
    async with Host() as host:
        await host.observe(EVERYTHING)
        await host.apply([AddAddress(address, Why.MISSING) for address in wanted])
        assert {address.key for address in wanted} <= set((await host.observe(EVERYTHING)).addresses)

        key = wanted[777].key
        sh(f"ip addr del {key.ip}/128 dev lo")
        await until(host, key)
        before = host.messages_sent
        await host.apply([AddAddress(wanted[777], Why.MISSING)])
        assert (await host.observe(only(key))).addresses[key] == wanted[777]

        assert host.messages_sent - before == 2


async def test_the_second_look_after_many_ipv6_additions_sees_all_of_them() -> None:
    """Without a full look: more than a few are read in one dump."""
    wanted = [six(number) for number in range(300)]
    async with Host() as host:
        await host.observe(EVERYTHING)

        await host.apply([AddAddress(address, Why.MISSING) for address in wanted])
        before = host.messages_sent

        found = (await host.observe(HOST)).addresses

        assert [found[address.key] for address in wanted] == wanted
        assert host.messages_sent - before == 2, "one dump of links, one of addresses"


async def test_routing_rules_are_announced_and_local_routes_are_not() -> None:
    """Both may change which source address is used; the second only follow addresses."""
    async with Host() as host:
        await host.observe(EVERYTHING)
        sh("ip addr add 198.51.100.9/32 dev lo")
        changes = await asyncio.wait_for(host.changes(), 30)
        assert ROUTES not in changes.keys

        sh("ip rule add from 192.0.2.10 lookup 77")

        await until(host, ROUTES)


async def test_a_storm_that_overflows_the_buffer_is_survived() -> None:
    """Announcements were lost: it is said once, everything is read back, and the next announcement is heard."""
    async with Host(receive_buffer=4096) as host:
        await host.observe(EVERYTHING)
        have(iter([vip(number) for number in range(3000)]))

        changes = await asyncio.wait_for(host.changes(), 30)
        while not changes.lost:
            changes = await asyncio.wait_for(host.changes(), 30)

        assert host.announcements_lost >= 1
        assert {vip(number).key for number in range(3000)} <= set((await host.observe(only())).addresses)
        sh("ip addr del 10.64.0.7/32 dev lo")
        await until(host, vip(7).key)
        assert vip(7).key not in (await host.observe(only())).addresses


async def test_losing_announcements_again_and_again_leaves_no_socket_behind() -> None:
    """Each time the old one is closed and another one listens."""
    async with Host(receive_buffer=4096) as host:
        await host.observe(EVERYTHING)
        before = len(os.listdir("/proc/self/fd"))
        for round_ in range(3):
            have(iter([vip(1000 * round_ + number) for number in range(500)]))
            while not (await asyncio.wait_for(host.changes(), 30)).lost:
                pass

        assert len(os.listdir("/proc/self/fd")) == before


async def test_addresses_follow_a_renamed_link() -> None:
    """Also for a look that reads nothing afresh: what was known under the old name is not kept."""
    sh(*NETWORK_CARD)
    old, new = (AddressKey(name, ip_address("10.0.3.2"), 24) for name in ("nic", "card"))
    async with Host() as host:
        assert old in (await host.observe(EVERYTHING)).addresses
        sh("ip link set nic name card")
        await until(host, LinkKey("card"))

        found = (await host.observe(only(old, new))).addresses

        assert (old in found, new in found) == (False, True)


async def test_a_link_made_again_under_its_name_is_another_one() -> None:
    """Its addresses went with it, and new ones go to the new one, whatever its number."""
    sh(*NETWORK_CARD)
    address = Address("nic", ip_address("192.0.2.10"), 32, 254, ADDRESS_PROTO, "nic:dsr")
    async with Host() as host:
        await host.observe(EVERYTHING)
        await host.apply([AddAddress(address, Why.MISSING)])
        sh("ip link del nic", "ip link add filler type veth", *NETWORK_CARD)

        outcomes = await host.apply([DeleteAddress(address, Why.UNWANTED), AddAddress(address, Why.MISSING)])

        assert [outcome.result for outcome in outcomes] == [Result.DONE, Result.DONE]
        assert (await host.observe(only(address.key))).addresses[address.key] == address
        assert "192.0.2.10/32" in sh("ip addr show dev nic")


async def test_a_port_that_leaves_its_bridge_keeps_its_addresses() -> None:
    """The bridge tells that as the deletion of a link (RTM_DELLINK of family AF_BRIDGE)."""
    if not has_kind("bridge"):
        pytest.skip("this kernel has no bridges")
    sh(*NETWORK_CARD, "ip link add br0 type bridge", "ip link set nic master br0")
    key = AddressKey("nic", ip_address("10.0.3.2"), 24)
    async with Host() as host:
        await host.observe(EVERYTHING)
        sh("ip link set nic nomaster")
        await until(host, LinkKey("nic"))

        assert key in (await host.observe(only(key))).addresses


async def test_two_links_that_trade_names() -> None:
    """Every address is where the kernel has it."""
    sh(*NETWORK_CARD, "ip link add other type veth peer name far", "ip addr add 10.0.9.9/24 dev other")
    async with Host() as host:
        await host.observe(EVERYTHING)
        sh("ip link set nic name x", "ip link set other name nic", "ip link set x name other")
        await until(host, LinkKey("other"))

        found = (await host.observe(HOST)).addresses

        assert AddressKey("nic", ip_address("10.0.9.9"), 24) in found
        assert AddressKey("other", ip_address("10.0.3.2"), 24) in found
        assert AddressKey("nic", ip_address("10.0.3.2"), 24) not in found


async def test_links_that_speak_arp_without_an_ipv4_address_have_no_sysctls_read() -> None:
    """A thousand container ports cost nothing."""
    sh(*NETWORK_CARD, *(f"ip link add port{number} type veth peer name end{number}" for number in range(5)))
    async with Host() as host:
        found = (await host.observe(HOST)).sysctls

        assert {key.path.split("/")[3] for key in found} == {"all", "nic"}


@contextmanager
def deleter() -> Iterator[subprocess.Popen[str]]:
    """A process that deletes 10.64.0.1 from ``lo`` and stays."""
    request = struct.pack("=IHHIIBBBBI", 32, 21, 5, 1, 0, 2, 32, 0, 0, 1) + struct.pack(
        "=HH4s", 8, 2, b"\x0a\x40\0\x01"
    )
    program = f"""
import socket
asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
asking.bind((0, 0))
asking.send({request!r})
asking.recv(4096)
print("done", flush=True)
input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield process
    finally:
        process.communicate("\n")


async def test_who_deleted_it_is_named_while_it_lives() -> None:
    """By name and process; of a process that has ended only the number is left."""
    async with Host() as host:
        await host.observe(EVERYTHING)
        await host.apply([AddAddress(vip(1), Why.MISSING)])
        with deleter() as process:
            changes = await asyncio.wait_for(host.changes(), 30)
            port = changes.by[vip(1).key]
            assert await host.who(port) == f"{Path(sys.executable).name[:15]} (process {process.pid})"

        assert await host.who(port) == f"process {process.pid}, which has ended"


async def test_a_kind_of_link_that_cannot_be_had_is_told_with_its_cause() -> None:
    """The kernel answers "operation not supported" whatever the cause; the agent looks for it."""
    if has_kind("ipip"):
        pytest.skip("this kernel has links of kind ipip: the lab takes them away")
    link = Link("dsr0", "ipip", group=LINK_GROUP, outer=Outer(local=IPv4Address("10.0.3.2"), protocol=4))
    async with Host() as host:
        [outcome] = await host.apply([AddLink(link, Why.MISSING)])

    assert type(outcome.error) is Unsupported
    assert "module ipip" in outcome.error.problem
    assert outcome.error.remedy


async def test_a_broadcast_address_has_no_source() -> None:
    """No balancer is there."""
    sh(*NETWORK_CARD)
    async with Host() as host:
        found = await host.observe(HOST, [Towards(IPv4Address("10.0.3.255")), Towards(IPv4Address("10.0.3.1"))])

    assert found.sources == {Towards(IPv4Address("10.0.3.1")): IPv4Address("10.0.3.2")}


async def test_nothing_is_waited_for_when_nothing_happens() -> None:
    """A look that finds the copy good sends no message at all."""
    async with Host() as host:
        await host.observe(EVERYTHING)
        before = host.messages_sent

        for _ in range(100):
            await host.observe(only(vip(1).key))

        assert host.messages_sent == before


async def test_the_request_socket_is_not_deafened_by_others_sequence_numbers() -> None:
    """Two hosts side by side (a status while the agent runs) do not read each other's answers."""
    async with Host() as one, Host() as other:
        await one.observe(EVERYTHING)
        await other.observe(EVERYTHING)
        assert one._channel.port != other._channel.port

        await asyncio.gather(
            one.apply([AddAddress(vip(number), Why.MISSING) for number in range(300)]),
            other.apply([AddAddress(vip(number), Why.MISSING) for number in range(300, 600)]),
        )

        assert {vip(number).key for number in range(600)} <= set((await one.observe(EVERYTHING)).addresses)
        assert socket.if_nametoindex("lo") == 1
