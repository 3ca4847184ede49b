"""
Links, addresses and announcements as a real kernel sent them (``wire.txt``, made by ``record.py``), read by our codecs.

And what a kernel never sends: cut short, torn, made up. Nothing of that raises or goes round for ever.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsr_agent.kernel import addresses, links, monitor, netlink
from dsr_agent.kernel.netlink import Message
from dsr_agent.state.marks import ADDRESS_PROTO, LINK_GROUP, owns_address
from tests.fake.words import address_of, text_of_address, text_of_link

NAMES = {1: "lo", 21: "dummy"}


def recorded(about: str) -> list[Message]:
    """The messages recorded under this heading."""
    lines = Path(__file__).with_name("wire.txt").read_text().splitlines()
    rows = [line.split() for line in lines if line.startswith(about + " ")]
    return [Message(int(a), int(b), int(c), int(d), bytes.fromhex(body)) for _, a, b, c, d, body in rows]


LINKS = """\
lo up
tunl0 ipip protocol 0 down
ipip ipip local 10.0.3.2 down
ipip-any ipip local 10.0.3.3 protocol 0 down
ipip-remote ipip local 10.0.3.2 remote 10.1.0.5 down
ipip-external ipip external protocol 0 down
gre gre local 10.0.3.2 up group 54741 alias 'dsr-agent: x'
gre-key gre local 10.0.3.2 key 7 down
gre-keys gre local 10.0.3.4 key 4294967295 down
gre-csum gre local 10.0.3.5 checksum down
gre-all gre local 10.0.3.6 remote 10.1.0.5 key 16909060 checksum sequence down
sit sit local 10.0.3.2 down
ip6tnl ip6tnl local fd00:3::2 down
ip6gre ip6gre local fd00:3::2 key 7 down
dummy dummy up
veth veth arp down"""


def test_every_kind_of_link_is_read() -> None:
    """Name, kind, outer header, state, group and alias."""
    found = [links.parse(message.body)[1] for message in recorded("link")]

    assert "\n".join(map(text_of_link, found)) == LINKS


def test_addresses_are_read() -> None:
    """Mark, label, scope and lifetimes; the local one where there is a peer; none of a link that is not known."""
    bodies = [message.body for message in recorded("address")]
    found = [address for body in bodies if (address := addresses.parse(body, NAMES))]

    assert [f"{address.link} {text_of_address(address)}" for address in found] == [
        "lo 127.0.0.1/8 scope host",
        "lo 192.0.2.10/32 ours",
        "lo 198.51.100.2/32 temporary",
        "dummy 198.51.100.1/24",
        "dummy 172.16.0.1/32",
        "lo 2001:db8::10/128 ours",
        "lo ::1/128 scope host proto 1",
        "dummy 2001:db8::1/64",
        "dummy fe80::74e2:6fff:fe5f:73e9/64 scope link proto 3",
    ]
    assert [address.ip for address in found if owns_address(address)] == [
        ip_address("192.0.2.10"),
        ip_address("2001:db8::10"),
    ]


def test_an_address_of_another_family_is_none() -> None:
    """Phonet has addresses too."""
    body = struct.pack("=BBBBI", 35, 0, 0, 0, 1) + netlink.attribute(2, b"\0" * 16)

    assert addresses.parse(body, NAMES) is None


@pytest.mark.parametrize("text", ["192.0.2.10/32 ours", "2001:db8::10/128 ours", "198.51.100.1/24", "2001:db8::1/64"])
def test_what_we_send_is_what_a_kernel_would_send(text: str) -> None:
    """Packed and read again, an address is the same; an IPv4 one keeps its label, an IPv6 one its lifetimes."""
    address = address_of(text, "lo")
    read = addresses.parse(addresses.pack(address, 1), NAMES)

    assert read is not None
    assert (read.link, read.ip, read.prefixlen, read.scope, read.proto, read.label) == (
        *address.key,
        address.scope,
        address.proto,
        address.label,
    )
    assert read.permanent


def test_an_ipv6_vip_is_sent_without_duplicate_address_detection_and_never_preferred() -> None:
    """Flags permanent, nodad and noprefixroute; preferred lifetime 0, valid for ever."""
    body = addresses.pack(address_of("2001:db8::10/128 ours", "lo"), 1)
    found = dict(netlink.attributes(body, 8))

    assert found[8] == struct.pack("=I", 0x282)
    assert found[6][:8] == struct.pack("=II", 0, 0xFFFFFFFF)
    assert found[11] == bytes((ADDRESS_PROTO,))


def test_an_announcement_names_whoever_asked_for_an_ipv4_address_and_nobody_else() -> None:
    """The port of the process for IPv4; 0 for IPv6, for links, and for sysctls."""
    [added] = [m for m in recorded("ip_addr_add_192.0.2.99/32_dev_lo") if m.type == netlink.RTM_NEWADDR]
    [deleted] = recorded("ip_addr_del_2001:db8::10/128_dev_lo")
    renamed = recorded("ip_link_set_gre_name_renamed")

    assert added.port > 0
    assert {message.port for message in [deleted, *renamed]} == {0}


def test_a_rename_is_one_announcement_of_the_link_under_its_new_name() -> None:
    """Nothing is said of its addresses."""
    messages = recorded("ip_link_set_gre_name_renamed")
    [link] = [message for message in messages if message.type == netlink.RTM_NEWLINK]

    assert links.parse(link.body)[1].name == "renamed"
    assert not [message for message in messages if message.type == netlink.RTM_NEWADDR]


@pytest.mark.parametrize(("where", "index"), [("gre", 10), ("all", -1), ("default", -2)])
def test_a_changed_sysctl_is_announced_by_the_number_of_its_link(where: str, index: int) -> None:
    """``all`` is -1 and ``default`` -2."""
    [message] = recorded(f"echo_1_>_/proc/sys/net/ipv4/conf/{where}/rp_filter")

    assert message.type == netlink.RTM_NEWNETCONF
    assert monitor.netconf_index(message) == index


def test_routes_that_follow_addresses_are_told_apart() -> None:
    """The kernel's table of local addresses is no news; a route in the main table is."""
    local = [m for m in recorded("ip_addr_add_192.0.2.99/32_dev_lo") if m.type == netlink.RTM_NEWROUTE]
    main = recorded("ip_route_add_10.77.0.0/24_dev_dummy")

    assert [monitor.is_local_route(message) for message in local + main] == [True, False]


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "code", "text"),
    [
        ("unknown_kind", 95, "Unknown device type"),
        ("address_there", 17, "ipv4: Address already assigned"),
        ("no_such_address", 99, "ipv4: Address not found"),
        ("no_such_link", 19, ""),
        ("malformed", 22, "Invalid header length"),
    ],
)
def test_a_refusal_is_read_with_the_kernels_own_words(about: str, code: int, text: str) -> None:
    """Where it has any; the request that it echoes is stepped over."""
    [message] = recorded(about)

    refused = netlink.refusal(message)

    assert refused.errno == code
    assert refused.text.startswith(text)
    assert bool(refused.text) == bool(text)
    assert str(refused), "there always is something to say"


def test_an_uncapped_refusal_echoes_the_whole_request() -> None:
    """Kernels before 4.3 know no NETLINK_CAP_ACK; the words come after the echo."""
    request = netlink.HEADER.pack(16 + 8, 20, 0, 1, 0) + b"12345678"
    body = struct.pack("=i", -17) + request + netlink.attribute(1, b"File exists\0")

    refused = netlink.refusal(Message(netlink.NLMSG_ERROR, netlink.NLM_F_ACK_TLVS, 1, 0, body))

    assert refused == netlink.Refusal(17, "File exists")


# --- what no kernel sends -------------------------------------------------------------------------------------------

EVERYTHING = [*recorded("link"), *recorded("address"), *recorded("unknown_kind"), *recorded("ip_link_del_dummy")]


def read(message: Message) -> object:
    """Read *message* as whatever it says it is."""
    if message.type in (netlink.RTM_NEWLINK, netlink.RTM_DELLINK):
        return links.parse(message.body)
    if message.type in (netlink.RTM_NEWADDR, netlink.RTM_DELADDR):
        return addresses.parse(message.body, NAMES)
    if message.type == netlink.NLMSG_ERROR:
        return netlink.refusal(message)
    return monitor.netconf_index(message), monitor.is_local_route(message)


def datagram(message: Message) -> bytes:
    """*message* as it comes out of a socket."""
    kind, flags, sequence, port, body = message
    return netlink.HEADER.pack(16 + len(body), kind, flags, sequence, port) + body


@given(st.sampled_from(EVERYTHING), st.integers(0, 2000))
def test_a_message_that_is_cut_short_is_read_as_far_as_it_goes(message: Message, cut: int) -> None:
    """Half a message is better than none; less than its own header is none."""
    short = message._replace(body=message.body[:cut])

    for found in netlink.messages(datagram(short)):
        read(found)
    assert list(netlink.messages(datagram(message)[:cut])) in ([], [message])


@given(st.binary(max_size=200))
@example(b"\0" * 64)
@example(b"\3\0\0\0" * 16)
def test_any_bytes_are_walked_to_their_end(body: bytes) -> None:
    """No attribute and no message of length 0 to go round on for ever, and nothing outside the bytes."""
    kinds = [kind for kind, _ in netlink.attributes(body, 0)]
    found = list(netlink.messages(body))

    assert len(kinds) <= len(body) // 4
    assert len(found) <= len(body) // 16
    assert sum(len(message.body) for message in found) <= len(body)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=30)), max_size=8))
def test_attributes_are_read_as_they_were_written(written: list[tuple[int, bytes]]) -> None:
    """Kind and value, whatever the padding."""
    body = b"".join(netlink.attribute(kind, value) for kind, value in written)

    assert list(netlink.attributes(body, 0)) == written


# Attributes that are read, their nests, and values of any length.
values = st.binary(max_size=20)
nests = st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 6, 7, 9, 18, 19]), values), max_size=8)
kinds = st.sampled_from([b"ipip\0", b"gre\0", b"sit", b"ip6gre\0", b"\xff"])
infos = st.tuples(kinds, nests).map(
    lambda info: (
        netlink.attribute(1, info[0])
        + netlink.attribute(2, b"".join(netlink.attribute(kind, value) for kind, value in info[1]))
    )
)
made_up = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 6, 8, 11, 18, 20, 27]), values) | st.tuples(st.just(18), infos), max_size=6
).map(lambda pairs: b"".join(netlink.attribute(kind, value) for kind, value in pairs))


@given(
    st.sampled_from([netlink.RTM_NEWLINK, netlink.RTM_NEWADDR, netlink.RTM_NEWNETCONF, netlink.RTM_NEWROUTE]),
    st.sampled_from([b"\2", b"\x0a", b"\0"]),
    st.binary(min_size=3, max_size=15),
    made_up,
)
def test_attributes_of_any_length_do_not_raise(kind: int, family: bytes, header: bytes, rest: bytes) -> None:
    """A newer kernel may say anything."""
    sizes = {netlink.RTM_NEWLINK: 16, netlink.RTM_NEWADDR: 8, netlink.RTM_NEWNETCONF: 4, netlink.RTM_NEWROUTE: 12}
    start = (family + header[:3] + struct.pack("=I", 1) + header).ljust(16, b"\0")[: sizes[kind]]

    for found in netlink.messages(datagram(Message(kind, 0, 0, 0, start + rest))):
        read(found)


def test_our_group_is_a_number_nobody_picks_by_chance() -> None:
    """Neither 0 nor one of the small ones that administrators use."""
    assert LINK_GROUP > 0xFF
