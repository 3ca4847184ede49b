"""The doctor with the real command line, and the kernel's words that it goes by, where no tunnel can be had."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from dsr_agent.kernel.capture import Capture, Captured
from dsr_agent.kernel.capture_filter import Sought
from dsr_agent.kernel.netlink import Channel
from dsr_agent.kernel.policy import Neighbour, rules, silent, way
from dsr_agent.truth.packets import ip, ipv4, udp
from tests.netns.agent import dsr_agent
from tests.netns.filter import can, need_tables
from tests.netns.process import DEADLINE
from tests.netns.space import NETWORK_CARD, sh
from tests.netns.test_listeners import bound

VIP, CLIENT, HERE, BALANCER = map(IPv4Address, ("192.0.2.10", "203.0.113.7", "10.0.3.2", "10.0.3.5"))
# The doctor looks into the other network namespaces of this machine, too: nobody else is to have this one.
PORT = 20000 + os.getpid() % 12000  # below those that the kernel chooses by itself


@pytest.fixture(autouse=True)
def host(space: None) -> None:
    """A card with a neighbour behind it, a default route and the VIP."""
    sh(*NETWORK_CARD, "ip route add default via 10.0.3.1", f"ip addr add {VIP}/32 dev lo")


def file(folder: Path, services: str = f'services = ["udp/{PORT}"]\n') -> Path:
    """One tunnel, one VIP; no guard, because not every kernel can have it."""
    made = folder / "dsr-agent.toml"
    tunnel = f'[guard]\nenabled = false\n[[tunnel]]\nencapsulation = "ipip"\nload_balancers = ["{BALANCER}"]\n'
    made.write_text(f'{tunnel}[[vip]]\naddress = "{VIP}"\nname = "radius"\n{services}')
    return made


def doctor(config: Path, *names: str) -> dict[str, Any]:
    """What it says, as JSON."""
    done = dsr_agent("doctor", *names, "--seconds", "0.1", "--json", config=config)
    said: dict[str, Any] = done.json
    assert done.code == (0 if said["ok"] else 1)
    return said


def causes(said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["cause"]: each for each in said["causes"]}


# --- the verb ---------------------------------------------------------------------------------------------------------


class TestVerb:
    def test_nobody_somebody_elsewhere_and_somebody_everywhere(self, tmp_path: Path) -> None:
        config = file(tmp_path)
        assert causes(doctor(config))["not_listening"]["vip"] == str(VIP)
        with bound("udp", str(HERE), PORT):
            assert "listening_elsewhere" in causes(doctor(config))
        with bound("udp", "0.0.0.0", PORT):
            found = causes(doctor(config))
            assert found["listening_wildcard"]["result"] == "warning"
        with bound("udp", str(VIP), PORT):
            stages = {each["stage"]: each for each in doctor(config, "radius")["vips"][str(VIP)]}
            assert stages["listener"]["saw"] == f"udp/{PORT} is bound to the VIP"

    def test_somebody_in_another_network_namespace(self, tmp_path: Path) -> None:
        serving = f"import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', {PORT})); print(1); input()"
        argv = ["unshare", "--net", sys.executable, "-uc", serving]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout
            other.stdout.readline()
            found = causes(doctor(file(tmp_path)))["service_other_namespace"]
            other.terminate()
        assert f"(process {other.pid})" in found["saw"]

    def test_a_vip_that_is_missing(self, tmp_path: Path) -> None:
        sh(f"ip addr del {VIP}/32 dev lo")
        found = causes(doctor(file(tmp_path)))["vip_missing"]
        assert (found["result"], found["remedy"]) == ("fault", "dsr-agent apply")

    def test_a_rule_and_a_route_that_lead_answers_astray(self, tmp_path: Path) -> None:
        config = file(tmp_path, "")
        assert "way_back_rule" not in causes(doctor(config))
        sh(f"ip rule add pref 77 from {VIP} prohibit")
        found = causes(doctor(config))["way_back_rule"]
        assert "rule 77: from 192.0.2.10/32 prohibit" in found["saw"]
        assert found["remedy"] == "ip rule del pref 77"
        sh(found["remedy"])
        sh("ip route add blackhole 192.0.2.0/28")  # where the self-test says that it comes from
        assert causes(doctor(config)).keys() & {"no_client_route", "way_back_missing"}

    def test_the_agent_and_the_module(self, tmp_path: Path) -> None:
        found = causes(doctor(file(tmp_path)))
        assert "agent_not_running" in found
        roots = {"module_missing", "module_forbidden", "tunnel_missing"} & found.keys()
        assert len(roots) == 1

    def test_a_card_that_nobody_is_at_the_other_end_of_and_one_that_is_down(self, tmp_path: Path) -> None:
        config = tmp_path / "dsr-agent.toml"
        config.write_text(f'[[tunnel]]\nencapsulation = "l2"\nlocal = "nic"\n[[vip]]\naddress = "{VIP}"\n')
        assert "nothing_arrives" in causes(doctor(config))
        sh("ip link set segment down")
        assert "nic has no carrier" in causes(doctor(config))["no_carrier"]["saw"]
        sh("ip link set nic down")
        assert causes(doctor(config))["card_down"]["remedy"] == "ip link set nic up"

    def test_it_needs_a_file_and_a_vip_that_there_is(self, tmp_path: Path) -> None:
        config = file(tmp_path)
        said = dsr_agent("doctor", "192.0.2.99", config=config)
        assert (said.code, said.err) == (2, "no VIP of that name or address: 192.0.2.99\n")
        assert dsr_agent("doctor", config=tmp_path / "none.toml").code == 2
        assert dsr_agent("doctor", "--seconds", "0", config=config).code == 2

    def test_people_get_a_line_for_each_stage_and_what_mends_it(self, tmp_path: Path) -> None:
        text = dsr_agent("doctor", "--seconds", "0.1", config=file(tmp_path)).out
        assert text.startswith(f"VIP {VIP}\n  arriving     ")
        assert f"not_listening (VIP {VIP}): udp/{PORT}: nobody listens\n" in text
        assert f"   to mend it: start the application that serves udp/{PORT}, bound to {VIP}\n" in text

    def test_another_firewall_is_no_stumbling_block(self, tmp_path: Path) -> None:
        need_tables()
        can("table inet fw { chain input { type filter hook input priority 0; policy drop; } }")
        assert "vips" in doctor(file(tmp_path))


# --- what it goes by --------------------------------------------------------------------------------------------------


def frames(packets: Iterable[bytes]) -> None:
    """The neighbour sends *packets* to this host's card."""
    address = sh("ip -o link show dev nic").partition("link/ether ")[2].split()[0]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sending:
        sending.bind(("segment", 0x0800))
        for packet in packets:
            ethertype = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
            sending.send(bytes.fromhex(address.replace(":", "")) + bytes(6) + ethertype + packet)


SOUGHT = Sought((ip_network(f"{BALANCER}/32"), ip_network("2001:db8:3::5")), doors=(6080,))


def captured(*packets: bytes, sought: Sought = SOUGHT) -> Captured:
    """What is seen of *packets*, among others, when one more has come, or enough have: those over IPv4 first."""
    last = IPv4Address("10.0.3.99")
    capture = Capture(sought)
    try:
        frames([*packets, ipv4(last, HERE, 4, udp(CLIENT, VIP, PORT, b""))])
        end = time.monotonic() + DEADLINE
        while (seen := capture.watch(time.monotonic() + 0.01)).complete:
            assert time.monotonic() < end, f"the last one never came: {seen}"
            if last in (each.source for each in seen.arrived):
                break
        arrived = [each for each in seen.arrived if each.source != last]
        return replace(seen, arrived=tuple(sorted(arrived, key=lambda each: each.source.version)))
    finally:
        capture.close()


class TestCapture:
    def test_what_is_wrapped_and_what_balancers_send(self) -> None:
        inner = udp(CLIENT, VIP, PORT, b"")
        seen = captured(
            ipv4(BALANCER, HERE, 4, inner),
            ipv4(IPv4Address("10.0.3.9"), HERE, 47, bytes(4)),
            udp(BALANCER, HERE, 53, b""),
            udp(IPv4Address("10.0.3.9"), HERE, 53, b""),
        )
        assert [(str(each.source), each.protocol) for each in seen.arrived] == [
            ("10.0.3.5", 4),
            ("10.0.3.9", 47),
            ("10.0.3.5", 17),
        ]
        assert seen.complete
        assert seen.arrived[0].inner
        assert seen.arrived[0].inner.service == f"udp/{PORT}"

    def test_what_is_wrapped_over_ipv6_and_in_udp(self) -> None:
        """By the kernel's own machine: extensions are seen through, and strangers' other traffic is left alone."""
        limit = b"\x00\x04\x01\x04\x01\x01\x00"
        inner = udp(CLIENT, VIP, PORT, b"")
        balancer, stranger, here = map(ip_address, ("2001:db8:3::5", "2001:db8:3::9", "2001:db8:3::2"))
        seen = captured(
            ip(stranger, here, 60, b"\x04" + limit + inner),
            ip(stranger, here, 0, b"\x3c\0\1\4\0\0\0\0" + b"\x2f" + limit + b"\0\0\x08\0" + inner),
            udp(stranger, here, 6080, b"\0\4\0\0" + inner),
            udp(stranger, here, 53, inner),
            ip(stranger, here, 44, b"\x11\0\0\1\0\0\0\1" + udp(stranger, here, 6080, inner)[40:]),
            ip(stranger, here, 6, bytes(20)),
            udp(balancer, here, 5555, inner),
            udp(IPv4Address("10.0.3.9"), HERE, 6080, inner),
            udp(IPv4Address("10.0.3.9"), HERE, 6081, inner),
        )
        assert [(str(each.source), each.encapsulation, each.port, each.fragment) for each in seen.arrived] == [
            ("10.0.3.9", "fou", 6080, False),
            ("2001:db8:3::9", "ipip", None, False),
            ("2001:db8:3::9", "gre", None, False),
            ("2001:db8:3::9", "gue", 6080, False),
            ("2001:db8:3::9", "fou", 6080, True),
            ("2001:db8:3::5", "fou", 5555, False),
        ]
        assert all(each.inner and each.inner.destination == VIP for each in seen.arrived)

    def test_what_is_not_wrapped_for_those_who_take_it(self) -> None:
        seen = captured(
            ipv4(CLIENT, HERE, 6, bytes(20), dscp=7),
            ipv4(CLIENT, HERE, 6, bytes(20)),
            ipv4(CLIENT, VIP, 6, bytes(20)),
            sought=Sought(marked_at=(HERE,), plain=(VIP,)),
        )
        assert [(each.destination, each.code) for each in seen.arrived] == [(HERE, 7), (VIP, 0)]

    def test_the_kernel_takes_the_longest_program(self) -> None:
        """Also one older than Linux 6.9, which has less room for it (there every namespace has the same)."""
        with contextlib.suppress(FileNotFoundError):
            sh("sysctl -w net/core/optmem_max=20480")
        ips = tuple(ip_address(0x20010DB8 << 96 | number << 40 | number) for number in range(200))
        senders = tuple(ip_network((each, 120), strict=False) for each in ips)
        Capture(Sought(senders, tuple(range(1, 200)), ips, ips, tuple(range(1, 200)))).close()

    def test_what_has_come_is_seen_though_the_time_is_over(self) -> None:
        """This process was kept from looking until then: a busy host does that, for seconds."""
        capture = Capture(SOUGHT)
        try:
            frames([ipv4(BALANCER, HERE, 4, udp(CLIENT, VIP, PORT, b""))])
            looks = (capture.watch(time.monotonic()).arrived for _ in range(10_000))  # the card takes its time
            assert next(filter(None, looks), None)
        finally:
            capture.close()

    def test_the_self_test_is_not_seen(self) -> None:
        """It goes by loopback."""
        capture = Capture(Sought())
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(ipv4(BALANCER, HERE, 4, udp(CLIENT, VIP, PORT, b"")), (str(HERE), 0))
        try:
            assert capture.watch(time.monotonic() + 0.1).arrived == ()
        finally:
            capture.close()

    def test_what_leaves_from_a_port(self) -> None:
        sh("ip neigh add 10.0.3.1 lladdr 02:00:00:00:00:01 dev nic")
        capture = Capture(Sought(answered_from=(PORT,)))
        with bound("udp", "0.0.0.0", PORT) as server, bound("udp", "0.0.0.0", PORT + 1) as other:
            server.sendto(b"answer", (str(CLIENT), 5))
            other.sendto(b"another", (str(CLIENT), 5))
        try:
            (left,) = capture.watch(time.monotonic() + 0.2).left
        finally:
            capture.close()
        assert (left.source, left.destination, left.port, left.link) == (HERE, CLIENT, PORT, "nic")

    def test_a_flood_ends_the_look(self) -> None:
        packet = ipv4(BALANCER, HERE, 4, udp(CLIENT, VIP, PORT, b""))
        seen = captured(*[packet] * 2100)
        assert (seen.complete, len(seen.arrived) >= 2000) == (False, True)


@pytest.fixture
def channel(host: None) -> Iterator[Channel]:
    """Asks the kernel."""
    with contextlib.closing(Channel()) as made:
        yield made


class TestPolicy:
    def test_the_way_that_an_answer_takes(self, channel: Channel) -> None:
        found = way(channel, VIP, CLIENT)
        assert (found.link, str(found.gateway), found.leads_out) == ("nic", "10.0.3.1", True)
        sh("ip route add blackhole 203.0.113.0/24", f"ip rule add pref 7 from {VIP} iif lo lookup 100")
        assert not way(channel, VIP, CLIENT).leads_out
        sh("ip route add 203.0.113.0/24 via 10.0.3.77 table 100")
        assert str(way(channel, VIP, CLIENT)) == "by nic via 10.0.3.77"
        assert not way(channel, None, CLIENT).leads_out

    def test_who_does_not_say_where_they_are(self, channel: Channel) -> None:
        assert silent(channel) == frozenset()
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asking:
            asking.sendto(b"", ("10.0.3.77", 9))
        assert silent(channel) == {Neighbour("nic", ip_address("10.0.3.77"))}

    def test_a_learnt_mtu(self, channel: Channel) -> None:
        sh(f"ip route add {CLIENT} via 10.0.3.1 mtu 1400")
        assert way(channel, None, CLIENT).mtu == 1400
        assert way(channel, None, BALANCER).mtu is None

    def test_rules_are_read_as_they_are_written(self, channel: Channel) -> None:
        usual = rules(channel)
        assert usual
        assert all(rule.ordinary for rule in usual)
        written = (
            "rule 5: from all iif nic blackhole",
            "rule 6: not from 10.1.0.0/16 to 192.0.2.0/24 lookup 100",
            "rule 7: from all fwmark 0x1 prohibit",
        )
        sh(
            "ip rule add pref 5 iif nic blackhole",
            "ip rule add pref 6 not from 10.1.0.0/16 to 192.0.2.0/24 lookup 100",
            "ip rule add pref 7 fwmark 1 prohibit",
            "ip -6 rule add pref 8 from 2001:db8::/64 unreachable",
        )
        found = [rule for rule in rules(channel) if rule not in usual]
        assert tuple(map(str, found[:3])) == written
        assert str(found[3]) == "rule 8: from 2001:db8::/64 unreachable"
        assert found[0].concerns(CLIENT, VIP, "nic")
        assert not found[0].concerns(CLIENT, VIP, "lo")
        assert found[1].concerns(CLIENT, ip_address("198.51.100.1"), "lo")
        assert not found[1].concerns(ip_address("10.1.0.1"), VIP, "lo")
        assert [rule.removal for rule in found] == [
            "ip rule del pref 5",
            "ip rule del pref 6",
            "ip rule del pref 7",
            "ip -6 rule del pref 8",
        ]
