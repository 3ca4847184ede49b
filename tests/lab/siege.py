"""
An attacker in the balancers' own network, and what becomes of the packets that it sends to a real server.

::

    attacker 10.2.0.66 --+
                         +-- router -- 10.3.0.11 rs1 10.5.0.1 ----- 10.5.0.2 behind
    balancer 10.2.0.5 ---+

Every packet carries a token. On the real server a service that listens on all addresses sees what is *delivered*, and a
tap sees what leaves with the token in it: *forwarded*, or *answered* by an ICMP error.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import select
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from tests.lab import attack_parts as parts
from tests.lab import spaces
from tests.lab.agent import DEADLINE, Agent, wait_for
from tests.lab.attack_parts import ANSWERED, DELIVERED, FORWARDED, Attack
from tests.lab.servers import PORT, WRAPPED, real_server
from tests.lab.spaces import inside, ip, ip_batch, run, set_sysctls, within
from tests.lab.traffic import ask_udp
from tests.lab.world import BALANCER_IP, ROUTER, RS1, SERVER_IP, VIPS, VIPS6

ATTACKER, BEHIND = "attacker", "behind"
TUNNELS = ("dsr-ipip", "dsr-gre", "dsr-keyed", "dsr-summed")
FALLBACKS = ("tunl0", "gre0", "sit0", "ip6tnl0", "ip6gre0")
MODULES = ("ipip", "ip_gre", "sit", "ip6_tunnel", "ip6_gre")

_TOKEN = struct.Struct(">3sIB")
_HEAD, _TAIL = b"\xa7\x5e\xd1", 0xA7
_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_ERRORS4, _ERRORS6 = {3, 4, 5, 11, 12}, {1, 2, 3, 4}
_SO_RCVBUFFORCE = 33


class Watch:
    """What becomes of packets with a token on the real server."""

    def __init__(self) -> None:
        self._taps = [
            within(RS1, make) for make in (_tap, lambda: _sink(socket.AF_INET), lambda: _sink(socket.AF_INET6))
        ]
        self.seen: dict[int, set[str]] = {}

    def close(self) -> None:
        """Stop watching."""
        for tap in self._taps:
            tap.close()

    def look(self, timeout: float = 0.0) -> None:
        """Take in what has been seen; wait for something until *timeout* has passed."""
        for tap in select.select(self._taps, [], [], timeout)[0]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, where = tap.recvfrom(4096, socket.MSG_DONTWAIT)
                    effect = _leaving(data, where) if tap is self._taps[0] else DELIVERED
                    at = data.find(_HEAD)
                    if effect and 0 <= at <= len(data) - _TOKEN.size and data[at + _TOKEN.size - 1] == _TAIL:
                        self.seen.setdefault(_TOKEN.unpack_from(data, at)[1], set()).add(effect)

    def wait(self, number: int) -> None:
        """Return once the packet with this number has been delivered."""

        def there() -> bool:
            self.look(0.05)
            return DELIVERED in self.seen.get(number, ())

        wait_for(there, f"packet {number}, which is allowed, to be delivered")


def _tap() -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
    tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
    return tap


def _sink(family: int) -> socket.socket:
    sink = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sink.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
    sink.bind(("", parts.PORT))
    return sink


def _leaving(data: bytes, where: tuple[str, int, int, int, bytes]) -> str:
    """What a packet is that was seen leaving through a link that leads elsewhere."""
    name, _, kind, *_ = where
    if kind != _PACKET_OUTGOING or name == "lo":
        return ""
    if data[0] >> 4 == 4:
        error = data[9] == socket.IPPROTO_ICMP and data[(data[0] & 15) * 4] in _ERRORS4
    else:
        error = data[6] == socket.IPPROTO_ICMPV6 and data[40] in _ERRORS6
    return ANSWERED if error else FORWARDED


@dataclass
class Siege:
    """A real server with an agent, and everything needed to attack it."""

    agent: Agent
    watch: Watch
    _socket: socket.socket = field(init=False)
    _number: int = 0
    _barriers: int = 0
    _host: str = ""
    _counted: tuple[int, dict[str, int]] = field(default_factory=lambda: (-1, {}))

    def __post_init__(self) -> None:
        self._socket = within(ATTACKER, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))

    def close(self) -> None:
        """Stop."""
        self._socket.close()
        self.watch.close()

    # --- what somebody has done to the host --------------------------------------------------------------------------

    def prepare(self, host: str) -> None:
        """Have the real server as careless as an attack needs it, and not more."""
        if host == self._host:
            return
        forwarding, fallbacks = host == parts.FORWARDING, host == parts.FALLBACKS
        set_sysctls(RS1, {"ipv4/ip_forward": int(forwarding), "ipv6/conf/all/forwarding": int(forwarding)})
        if forwarding:
            wait_for(self._tunnels_do_not_forward, "the agent to see to it that its tunnels do not forward")
            ip(RS1, f"route add {parts.ROUTED} via {parts.ATTACKER} dev dsr-ipip onlink")
        elif self._host == parts.FORWARDING:
            ip(RS1, f"route del {parts.ROUTED}")
        ip_batch(RS1, [f"link set {name} {'up' if fallbacks else 'down'}" for name in FALLBACKS])
        if fallbacks:  # without an address reverse-path filtering drops all, unless it is off
            set_sysctls(RS1, {f"ipv4/conf/{name}/rp_filter": 0 for name in FALLBACKS[:3]})
        self._host = host

    @staticmethod
    def _tunnels_do_not_forward() -> bool:
        return all(spaces.sysctl(RS1, f"ipv4/conf/{name}/forwarding") == "0" for name in TUNNELS)

    # --- attacks -----------------------------------------------------------------------------------------------------

    def send(self, attack: Attack) -> int:
        """Send it; the number that its packets carry."""
        self._number += 1
        for packet in attack.build(_TOKEN.pack(_HEAD, self._number, _TAIL)):
            self._socket.sendto(packet, (str(ip_address(packet[16:20])), 0))
        return self._number

    def settle(self) -> None:
        """
        Return once all that was sent before has arrived and been dealt with.

        Two allowed packets follow on the same way, the second when the first is there: who is late would be late twice.
        """
        for _ in range(2):
            self._barriers += 1
            self.watch.wait(self.send(BARRIER))

    def outcome(self, attack: Attack) -> str:
        """What became of it."""
        number = self.send(attack)
        self.settle()
        return self.became(number)

    def became(self, number: int) -> str:
        """What has been seen of a packet by now."""
        self.watch.look()
        return "+".join(sorted(self.watch.seen.get(number, ())))

    # --- counters ----------------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, float]:
        """The agent's metrics, each with its labels as they are written."""
        with inside(RS1), contextlib.closing(http.client.HTTPConnection("127.0.0.1", 9177, timeout=30)) as asking:
            asking.request("GET", "/metrics")
            page = asking.getresponse().read().decode()
        return {name: float(value) for name, value in re.findall(r"(?m)^(\w+(?:\{.*\})?) (\S+)$", page)}

    def serving(self) -> bool:
        """Whether the agent serves its metrics by now."""
        try:
            return bool(self.metrics())
        except OSError:
            return False

    def dropped(self) -> dict[str, int]:
        """The guard's count of each reason, of a page that knows of everything that has been dealt with by now."""
        if self._counted[0] == self._number:  # nothing has been sent since
            return self._counted[1]
        self.settle()
        found: dict[str, float] = {}

        def fresh() -> bool:  # a page may be a second old; what only barriers come from dates it
            found.clear()
            found.update(self.metrics())
            mine = [n for name, n in found.items() if name.startswith(ACCEPTED) and parts.ONLY_IPIP in name]
            return sum(mine) == self._barriers

        wait_for(fresh, "a page of metrics that has everything")
        counts = {reason: int(found.get(f'{DROPPED}{{reason="{reason}"}}', 0)) for reason in parts.REASONS}
        self._counted = (self._number, counts)
        return counts


ACCEPTED, DROPPED = "dsr_guard_accepted_packets_total", "dsr_guard_dropped_packets_total"
BARRIER = Attack("barrier", parts.ALLOWED, DELIVERED, parts.ipip(parts.inner(), parts.ONLY_IPIP))


def kernel_counters() -> Mapping[str, int]:
    """What the real server's kernel counts by itself."""
    found: dict[str, int] = {}
    with inside(RS1):
        for name in ("snmp", "netstat"):
            lines = Path("/proc/thread-self/net", name).read_text().splitlines()
            for head, values in zip(lines[::2], lines[1::2], strict=True):
                group, *names = head.split()
                found |= {group[:-1] + key: int(value) for key, value in zip(names, values.split()[1:], strict=True)}
        for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines():
            key, value = line.split()
            found[key] = int(value)
        for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]:
            name, values = line.split(":")
            found |= {f"{name.strip()} {key}": int(values.split()[at]) for at, key in ((2, "errors"), (3, "dropped"))}
    return found


@contextlib.contextmanager
def siege(config: str) -> Iterator[Siege]:
    """The network with an attacker, and the agent with *config* on the real server."""
    with contextlib.ExitStack() as stack:
        run("modprobe", "-a", *MODULES)
        stack.enter_context(real_server(WRAPPED))
        stack.callback(spaces.delete, (ATTACKER, BEHIND))
        _build()
        agent = stack.enter_context(Agent(RS1, config))
        agent.wait_log("in sync after")
        for virtual in WRAPPED:
            ask_udp(virtual.address, PORT)
        found = Siege(agent, Watch())
        wait_for(found.serving, "the agent to serve its metrics")
        stack.callback(found.close)
        home = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(home)})  # one processor after the other would let packets overtake each other
        stack.callback(os.sched_setaffinity, 0, home)
        yield found


def _build() -> None:
    """Attach the attacker beside the balancer, and a network behind the real server."""
    spaces.delete((ATTACKER, BEHIND))
    spaces.create((ATTACKER, BEHIND))
    ip_batch(
        "",
        [
            f"link add to-attacker netns {ROUTER} type veth peer name eth0 netns {ATTACKER}",
            f"link add eth1 netns {RS1} type veth peer name eth0 netns {BEHIND}",
        ],
    )
    host = SERVER_IP[RS1]
    ip_batch(
        ROUTER,
        [
            "link add balancers type bridge",
            *(f"link set {name} master balancers" for name in ("to-balancer", "to-attacker")),
            *(f"link set {name} up" for name in ("to-attacker", "balancers")),
            "address flush dev to-balancer",
            "address add 10.2.0.1/24 dev balancers",
            "address add fd00:2::1/64 dev balancers nodad",
            f"route replace {VIPS} via {BALANCER_IP}",
            f"route replace {VIPS6} via fd00:2::5",
            f"route add 10.5.0.0/24 via {host}",
            f"route add fd00:5::/64 via {parts.HOST6}",
            f"route add {parts.ROUTED} via {host}",
        ],
    )
    set_sysctls(ROUTER, {"ipv4/conf/balancers/rp_filter": 0})  # it forwards whatever source a packet says it has
    ip_batch(
        ATTACKER, [f"address add {parts.ATTACKER}/24 dev eth0", "link set eth0 up", "route add default via 10.2.0.1"]
    )
    ip_batch(
        BEHIND,
        [
            f"address add {parts.BEHIND}/24 dev eth0",
            f"address add {parts.BEHIND6}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {parts.LEG}",
        ],
    )
    ip_batch(
        RS1,
        [
            "link set eth1 up",
            f"address add {parts.LEG}/24 dev eth1",
            f"address add {parts.LEG6}/64 dev eth1 nodad",
            f"address add {parts.KEYED}/24 dev eth0",
            f"address add {parts.SUMMED}/24 dev eth0",
        ],
    )
    # Every error is answered, however many there are.
    set_sysctls(RS1, {"ipv4/icmp_ratemask": 0, "ipv6/icmp/ratelimit": 0})
    with inside(RS1):  # whoever has no known neighbour keeps packets back
        for neighbour in (parts.BEHIND, parts.BEHIND6, parts.PEER, "10.3.0.1", "fd00:3::1"):
            run("ping", "-c1", f"-w{DEADLINE:.0f}", neighbour)
