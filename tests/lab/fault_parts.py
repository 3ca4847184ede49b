"""What `faults` is made of: who is who, what a fault is, and the ways to bring one about."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab import world
from tests.lab.guarded import nft
from tests.lab.spaces import inside, ip_batch, run, set_sysctls
from tests.lab.world import BALANCER, BALANCER_IP, ROUTER, RS1, SERVER_IP, Virtual

if TYPE_CHECKING:
    from tests.lab.fault_world import FaultWorld

# --- who is who ---------------------------------------------------------------------------------------------------

LOCAL = SERVER_IP[RS1]

A, B, C = "192.0.2.10", "192.0.2.11", "192.0.2.12"
KEYED, SIX = "192.0.2.13", "2001:db8:f::10"
RADIUS, TACACS, WEB = "192.0.2.14", "192.0.2.15", "192.0.2.16"

IPIP = (A, C, RADIUS, WEB)
GRE4, GRE = (B, TACACS), (B, TACACS, SIX)
ALL4 = (*IPIP, *GRE4, KEYED)
ALL = (*ALL4, SIX)
BY_IPVS = (*IPIP, *GRE)  # IPVS sends no GRE keys, so another tunnel of the balancer stands in for it

KEY = 7
PORT, PORT_OF_B = 7001, 7101  # B's is its own, so that others may bind it elsewhere
WEB_PORT = 80
VIRTUALS = tuple(Virtual(address, "gre" if address in GRE else "ipip") for address in BY_IPVS)


def port_of(vip: str) -> int:
    """Where the service that the traffic goes to listens."""
    return PORT_OF_B if vip == B else PORT


FIRST, DEAD = "10.3.0.1", "10.3.0.99"  # the router, and nobody
PINNED, UNPINNED = f"route add {BALANCER_IP} via {FIRST}", f"route del {BALANCER_IP} via {FIRST}"
DEFAULT, DEFAULT6 = f"route replace default via {FIRST}", "route replace default via fd00:3::1"
ON_CARD = "address replace fd00:3::11/64 dev eth0 nodad"
NOT_THE_WAY_BACK = "the self-test gets no answer, so it does not see the way back"

# --- words --------------------------------------------------------------------------------------------------------

Do = Callable[["FaultWorld"], Any]

RUNNING, STOPPED = "running", "stopped"


@dataclass(frozen=True)
class Fault:
    """
    Something that is wrong, how it comes about and how it goes away, and what has to be seen of it.

    *unready* are the VIPs for which ``/readyz`` says 503 and *cut* those whose clients get no answer, so a difference
    between the two is what readiness does not know, for the reason *why*. *causes* are the doctor's words that name it
    rightly. *known* says why another one comes first; it may not stay there once the right one does.

    With the agent stopped nobody repairs anything and there is no ``/readyz``; *undo* is then ``dsr-agent apply``, if
    nothing else is said. *fresh*: another agent follows, because this one remembers that somebody fought it. *says* is
    a word of what ``/readyz`` comes to say: an application that is started anew is away for a moment, another fault.
    """

    name: str
    causes: str
    inject: Do
    undo: Do | None = None
    unready: tuple[str, ...] = ()
    cut: tuple[str, ...] | None = None
    why: str = ""
    known: str = ""
    agent: str = RUNNING
    nftables: bool = False
    fresh: bool = False
    says: str = ""

    def __str__(self) -> str:
        return self.name.replace(" ", "-").replace(",", "")

    @property
    def broken(self) -> tuple[str, ...]:
        """The VIPs whose clients get no answer."""
        return self.unready if self.cut is None else self.cut


# --- ways to bring one about ------------------------------------------------------------------------------------------


def _ip(space: str, *lines: str) -> Do:
    """Where IPv6 is not seen from the words, a line begins with ``-6``, and is a command of its own."""

    def do(_: FaultWorld) -> None:
        ip_batch(space, [line for line in lines if not line.startswith("-6 ")])
        for line in lines:
            if line.startswith("-6 "):
                run("ip", "-n", space, *line.split())

    return do


def server(*lines: str) -> Do:
    """``ip`` commands on the real server."""
    return _ip(RS1, *lines)


def router(*lines: str) -> Do:
    """``ip`` commands on the router."""
    return _ip(ROUTER, *lines)


def balancer(*lines: str) -> Do:
    """``ip`` commands on the balancer."""
    return _ip(BALANCER, *lines)


def shell(*commands: str) -> Do:
    """Other commands on the real server."""

    def do(_: FaultWorld) -> None:
        with inside(RS1):
            for command in commands:
                run(*command.split())

    return do


def sysctl(path: str, value: int, space: str = RS1) -> Do:
    """A sysctl of the real server."""
    return lambda _: set_sysctls(space, {path: value})


def all_of(*doings: Do) -> Do:
    """One after the other."""

    def do(scene: FaultWorld) -> None:
        for doing in doings:
            doing(scene)

    return do


def dummy_instead(link: str) -> Do:
    """A dummy has the name of the link before anybody makes that again."""

    def do(_: FaultWorld) -> None:
        for _again in range(100):
            with contextlib.suppress(RuntimeError):
                ip_batch(RS1, [f"link del {link}", f"link add {link} type dummy"])
                return
        raise TimeoutError(f"somebody else is always faster to make {link}")

    return do


def nothing(_: FaultWorld) -> None:
    """What is wrong goes away by itself."""


def file(path: str, text: str) -> Do:
    """A file of the machine."""

    def do(_: FaultWorld) -> None:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)

    return do


def no_file(path: str) -> Do:
    """It goes away."""
    return lambda _: Path(path).unlink()


def over_and_over(command: str) -> Do:
    """Another program that does it again as soon as it is undone, until `peace`."""

    def do(scene: FaultWorld) -> None:
        with inside(RS1):
            argv = ["sh", "-c", f"while :; do {command}; sleep 0.05; done"]
            scene.fighter = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return do


def peace(scene: FaultWorld) -> None:
    """That program ends."""
    assert scene.fighter
    scene.fighter.kill()
    scene.fighter.wait()
    scene.fighter = None


def firewall(hook: str, rule: str) -> Do:
    """A table of somebody else's firewall with one rule; *hook* as nftables writes it, with its priority."""
    text = f"table inet site {{\nchain strict {{\ntype filter hook {hook};\n{rule}\n}}\n}}\n"
    return lambda _: nft("-f", "-", given=text)


def no_firewall(_: FaultWorld) -> None:
    """It goes away."""
    nft("delete", "table", "inet", "site")


def sent_as(vip: str, how: str) -> Do:
    """The balancer wraps what it sends for a VIP in another way, as ``ipvsadm`` writes it."""

    def do(_: FaultWorld) -> None:
        with inside(BALANCER):
            run("ipvsadm", "-e", "-u", f"{vip}:{port_of(vip)}", "-r", f"{LOCAL}:{port_of(vip)}", *how.split())

    return do


def keyed_tunnel(_: FaultWorld) -> None:
    """The balancer's own tunnel for `KEYED`."""
    world.send_keyed(KEYED, RS1, KEY)


def keyed_with(form: str) -> Do:
    """That tunnel with another key."""
    ends = f"local {BALANCER_IP} remote {LOCAL}"
    name = f"k{KEY}-{RS1}"
    again = [f"link del {name}", f"link add {name} type gre {ends} {form}", f"link set {name} up"]
    return balancer(*again, f"route add {KEYED} dev {name}")


def in_vrf(link: str, *back: str) -> tuple[Do, Do]:
    """The link belongs to a VRF; and it does not any more, with what it has lost by that put *back*."""
    made = ("link add blue type vrf table 100", "link set blue up", f"link set {link} master blue")
    return server(*made), server(f"link set {link} nomaster", "link del blue", *back)


def instead(name: str, serving: Callable[[], contextlib.AbstractContextManager[Any]]) -> Do:
    """Another application: see `FaultWorld.instead`."""
    return lambda scene: scene.instead(name, serving)


def again(name: str) -> Do:
    """The usual one is back."""
    return lambda scene: scene.again(name)


def hang(name: str) -> Do:
    """FreeRADIUS ("radius") or the "agent" has its sockets and does nothing."""
    return lambda scene: scene.process(name).send_signal(signal.SIGSTOP)


def unhang(name: str) -> Do:
    """It goes on."""
    return lambda scene: scene.process(name).send_signal(signal.SIGCONT)
