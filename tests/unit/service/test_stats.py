"""Link counters and protocol counters, from what a kernel once said."""

from __future__ import annotations

import struct
from pathlib import Path

from dsr_agent.kernel.netlink import attribute
from dsr_agent.kernel.stats import Received, parse, protocols

SNMP = """\
Ip: Forwarding DefaultTTL InReceives InHdrErrors InUnknownProtos ReasmFails
Ip: 2 64 1000 0 7 3
Icmp: InMsgs OutDestUnreachs
Icmp: 5 9
Udp: InDatagrams NoPorts
Udp: -1 0
"""
NETSTAT = """\
TcpExt: SyncookiesSent IPReversePathFilter
TcpExt: 0 11
IpExt: InNoRoutes
IpExt: 0
"""


def test_a_link_message() -> None:
    body = struct.pack("=BxHiII", 0, 768, 42, 0, 0)
    body += attribute(3, b"dsr-ipip\0")
    body += attribute(23, struct.pack("=24Q", *range(100, 124)))

    counted = parse(body)

    assert (counted.name, counted.ifindex) == ("dsr-ipip", 42)
    # In the order of struct rtnl_link_stats64: rx_packets, tx_packets, rx_bytes, ..., rx_length_errors is the 11th.
    assert counted.received == Received(
        packets=100, bytes=102, errors=104, dropped=106, length=110, crc=112, frame=113, fifo=114
    )


def test_a_link_message_without_counters() -> None:
    assert parse(struct.pack("=BxHiII", 0, 768, 1, 0, 0)).received == Received()


def test_protocol_counters(tmp_path: Path) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/snmp").write_text(SNMP)
    (tmp_path / "proc/net/netstat").write_text(NETSTAT)

    found = protocols(tmp_path)

    assert found["Ip", "InUnknownProtos"] == 7
    assert found["Ip", "ReasmFails"] == 3
    assert found["Icmp", "OutDestUnreachs"] == 9
    assert found["TcpExt", "IPReversePathFilter"] == 11
    assert ("Udp", "InDatagrams") not in found, "a count is never negative"


def test_files_that_cannot_be_read_have_no_counters(tmp_path: Path) -> None:
    assert protocols(tmp_path) == {}


def test_counters_that_began_anew() -> None:
    assert Received(packets=3).less(Received(packets=5)) == Received(packets=3)
    assert Received(packets=5).less(Received(packets=3)) == Received(packets=2)
