"""``tests/demo``: the main job on real traffic, for whoever sits at the screen."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.lab.agent import Agent, tunnel, vip
from tests.lab.drift import Drift, repair_of, shell, write
from tests.lab.eye import Eye
from tests.lab.ledger import duration
from tests.lab.servers import GRE, IPIP, PORT, WRAPPED, clean, streams, total
from tests.lab.traffic import Answer, Tally, ask_tcp, ask_udp, client_ip, echoes
from tests.lab.world import BALANCER_IP, CLIENT_IP, PORTS, RS1, RS2, SERVER_IP, SERVERS, world

CONFIG = tunnel("ipip") + tunnel("gre") + "".join(vip(virtual.address) for virtual in WRAPPED)

MEGABYTE = bytes(range(256)) * 4096
SLOW = 5.0  # nobody would call this a repair

DRIFTS = [
    Drift("ip link del dsr-ipip", IPIP, shell("ip link del dsr-ipip")),
    Drift("ip link del dsr-gre", GRE, shell("ip link del dsr-gre")),
    Drift("ip link set dsr-gre down", GRE, shell("ip link set dsr-gre down")),
    Drift(f"ip addr del {IPIP}/32 dev lo", IPIP, shell(f"ip addr del {IPIP}/32 dev lo")),
    Drift("dsr-ipip: rp_filter = 1", IPIP, write("ipv4/conf/dsr-ipip/rp_filter", 1)),
    Drift("dsr-gre: rp_filter = 1", GRE, write("ipv4/conf/dsr-gre/rp_filter", 1)),
]
KILLS = 3

PICTURE = f"""
   client  {CLIENT_IP} ──── router ──── {BALANCER_IP}  balancer (IPVS)
                              │
                              └──────── {SERVER_IP[RS1]}, {SERVER_IP[RS2]}  real servers (dsr-agent)
"""


@dataclass
class Screen:
    """What is printed; remembers whether anything failed."""

    failed: int = 0
    passed: int = 0
    table: list[tuple[str, str, str]] = field(default_factory=list)
    colours: bool = os.environ.get("TERM", "dumb") != "dumb" and "NO_COLOR" not in os.environ

    def paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colours else text

    def title(self, text: str) -> None:
        print(f"\n{self.paint('1', text)}", flush=True)

    def say(self, text: str) -> None:
        print(f"   {text}", flush=True)

    def quote(self, server: str, text: str) -> None:
        """A line of an agent's log, without its date."""
        for line in textwrap.wrap(text.split(" ", 2)[-1], 82, subsequent_indent="  "):
            print(self.paint("2", f"          {server} | {line}"), flush=True)

    def check(self, good: bool, text: str) -> None:
        """One thing that was to be shown, and whether it was."""
        self.passed += good
        self.failed += not good
        print(f"   {self.paint('32', 'ok    ') if good else self.paint('31', 'FAILED')} {text}", flush=True)

    @contextlib.contextmanager
    def progress(self, text: str) -> Iterator[None]:
        """Something that takes a while."""
        started = time.monotonic()
        print(f"   {text} ...", end="", flush=True)
        yield
        print(f" {duration(time.monotonic() - started)}", flush=True)


def main() -> int:
    """Show it; 0 if all of it could be shown."""
    screen = Screen()
    try:
        with contextlib.ExitStack() as stack:
            _show(screen, stack)
    except (Exception, KeyboardInterrupt) as error:
        screen.check(False, f"{type(error).__name__}: {error}")
    _end(screen)
    return 1 if screen.failed or not screen.passed else 0


def _show(screen: Screen, stack: contextlib.ExitStack) -> None:
    lane = {"uml": "user-mode Linux", "qemu": "a Debian machine under qemu", "here": "this host's own kernel"}
    kernel = f"Linux {platform.release()}, {lane.get(os.environ.get('DSR_LAB', ''), 'somewhere')}"
    print(screen.paint("1", f"dsr-agent, on real traffic ({kernel})"))
    print(PICTURE, end="", flush=True)

    screen.title("1. A balancer that wraps, and two real servers that know nothing of it")
    with screen.progress("five network namespaces, IPVS with an IPIP and two GRE services"):
        stack.enter_context(world(WRAPPED))
        for server in SERVERS:
            stack.enter_context(echoes(server, [virtual.address for virtual in WRAPPED], PORTS))
    eye = stack.enter_context(contextlib.closing(Eye(RS1)))
    screen.check(not _answers(), f"the client asks {IPIP}: no answer, as it has to be")

    screen.title("2. dsr-agent run, on both of them, with this file")
    for line in CONFIG.replace("\n\n", "\n").splitlines():
        screen.say(screen.paint("36", f"  {line}"))
    agents = {server: Agent(server, CONFIG) for server in SERVERS}
    with screen.progress("starting"):
        for agent in agents.values():
            stack.push(agent)
            agent.start(wait=False)
        for agent in agents.values():
            agent.wait_log("started: ")
            agent.settle()
    for agent in agents.values():
        screen.quote(agent.space, agent.wait_log("started: "))

    screen.title("3. The client talks to the VIPs")
    _talk(screen)

    screen.title(f"4. Somebody undoes it on {RS1}, under 250 packets a second")
    for drift in DRIFTS:
        _drift(screen, drift, eye, agents[RS1])

    screen.title(f"5. The agent on {RS1} is killed (-9) and started, {KILLS} times, under traffic")
    _kill(screen, agents[RS1])


def _answers() -> bool:
    try:
        ask_udp(IPIP, PORT, timeout=0.5)
    except TimeoutError:
        return False
    return True


def _talk(screen: Screen) -> None:
    ways: list[tuple[str, Callable[[str, int], Answer]]] = [("UDP", ask_udp), ("TCP", ask_tcp)]
    for virtual in WRAPPED:
        for server, port in ((RS1, 7001), (RS2, 7002)):
            for protocol, ask in ways:
                answer = ask(virtual.address, port)
                client = client_ip(virtual.address)
                good = (answer.seen, answer.server, answer.source) == (client, server, virtual.address)
                screen.check(
                    good,
                    f"{virtual.wrap.upper():4} {protocol} {virtual.address:15} -> {answer.server}: "
                    f"saw {answer.seen}, answered from {answer.source}",
                )
    started = time.monotonic()
    ask_tcp(IPIP, PORT, MEGABYTE)
    screen.check(True, f"1 MB over TCP there and back, unharmed, in {duration(time.monotonic() - started)}")


def _drift(screen: Screen, drift: Drift, eye: Eye, agent: Agent) -> None:
    mark = agent.mark()
    repair = repair_of(drift, eye)
    lost = _lost(repair.tally)
    screen.check(
        repair.seconds < SLOW and not repair.tally.wrong,
        f"{drift.what:32} right again after {duration(repair.seconds):>8}, {lost}",
    )
    for line in agent.said(mark).splitlines():
        screen.quote(agent.space, line)
    screen.table.append((drift.what, duration(repair.seconds), lost))


def _kill(screen: Screen, agent: Agent) -> None:
    with streams() as found:
        for _ in range(KILLS):
            agent.stop(signal.SIGKILL)
            agent.start()
        tally = total(found)
    for line in agent.log().splitlines()[-KILLS:]:
        screen.quote(agent.space, line)
    screen.check(clean(tally), _lost(tally))
    screen.table.append((f"kill -9 of the agent, {KILLS} times", "-", _lost(tally)))


def _lost(tally: Tally) -> str:
    if tally.wrong:
        return f"{tally.wrong} answers were wrong"
    gap = f" ({tally.longest_gap_ms:.0f} ms)" if tally.lost else ""
    return f"{tally.lost} of {tally.sent} lost{gap}"


def _end(screen: Screen) -> None:
    if screen.table:
        screen.title("What was undone")
        for what, again, lost in [("", "right again after", "packets"), *screen.table]:
            screen.say(f"{what:34} {again:>17}   {lost}".rstrip())
    verdict = f"{screen.failed} of {screen.failed + screen.passed} failed" if screen.failed else "all of it worked"
    screen.title(screen.paint("31" if screen.failed else "32", verdict))


if __name__ == "__main__":
    sys.exit(main())
