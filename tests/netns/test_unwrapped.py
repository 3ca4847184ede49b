"""DSR without a tunnel, on this kernel: requests marked with a code point, and requests that come as they are."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from dsr_agent.state.checksum import internet_checksum
from tests.netns.agent import Agent, dsr_agent
from tests.netns.filter import OURS, counts, need_tables, nft, table
from tests.netns.peer import PEER, PEER6, SERVER, SERVER6, Peer, came, echo, peer
from tests.netns.process import DEADLINE
from tests.netns.space import namespace, routed, sh

VIP, VIP6, OTHER = "198.51.100.10", "2001:db8:f::10", "198.51.100.11"
PORT = 7001
MEGABYTE = bytes(range(256)) * 4096

DSCP = f"""
[[tunnel]]
encapsulation = "dscp"

[[vip]]
address = "{VIP}"
dscp = 7

[[vip]]
address = "{VIP6}"
dscp = 7
"""


@pytest.fixture
def there() -> Iterator[Peer]:
    with namespace():
        need_tables()
        with peer(VIP, VIP6, OTHER) as found:
            yield found


@pytest.fixture
def marking(there: Peer) -> Peer:
    """A balancer that marks, for both VIPs."""
    there.marks(VIP, 7, SERVER)
    there.marks(VIP6, 7, SERVER6)
    return there


def written(folder: Path, text: str) -> Path:
    file = folder / "dsr-agent.toml"
    file.write_text(text)
    return file


# --- marked ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guard", ["", "[guard]\nenabled = false\n", "[guard]\nservices = true\n"])
@pytest.mark.parametrize(("vip", "client"), [(VIP, PEER), (VIP6, PEER6)])
def test_marked_requests_reach_the_vip_and_are_answered_from_it(
    marking: Peer, tmp_path: Path, guard: str, vip: str, client: str
) -> None:
    """Small and in fragments, over UDP and TCP; the application sees the client's own address."""
    with Agent(written(tmp_path, guard + DSCP)), echo(vip, PORT) as got:
        assert marking.asks(vip, PORT, b"small") == b"small"
        assert marking.asks(vip, PORT, bytes(4000)) == bytes(4000)
        assert marking.trades(vip, PORT, MEGABYTE) == MEGABYTE
        assert {sender for _, sender in got} == {client}


def test_every_marked_packet_counts_once_and_the_rest_of_its_header_stays(marking: Peer, tmp_path: Path) -> None:
    """By VIP, as what comes out of a tunnel does; the bits for congestion are not the balancer's to give."""
    with Agent(written(tmp_path, DSCP)), arrivals() as seen, echo(VIP, PORT):
        before = counts()["marked4", f'"{VIP}"']
        marking.asks(VIP, PORT, b"with ECT(1)", tos=1)
        assert counts()["marked4", f'"{VIP}"'].since(before).packets == 1
        packet = next(packet for packet in seen() if packet[9] == 17)
        assert (packet[1] >> 2, packet[1] & 3) == (7, 1)


@pytest.mark.parametrize("code", [0, 6, 9])
def test_another_code_point_is_left_alone(there: Peer, tmp_path: Path, code: int) -> None:
    there.marks(VIP, code, SERVER)
    with Agent(written(tmp_path, DSCP)), echo(VIP, PORT) as vips, echo(SERVER, PORT) as own:
        assert there.silence(VIP, PORT)  # what answers is not the VIP
        came(own)
        assert (vips, [sender for _, sender in own]) == ([], [PEER])


def test_a_code_point_is_looked_for_at_the_tunnels_address_only(there: Peer, tmp_path: Path) -> None:
    sh(f"ip addr add {OTHER}/32 dev nic")
    there.marks(VIP, 7, OTHER)
    there.sh(f"ip route replace {VIP} via {SERVER}")
    text = DSCP.replace('"dscp"', f'"dscp"\nlocal = "{SERVER}"').partition(f'[[vip]]\naddress = "{VIP6}"')[0]
    with Agent(written(tmp_path, text)), echo(VIP, PORT) as vips, echo(OTHER, PORT) as own:
        assert there.silence(VIP, PORT)
        came(own)
        assert (vips, len(own)) == ([], 1)


@pytest.mark.parametrize("guard", ["", "[guard]\nenabled = false\n"])
def test_what_somebody_removes_is_put_back(marking: Peer, tmp_path: Path, guard: str) -> None:
    """Rules, chains, the table; with a guard and without."""
    with Agent(written(tmp_path, guard + DSCP)) as agent, echo(VIP, PORT):
        if "owner" in nft(f"list table {OURS}"):
            pytest.skip("nobody else can change the table here")
        for spite in (
            f"flush chain {OURS} marked4",
            f"flush chain {OURS} unwrapped",
            f"delete table {OURS}",
        ):
            agent.after(partial(nft, spite), "put back in")
            assert marking.asks(VIP, PORT, b"again") == b"again"


@pytest.mark.parametrize(("vip", "address"), [(VIP, OTHER), (VIP6, "2001:db8:f::11")])
def test_a_new_address_of_this_host_is_looked_at_as_soon_as_it_is_there(
    there: Peer, tmp_path: Path, vip: str, address: str
) -> None:
    """Nothing is amiss, so nothing is said."""
    there.marks(vip, 7, address)
    with Agent(written(tmp_path, DSCP)) as agent, echo(vip, PORT):
        sh(f"ip addr add {address}/{32 if vip == VIP else 128} dev nic")
        tries = 60
        while tries and there.silence(vip, PORT):
            tries -= 1
        assert there.asks(vip, PORT, b"there") == b"there"
        assert not [line for line in agent.log if "put back" in line]


def test_a_source_that_no_client_has_is_refused(marking: Peer, tmp_path: Path) -> None:
    """IPv6 knows no martians: the guard has to."""
    with Agent(written(tmp_path, DSCP)), echo(VIP6, PORT) as got:
        assert marking.asks(VIP6, PORT, b"honest") == b"honest"
        before = counts()["inner_source", ""]
        marking.does(lambda: nft(f"add rule inet balancer sent ip6 daddr {SERVER6} ip6 saddr set {VIP6}"))
        assert marking.silence(VIP6, PORT)
        assert counts()["inner_source", ""].since(before).packets == 1
        assert len(got) == 1


def test_only_declared_services_are_let_in_where_the_file_says_so(marking: Peer, tmp_path: Path) -> None:
    """Fragments of what is let in are let in; ICMP belongs to every service."""
    text = "[guard]\nservices = true\n" + DSCP.replace("dscp = 7", f'dscp = 7\nservices = ["udp/{PORT}"]')
    with Agent(written(tmp_path, text)), echo(VIP, PORT), echo(VIP, PORT + 1) as other:
        assert marking.asks(VIP, PORT, bytes(4000)) == bytes(4000)
        before = counts()["service", ""]
        assert marking.silence(VIP, PORT + 1)
        assert (other, counts()["service", ""].since(before).packets) == ([], 1)
        marking.sh(f"ping -c 1 -W {DEADLINE:.0f} {VIP}")


def test_a_request_for_a_vip_that_is_away_goes_nowhere(marking: Peer, tmp_path: Path) -> None:
    """On a host that forwards, it would go back to the balancer, and round again."""
    sh("sysctl net/ipv4/ip_forward=1", f"ip route add default via {PEER}")
    with Agent(written(tmp_path, DSCP)):
        pass
    sh(f"ip addr del {VIP}/32 dev lo")
    before = counts()["forward", ""]
    assert marking.silence(VIP, PORT)
    assert counts()["forward", ""].since(before).packets == 1


def test_this_hosts_own_packets_are_left_alone(marking: Peer, tmp_path: Path) -> None:
    with Agent(written(tmp_path, DSCP)), echo(VIP, PORT) as vips, echo(SERVER, PORT) as own:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(DEADLINE)
            asking.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 7 << 2)
            asking.sendto(b"to myself", (SERVER, PORT))
            assert asking.recv(100) == b"to myself"
        assert (vips, len(own)) == ([], 1)


@pytest.mark.parametrize("guard", ["", "[guard]\nenabled = false\n"])
def test_the_self_test_tries_what_the_rules_do(marking: Peer, tmp_path: Path, guard: str) -> None:
    """It passes with them and fails without, for both families; and it counts nowhere."""
    file = written(tmp_path, guard + DSCP)
    sh(f"ip route add default via {PEER}")
    assert dsr_agent("apply", config=file).code == 0
    routed(VIP6)
    found = dsr_agent("probe", config=file)
    assert (found.code, found.out.splitlines()[-1]) == (0, "2 of 2 arrived"), found
    if not guard:
        assert counts()["marked4", f'"{VIP}"'].packets == 0
    nft(f"flush chain {OURS} marked6")
    found = dsr_agent("probe", "--json", config=file)
    assert [row["result"] for row in found.json["results"]] == ["arrived", "lost"]


def test_it_is_taken_away_with_the_rest(there: Peer, tmp_path: Path) -> None:
    file = written(tmp_path, DSCP)
    assert dsr_agent("apply", config=file).code == 0
    assert "dsr-dscp" in dsr_agent("status", config=file).out
    assert dsr_agent("teardown", config=file).code == 0
    assert table() is None


# --- as they are ------------------------------------------------------------------------------------------------------

L2 = f"""
[[tunnel]]
encapsulation = "l2"

[[vip]]
address = "{VIP}"

[[vip]]
address = "{VIP6}"
"""


@pytest.mark.parametrize("local", ["", '\nlocal = "nic"'])
def test_nobody_here_answers_for_the_vip(there: Peer, tmp_path: Path, local: str) -> None:
    """Before the start, at it, while VIP and ``lo`` come and go, and after the end: ARP and neighbour solicitations."""
    there.sh(f"ip route del {VIP}", f"ip route del {VIP6}")
    there.sh(f"ip route add {VIP} dev nic", f"ip route add {VIP6} dev nic")  # as if all were on one segment
    with asking(there, VIP, VIP6) as answers:
        with Agent(written(tmp_path, L2.replace('"l2"', '"l2"' + local))) as agent:
            for vip in (f"{VIP}/32", f"{VIP6}/128"):
                agent.after(partial(sh, f"ip addr del {vip} dev lo"), "put back in")
            agent.after(lambda: sh("ip link set lo down"), "put back in")
            answers.asked_again()
        answers.asked_again()
    assert answers.heard == []


def test_somebody_who_is_asked_answers(there: Peer, tmp_path: Path) -> None:
    """What the test before this one listens for: with ARP left to the operator, there is an answer."""
    there.sh(f"ip route del {VIP}", f"ip route add {VIP} dev nic")
    with asking(there, VIP) as answers, Agent(written(tmp_path, '[agent]\narp = "ignore"\n' + L2)):
        answers.come()


def test_requests_that_come_as_they_are_are_answered_and_counted(there: Peer, tmp_path: Path) -> None:
    with Agent(written(tmp_path, L2)), echo(VIP, PORT), echo(VIP6, PORT):
        for version, vip in ((4, VIP), (6, VIP6)):
            assert there.asks(vip, PORT, bytes(4000)) == bytes(4000)
            assert there.trades(vip, PORT, MEGABYTE) == MEGABYTE
            assert counts()[f"plain{version}", f'"{vip}"'].packets > 3


def test_there_is_no_vip_before_there_is_silence(there: Peer, tmp_path: Path) -> None:
    """If this host cannot be made silent, it gets no VIP that others have, too."""
    file = written(tmp_path, L2)
    steps = dsr_agent("plan", config=file).out.splitlines()
    silent = [i for i, step in enumerate(steps) if "arp_" in step]
    [added] = [i for i, step in enumerate(steps) if f"add {VIP}/32" in step]
    assert len(silent) == 2
    assert max(silent) < added


def test_there_is_nothing_to_test(there: Peer, tmp_path: Path) -> None:
    file = written(tmp_path, L2)
    assert dsr_agent("apply", config=file).code == 0
    found = dsr_agent("probe", config=file)
    assert found.code == 0
    assert f"VIP {VIP} by dsr-l2: nothing to test" in found.out


class Answers:
    """What somebody on the segment hears who asks for VIPs again and again."""

    def __init__(self, there: Peer, vips: tuple[str, ...]) -> None:
        self._socket = there.does(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        self._socket.bind(("nic", 3))
        self._socket.settimeout(0.05)
        self._own = self._socket.getsockname()[4]
        self._questions = [_question(self._own, vip) for vip in vips]
        self._vips = [ip_address(vip).packed for vip in vips]
        self._rounds = 0
        self._turned = threading.Condition()
        self._ending = False
        self.heard: list[bytes] = []
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def _loop(self) -> None:
        while not self._ending:
            for question in self._questions:
                self._socket.send(question)
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                try:
                    frame = self._socket.recv(2000)
                except TimeoutError:
                    continue
                if frame[6:12] != self._own and _answer(frame, self._vips):
                    self.heard.append(frame)
            with self._turned:
                self._rounds += 1
                self._turned.notify()

    def asked_again(self, times: int = 5) -> None:
        """Wait until they have been asked for a few times more."""
        with self._turned:
            goal = self._rounds + times
            assert self._turned.wait_for(lambda: self._rounds >= goal, DEADLINE)

    def come(self) -> None:
        """Wait until somebody has answered."""
        with self._turned:
            assert self._turned.wait_for(lambda: bool(self.heard), DEADLINE), "nobody answered"

    def close(self) -> None:
        self._ending = True
        self._thread.join()
        self._socket.close()


@contextlib.contextmanager
def asking(there: Peer, *vips: str) -> Iterator[Answers]:
    found = Answers(there, vips)
    try:
        yield found
    finally:
        found.close()


def _question(own: bytes, vip: str) -> bytes:
    """Who has it? (RFC 826, RFC 4861)"""
    target = ip_address(vip)
    if isinstance(target, IPv4Address):
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own + ip_address(PEER).packed + bytes(6) + target.packed
        return b"\xff" * 6 + own + struct.pack("!H", 0x0806) + body
    source, group = ip_address(PEER6), IPv6Address("ff02::1:ff00:0").packed[:13] + target.packed[13:]
    body = struct.pack("!BBHI", 135, 0, 0, 0) + target.packed + b"\x01\x01" + own
    pseudo = source.packed + group + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", internet_checksum(pseudo + body)) + body[4:]
    packet = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source.packed + group + body
    return b"\x33\x33" + group[12:] + own + struct.pack("!H", 0x86DD) + packet


def _answer(frame: bytes, vips: list[bytes]) -> bool:
    """Whether *frame* says that its sender has one of them."""
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == 0x0806:
        return frame[28:32] in vips
    return kind == 0x86DD and frame[20] == 58 and frame[54] == 136 and frame[62:78] in vips


@contextlib.contextmanager
def arrivals() -> Iterator[Callable[[], list[bytes]]]:
    """The IPv4 packets that arrive at ``nic``, as the balancer sent them."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as seeing:
        seeing.bind(("nic", 0x0800))
        seeing.settimeout(0.2)

        def seen() -> list[bytes]:
            found = []
            with contextlib.suppress(TimeoutError):
                while True:
                    data, (_, _, kind, *_) = seeing.recvfrom(1 << 16)
                    found += [data] if kind == 0 else []
            return found

        yield seen


@pytest.mark.parametrize("kind", ["dscp", "l2"])
def test_another_firewall_that_drops_requests_is_named(there: Peer, tmp_path: Path, kind: str) -> None:
    """With the VIP, which a marked packet has got by then."""
    if kind == "dscp":
        there.marks(VIP, 7, SERVER)
    else:
        there.sh(f"ip route replace {VIP} via {SERVER}")
    code = "dscp = 7" * (kind == "dscp")
    told = threading.Event()

    def send() -> None:
        while not told.is_set():
            there.silence(VIP, PORT)

    sending = threading.Thread(target=send)
    with Agent(
        written(tmp_path, f'[[tunnel]]\nencapsulation = "{kind}"\n[[vip]]\naddress = "{VIP}"\n{code}\n')
    ) as agent:
        agent.serving()  # what is watched beside the loop is watched from then on
        hook = "type filter hook input priority 0; policy accept;"
        sending.start()  # a change of rules is followed by a short look at what comes then
        try:
            nft("add table inet other", f"add chain inet other input {{ {hook} }}")
            nft(f"add rule inet other input ip daddr {VIP} drop")
            line = agent.says("another firewall drops what the guard lets in")
        finally:
            told.set()
            sending.join()
    assert "chain input of table inet other" in line
    assert line.endswith(f"drops UDP from {PEER} to {VIP}")
